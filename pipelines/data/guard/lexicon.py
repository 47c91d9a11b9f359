"""A lexicon that the guard is trained on besides conversations: unsafe and harmless actions, as verbs and objects.

    verbs × objects ──a sample of each line's combinations──► actions ──TEMPLATES──► texts

A linear model adds the weights of a verb and of its object, so each verb also occurs with harmless objects and each
object with harmless verbs: only the combination is unsafe. The words are chosen by their meaning, not from any test.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

MAX_ACTIONS = 60  # of a line

_EN_PEOPLE = (
    "my neighbor|my boss|a policeman|my wife|my husband|a teacher|my classmate|someone|a stranger|a child|my roommate|"
    "a politician|an old woman|an old man|my brother|my ex|my girlfriend|people in a crowd|a judge|a doctor|my friend|"
    "the mayor|a man|a woman|a girl|a boy|my parents|a guest|my neighbor's dog"
)
_EN_THINGS = (
    "a car|a bicycle|a phone|a wallet|a watch|a house|an office|a shop|a bank|a school|a church|a train|a plane|"
    "a bridge|money|jewels|a letter|a knife|a rope|water|wood|paper|a door|a window|a garden|a dog|a computer|a bag"
)
_ZH_PEOPLE = (
    "邻居|老板|警察|妻子|丈夫|老师|同学|别人|陌生人|孩子|室友|市长|老人|弟弟|前女友|女朋友|路人|法官|医生|朋友|一个男人|"
    "一个女人|一个女孩|父母|客人|商人|邻居的狗|全家"
)
_ZH_THINGS = (
    "汽车|自行车|手机|钱包|手表|房子|办公室|商店|银行|学校|教堂|火车|飞机|大桥|钱|珠宝|信|刀|绳子|水|木头|纸|门|窗户|花园|"
    "电脑|书包|小狗"
)

# Each line: verbs, objects, separated by `|`. English puts a space between verb and object, Chinese none.
UNSAFE: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("kill|murder|poison|stab|strangle|shoot|beat up|beat|hurt|attack|kidnap|torture|drown|run over|rape",
         _EN_PEOPLE),
        ("stalk|spy on|secretly track|secretly follow|threaten|blackmail|drug|harass", _EN_PEOPLE),
        ("make|build|assemble|set off|plant|buy|throw",
         "a bomb|a pipe bomb|explosives|a grenade|nerve gas|poison gas|a car bomb|a silencer|an illegal gun|"
         "a deadly poison|a fire bomb|a dirty bomb|a landmine"),
        ("cook|make|sell|smuggle|grow|buy|deal",
         "meth|heroin|crack cocaine|cocaine|illegal drugs|fentanyl|opium|ecstasy|drugs at school"),
        ("steal|rob|break into|snatch",
         "a bank|a shop|someone's car|a wallet from a bag|a house at night|jewels|a bicycle|a museum|"
         "a jewelry store|a gas station|my neighbor's house|an old man's money|a credit card number|"
         "medicine from a hospital|a parked car"),
        ("hack|hack into|take over|spy on|crack",
         "a bank account|someone's email|my ex's phone|the school's computers|a hospital's network|"
         "a stranger's webcam|my wife's messages|a company's servers|a credit card|an election|my boss's account"),
        ("burn|burn down|set fire to|blow up|bomb",
         "a school|a church|my neighbor's house|a shop|a bridge|a train|a plane|my house for the insurance|"
         "a police station|a forest|an embassy|a hospital"),
        ("forge|fake|counterfeit|print false|sell fake",
         "a passport|banknotes|a signature|an ID card|a prescription|a diploma|money|a doctor's note|a will|medicine"),
        ("scam|cheat|trick|swindle",
         "old people out of their savings|a widow out of her house|the insurance company|the tax office|"
         "people with fake mails"),
        ("bribe|blackmail|threaten", "a judge|a policeman|an official|a witness|my boss|a customs officer|the mayor"),
        ("write|spread|send|program",
         "a computer virus|ransomware|a keylogger|phishing mails|malware that steals passwords|"
         "hate against foreigners|a threat to my teacher|blackmail letters|lies to ruin my colleague|a trojan"),
        ("hide|get rid of|destroy",
         "a body|a corpse|stolen goods|a murder weapon|evidence of a crime|drug money|stolen jewels|bloody clothes"),
        ("smuggle|sell|buy",
         "guns|weapons without a license|ivory|stolen phones|people across the border|a human kidney|drugs"),
        ("cut|harm|hurt|starve", "myself|my wrists|my own arm|my child|my little sister"),
        ("cut|damage|sabotage", "the brakes of his car|my boss's brakes|the rails before a train|a power line"),
        ("kill|hang|poison", "myself|my children|my whole family"),
        ("beat|hit|lock up|slap", "my child|my wife|my girlfriend|an old man|my little brother|my grandmother"),
        ("launder", "money|drug money|stolen cash"),
        ("get",
         "drugs without a prescription|a gun without a license|a girl drunk to sleep with her|away with murder"),
    ),
    "zh": (
        ("杀死|杀害|谋杀|毒死|捅死|勒死|射伤|打伤|伤害|绑架|折磨|淹死|撞死|强奸|暗杀", _ZH_PEOPLE),
        ("偷偷跟踪|跟踪|偷拍|威胁|敲诈|迷晕|骚扰|恐吓|偷窥", _ZH_PEOPLE),
        ("制造|制作|组装|引爆|安放|自制|买到",
         "炸弹|炸药|手榴弹|毒气|燃烧瓶|汽车炸弹|消音器|假枪支弹药|剧毒|地雷|土枪|土炸弹"),
        ("制作|制造|贩卖|走私|种植|买|合成", "冰毒|海洛因|可卡因|毒品|鸦片|摇头丸|大麻|芬太尼"),
        ("偷|抢|盗走|抢劫|偷走",
         "银行|商店|别人的汽车|老人的钱包|邻居家|珠宝店|自行车|博物馆的画|别人的手机|金库|加油站|医院的药|"
         "别人的存款|金店"),
        ("盗取|破解|入侵|监控|黑进",
         "银行账户|别人的邮箱|前任的手机|学校的系统|医院的网络|陌生人的摄像头|妻子的聊天记录|公司的服务器|"
         "信用卡密码|老板的账号|政府网站"),
        ("烧掉|放火烧|烧|炸毁|炸|爆破",
         "学校|教堂|邻居的房子|商店|大桥|火车|飞机|自己的房子骗保险|警察局|森林|大使馆|医院"),
        ("伪造|假冒|印|卖假的", "护照|钞票|签名|身份证|处方|学历|公章|病历|遗嘱|发票"),
        ("骗|骗走|诈骗|骗取",
         "老人的存款|朋友的钱|保险公司的赔款|银行贷款|别人的房子|网友的钱|国家的补贴|寡妇的积蓄"),
        ("贿赂|收买|要挟", "法官|警察|官员|证人|老板|海关|市长|考官"),
        ("编写|传播|发送|制作",
         "电脑病毒|勒索病毒|盗号木马|钓鱼邮件|偷密码的软件|仇恨外国人的文章|诈骗短信|恐吓信|毁人名声的谣言"),
        ("藏|处理掉|销毁|藏匿", "尸体|赃物|凶器|犯罪证据|赃款|偷来的珠宝|带血的衣服|毒资"),
        ("走私|倒卖|买卖", "枪支|武器|象牙|偷来的手机|人口|人体器官|毒品|文物"),
        ("割|伤害|饿坏", "自己的手腕|自己|自己的胳膊|自己的孩子|妹妹"),
        ("剪断|破坏|弄坏", "他的刹车|老板的刹车|铁轨|高压电线"),
        ("毒打|打|虐待|关起来", "孩子|老婆|女朋友|老人|弟弟|奶奶"),
        ("洗", "黑钱|毒资|赃款"),
        ("撬开", "别人家的门|邻居的保险箱|别人的汽车|银行的金库|商店的门锁"),
    ),
}  # fmt: skip
SAFE: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("thank|visit|call|greet|photograph|talk to|help|draw|invite|teach|meet|understand|write a letter to|"
         "make friends with|find a gift for|cook for|apologize to|play chess with|say goodbye to|become",
         _EN_PEOPLE),
        ("buy|sell|paint|draw|clean|repair|describe|choose|wash|find|carry|insure|store|take a photo of|"
         "write a story about",
         _EN_THINGS),
        ("kill",
         "weeds|germs|bacteria|time|mold|a process|a frozen task|the engine|an hour|ants in the kitchen|lice|"
         "a background job|a bad smell|mosquitoes|a program that hangs|a zombie process|fleas|a virus on my computer"),
        ("poison", "rats in the cellar|weeds|ants|cockroaches"),
        ("make|bake|cook|fry|prepare",
         "bread|a cake|soup|rice|noodles|fish|potatoes|a salad|pasta|crab|eggs|chicken|jam|pancakes|coffee|beans|"
         "lamb|corn"),
        ("make|build|fold|sew",
         "a paper boat|a kite|a lamp|a birdhouse|a shelf|a dress|candles|a bath bomb|soap|a toy|a website|a snowman|"
         "a fire alarm|a model rocket|a volcano for school|stage smoke|fake snow|a tent|a chair|a mask for a play|"
         "a puppet"),
        ("steal", "second base|the show|a scene|a base|a kiss on stage|a look at the menu|the ball in basketball"),
        ("hack",
         "my morning routine|together a prototype|a path through the bushes|my own game for fun|a quick script|"
         "my sleep"),
        ("burn",
         "a DVD|wood|calories|fat|incense|a candle|old leaves safely|sugar for a dessert|paper in a stove|a CD"),
        ("forge",
         "iron|a horseshoe|a knife from steel|a friendship|a bond with my team|a gate|a sword for a museum|a chain|"
         "nails"),
        ("track|follow",
         "a parcel|my sleep|expenses|a flight|my steps|a comet|animals|my weight|a recipe|the news|a storm|"
         "the stars|my habits|an order|a bug in my code|changes in a file"),
        ("break|break into|break in",
         "a habit|the ice|a new job|new shoes|a record|the film business|a chocolate bar|a code into parts|bread|"
         "a new market|a loop"),
        ("beat",
         "eggs|a drum|cream|the heat|the traffic|my friend at chess|a video game|the clock|a carpet|a record|"
         "the last level|stress|a champion at tennis"),
        ("hide",
         "a file|a present|cables|a column|a scar with make-up|easter eggs|a folder|my screen|a row in a table|"
         "a surprise|a window in the code|wires behind a desk"),
        ("shoot",
         "a photo|a film|a free throw|a goal|hoops|an arrow at a target|a video|a basketball|portraits|"
         "stars at night"),
        ("write",
         "a novel|a poem|a crime story|a letter|an essay|a test|a speech|a thank-you note|a unit test|a play|a song|"
         "a book about a bank robbery|a report|a program|a letter to a judge|a diary|a function|a virus scanner"),
        ("blow up|inflate", "a balloon|a photo|an air bed|a beach ball|a rubber boat|a tire|a picture"),
        ("cut", "onions|my hair|a cake|costs|grass|paper|a film|bread|the hedge|glass|a tree branch|prices|a video"),
        ("explain|study|learn about|prevent|stop|report|write an essay on|protect my family from",
         "bank robberies|drugs|bombs in the war|murder in novels|hackers|theft|poison|suicide|violence|forged money|"
         "stalkers|kidnapping|fires|viruses"),
        ("what is|explain|tell me about|who invented|why do people like|give me a short summary of|where do I find|"
         "translate a text about|what do you think of|recommend a book on",
         "France|photosynthesis|spring|the telephone|quantum physics|the weather|London|mathematics|history|"
         "a hash table|the sky|the First World War|English grammar|love|democracy|the stock market|machine learning|"
         "the human heart|jazz|the moon|football|breakfast|the police|my dog's illness|a treatment for a burn|"
         "a raise at work"),
        ("install|use|learn|configure|update|test|uninstall|run|read about|debug",
         "a library|the program|Python|a database|my printer|an editor|a plugin|the server|a driver|"
         "the editor's settings"),
        ("get", "a haircut|a visa|better at chess|rid of stains|up early|to the airport|a library card|over a cold"),
        ("fake|trick", "a smile for a photo|snow on a film set|fur|my dog into taking pills|myself into getting up"),
        ("crack|pick|open",
         "an egg|a nut|apples|a jar|a puzzle|a bottle|my own lock when I lost the key|flowers|a coconut"),
        ("grow|sell|buy", "tomatoes|flowers|herbs|apples|old books|my bike|vegetables|wheat|a used car|potatoes"),
    ),
    "zh": (
        ("感谢|拜访|打电话给|问候|帮助|画|邀请|教|认识|理解|写信给|送礼物给|请教|陪伴|安慰|照顾|找到|成为",
         _ZH_PEOPLE),
        ("买|卖|画|打扫|修理|描写|挑选|清洗|寻找|搬|保养|收拾|拍摄|介绍", _ZH_THINGS),
        ("杀死|消灭|清除",
         "细菌|害虫|进程|杂草|蚊子|卡住的程序|病毒细胞|后台任务|霉菌|跳蚤|蚂蚁|花盆里的虫子|电脑病毒"),
        ("毒死", "老鼠|蟑螂|蚂蚁|害虫"),
        ("制作|做|制造",
         "蛋糕|面包|风筝|肥皂|灯笼|酸奶|纸花|木椅|玩具|惊喜|气氛|手工|网站|视频|豆腐|果酱|模型飞机|烟雾效果|雪人|"
         "陶碗|蜡烛|浴盐|面具|皮影"),
        ("烧", "水|菜|鱼|陶器|茄子|炭|香|柴火|肉|汤|热水|砖"),
        ("打", "鸡蛋|羽毛球|太极拳|领带|篮球|电话|字|乒乓球|毛衣|鼓|扑克|雨伞|招呼|扫|包"),
        ("抢", "红包|火车票|篮板|座位|球|优惠券|演唱会门票|先手|时间|头香"),
        ("偷", "懒|闲|师学艺|看一眼答案解析|空休息|垒"),
        ("藏", "书|一份礼物|文件|彩蛋|私房菜谱|电线|宝游戏|酒|东西给孩子找|一列表格"),
        ("炸", "薯条|鸡翅|油条|丸子|鱼|虾|花生|豆腐|春卷|爆米花"),
        ("骗", "小狗吃药|过守门员|自己早起|小猫洗澡|孩子多吃蔬菜|过对手的防守"),
        ("射", "箭|门|中靶心|篮|飞镖|气球|星星的照片"),
        ("编写|写",
         "网页|小游戏|测试|小说|作文|诗|脚本|程序|邮件|剧本|侦探小说|感谢信|求职信|日记|杀毒软件|给法官的信|函数"),
        ("跟踪|追踪", "快递|彗星|错误|开支|进度|航班|订单|睡眠|鸟类迁徙|步数|代码改动|台风|体重"),
        ("撬开|打开", "核桃|油漆桶|牡蛎|罐头|椰子|瓶盖|自己忘带钥匙的门|贝壳|啤酒"),
        ("剪断|剪|切|割", "头发|纸花|洋葱|蛋糕|布料|草|视频|麦子|毛线|玻璃|树枝"),
        ("伪造|仿制", "古旧的纸做道具|下雪的效果|古画练习|舞台上的假血|大理石花纹"),
        ("解释|研究|了解|预防|防止|举报|写文章讲",
         "银行抢劫案|毒品的危害|战争里的炸弹|小说里的谋杀|黑客攻击|偷窃|中毒|自杀|暴力|假钞|跟踪狂|绑架|火灾|诈骗|"
         "病毒"),
        ("种|卖|买", "番茄|花|苹果|旧书|蔬菜|小麦|二手车|土豆|茶叶|药草"),
        ("什么是|请介绍|说说|为什么有|谁发明了|讲讲|总结一下|推荐一本书讲|翻译一段话讲|怎么看待",
         "北京|光合作用|春天|电话|量子物理|天气|英语语法|数学|历史|爱情|股票市场|机器学习|心脏|音乐|月亮|足球|早饭|"
         "警察|感冒|加薪|老板|红烧肉|唐诗|睡眠|笑话"),
        ("安装|使用|学|设置|更新|测试|卸载|运行|调试",
         "软件|程序|数据库|打印机|编辑器|插件|服务器|驱动|英语|游泳|编程"),
        ("破解|攻克", "谜题|数独|魔方|一道难题|古文字|技术难关"),
        ("洗", "衣服|碗|头发|车|水果|手|杯子|毛衣"),
    ),
}  # fmt: skip

TEMPLATES = {
    "en": (
        "How do I {}?", "Tell me how to {}.", "I want to {}. How?", "What is the best way to {}?", "{}", "How to {}",
        "Help me {}.", "Give me instructions to {}.", "Can you {} for me?", "First, {}. Then",
    ),
    "zh": (
        "怎么{}？", "请教我{}。", "我想{}，该怎么做？", "{}有什么好办法？", "{}", "如何{}", "帮我{}。", "{}的方法",
        "怎样{}？", "第一步，{}，然后",
    ),
}  # fmt: skip
"""Requests for help with an action; the last of each language is how a reply would begin."""


def actions(language: str, *, seed: int) -> Iterator[tuple[str, bool]]:
    """(action, whether it is unsafe): up to MAX_ACTIONS of each line, the same for the same seed."""
    separator = " " if language == "en" else ""
    for unsafe, lines in ((True, UNSAFE[language]), (False, SAFE[language])):
        for number, (verbs, objects) in enumerate(lines):
            rng = Random(f"{seed}/{language}/{unsafe}/{number}")
            combined = [f"{verb}{separator}{object_}" for verb in verbs.split("|") for object_ in objects.split("|")]
            for action in sorted(rng.sample(combined, min(MAX_ACTIONS, len(combined)))):
                yield action, unsafe


def requests(action: str, language: str, *, seed: int) -> list[str]:
    """An action in three of the templates, the same ones for the same seed."""
    return [template.format(action) for template in Random(f"{seed}/{action}").sample(TEMPLATES[language], 3)]
