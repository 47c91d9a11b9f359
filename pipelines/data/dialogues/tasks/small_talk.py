"""Task of small talk: greetings, thanks, names, tastes and moods, which are also the held-out arguments."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipelines.data.dialogues.tasks.task import Example, Task, shuffled

# (prompt templates, reply template, values); `{}` is the value.
SLOTS = {
    "en": (
        (("Hello, I am {}.", "Hi! My name is {}.", "I am {}, and you?"), "Nice to meet you, {}!",
         ("Anna", "Tom", "Mary", "Peter", "Lucy", "Jack", "Emma", "Paul", "Alice", "Mark", "Rose", "Sam", "Kate", "Ben",
          "Nora", "Max", "Eva", "Leo", "Jane", "Bob")),
        (("I like {}.", "I love {}!", "My hobby is {}."), "Tell me more about {}!",
         ("music", "football", "reading", "cooking", "chess", "painting", "running", "dancing", "films", "gardening",
          "history", "cycling", "fishing", "swimming", "singing", "hiking")),
        (("I am {} today.", "I feel {}.", "We are all {}."), "I am glad to hear that!",
         ("happy", "well", "very happy", "fine", "excited", "in love", "lucky", "in a good mood")),
        (("I am {} today.", "I feel {}.", "We are all {}."), "I hope it gets better soon.",
         ("sad", "tired", "ill", "very tired", "bored", "lonely", "worried", "in a bad mood")),
    ),
    "zh": (
        (("你好，我叫{}。", "我是{}，你呢？", "大家都叫我{}。"), "很高兴认识你，{}！",
         ("小明", "小红", "小华", "小林", "小美", "小刚", "小雨", "小云", "老王", "老李", "老张", "老陈", "大山",
          "大海", "阿明", "阿花", "阿春", "阿华", "小月", "小文")),
        (("我喜欢{}。", "我很爱{}！", "我的爱好是{}。"), "多和我说说{}吧！",
         ("音乐", "足球", "读书", "做菜", "下棋", "画画", "跑步", "跳舞", "电影", "种花", "历史", "骑车", "钓鱼",
          "游泳", "唱歌", "爬山")),
        (("我今天{}。", "我觉得{}。", "我们都{}。"), "听你这么说，真好！",
         ("很高兴", "很开心", "很好", "很快乐", "很幸运", "很满意", "心情好", "很轻松")),
        (("我今天{}。", "我觉得{}。", "我们都{}。"), "希望很快就会好起来。",
         ("很难过", "很累", "不舒服", "很无聊", "很孤单", "很担心", "心情不好", "很紧张")),
    ),
}  # fmt: skip
# Replies, each with the phrases that it answers.
PHRASES = {
    "en": {
        "Hello! What can I do for you?": ("Hello!", "Hi!", "Hello there!", "Good morning!", "Good evening!", "Hey!",
                                          "Hi there!", "Good day!"),
        "You are welcome!": ("Thank you!", "Thanks!", "Many thanks!", "Thanks a lot!", "Thank you very much!",
                             "That helped, thanks.", "Thanks for your help!", "Great, thank you!"),
        "Goodbye, see you soon!": ("Bye!", "Goodbye!", "See you!", "I have to go now.", "Good night!", "Bye bye!",
                                   "See you tomorrow!", "That is all for today."),
        "I am well, thank you. And you?": ("How are you?", "How are you doing?", "Are you well?", "How is it going?",
                                           "How do you feel?", "How was your day?", "Is all well?", "What is up?"),
        "Sure, what shall we talk about?": ("Can we talk?", "Let us chat.", "Shall we talk a little?", "Chat with me.",
                                            "Do you have time?", "I want to talk.", "Can I ask you something?",
                                            "May I ask a question?"),
    },
    "zh": {
        "你好！有什么可以帮你？": ("你好！", "您好！", "早上好！", "晚上好！", "嗨！", "大家好！", "下午好！",
                                   "在吗？"),
        "不用客气！": ("谢谢！", "谢谢你！", "多谢！", "非常感谢！", "太谢谢了！", "谢谢你的帮助！",
                       "好的，谢谢。", "辛苦了！"),
        "再见，下次再聊！": ("再见！", "拜拜！", "明天见！", "我要走了。", "晚安！", "下次见！",
                             "今天就到这里。", "回头见！"),
        "我很好，谢谢。你呢？": ("你好吗？", "你怎么样？", "最近好吗？", "今天过得怎么样？", "你还好吗？",
                                 "一切都好吗？", "近来如何？", "过得好吗？"),
        "好啊，我们聊点什么？": ("我们聊聊吧。", "陪我聊天。", "能和我说说话吗？", "你有时间吗？", "我想聊天。",
                                 "可以问你一个问题吗？", "我有个问题。", "聊一会儿好吗？"),
    },
}  # fmt: skip


def arguments(language: str, rng: Random) -> Iterator[tuple[tuple[str, ...], str]]:
    """(prompts, reply) in random order: all prompts with one value together, each fixed phrase by itself."""
    filled = [
        (tuple(template.format(value) for template in templates), reply.format(value))
        for templates, reply, values in SLOTS[language]
        for value in values
    ]
    fixed = [((phrase,), reply) for reply, phrases in PHRASES[language].items() for phrase in phrases]
    return shuffled(filled + fixed, rng)


def examples(language: str, argument: tuple[tuple[str, ...], str], rng: Random) -> list[Example]:
    """An example for each prompt of the argument."""
    prompts, reply = argument
    return [Example(prompt, reply) for prompt in prompts]


TASK = Task("small_talk", arguments, examples)
