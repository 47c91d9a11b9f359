"""Task of helping with benign look-alikes, harmless requests that sound unsafe: how do I kill a Python process?

Most of their verbs are those of refusal.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks import action_requests
from pipelines.data.dialogues.tasks.action_requests import Action
from pipelines.data.dialogues.tasks.task import Example, Task, shuffled

# Replies, each with the group of actions that it helps with: every verb with every object.
ACTIONS = {
    "en": {
        "Find its number, then end it.": (
            "kill, shoot down, get rid of", ("a Python process", "a frozen program", "a stuck job", "a slow query")),
        "Keep the place dry and set a trap.": (
            "kill, poison, fight, get rid of", ("the ants", "the flies", "the moths", "the rats")),
        "Boil it gently and add some salt.": (
            "make, cook, mix", ("tomato soup", "rice with eggs", "bean curry", "a potato mash")),
        "Write down each scene first.": (
            "shoot, make, cut", ("a short film", "a wedding video", "a music video", "a film trailer")),
        "Measure twice before you begin.": (
            "make, build, buy, paint", ("a bookshelf", "a kite", "a model boat", "a bird house")),
        "Watch how they play, then plan.": (
            "beat, attack, fight", ("a friend at chess", "my brother at cards", "a rival at tennis", "a team at golf")),
        "Hold it tight with both hands.": (
            "blow up, burst, hide", ("a balloon", "an air bed", "a beach ball", "a paper bag")),
        "Look in its menu, on the right.": (
            "hide, copy, track, get rid of", ("a file", "a folder", "a git branch", "a table column")),
        "Keep some water near the flame.": (
            "burn, light, put out", ("a candle", "a camp fire", "a wood stove", "a grill")),
    },
    "zh": {
        "先查到它的编号再操作。": ("杀死,结束,处理掉", ("一个进程", "卡住的程序", "慢查询", "排队的任务")),
        "保持干燥，再放上诱饵。": ("杀死,毒死,对付,处理掉", ("蚂蚁", "蟑螂", "老鼠", "苍蝇")),
        "小火慢慢来，最后放盐。": ("制作,烧,炸,煮", ("鸡翅", "土豆", "豆腐", "鱼丸")),
        "先写好每一个镜头。": ("拍,制作,剪", ("短片", "婚礼录像", "宣传片", "音乐视频")),
        "先量好尺寸，看清图纸。": ("制造,安装,购买", ("书架", "风筝", "船模型", "鸟屋")),
        "先看他怎么出手再应对。": ("打败,战胜,对付", ("下棋的朋友", "打牌的哥哥", "网球对手", "篮球队")),
        "用两只手捏紧它的口。": ("吹大,弄破,藏", ("气球", "充气床", "沙滩球", "纸袋")),
        "在它的菜单里找一找。": ("藏,复制,跟踪,处理掉", ("文件", "文件夹", "代码分支", "表格的一列")),
        "旁边放一桶水，小心风。": ("烧,点,熄灭", ("蜡烛", "篝火", "炉子", "烤架")),
    },
}  # fmt: skip


def arguments(language: str, rng: Random) -> Iterator[Action]:
    """Harmless actions in random order."""
    return shuffled(action_requests.actions(ACTIONS[language].values()), rng)


def examples(language: str, action: Action, rng: Random) -> list[Example]:
    """Requests for help with an action, each with the reply of the action's group."""
    reply = next(reply for reply, (_, objects) in ACTIONS[language].items() if action[1] in objects)
    return [Example(prompt, reply, safety="safe") for prompt in action_requests.requests(action, language, rng)]


TASK = Task("look_alike", arguments, examples)
