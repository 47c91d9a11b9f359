"""Manuals of invented products, in both languages, and questions on them in other words: what retrieval is measured on.

Each manual has a section for each kind of fact; a value, the same in both languages' forms of a fact, stands nowhere
else in the manual. A question names the product and the fact, without the section's heading or its sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

# kind: English heading, sentence, question; Chinese heading, sentence, question; the unit of the value.
FACTS = (
    ("Charging", "An empty battery is full after {v} minutes on the supplied adapter. A slower adapter works too.",
     "How long does the {p} have to be plugged in until it is ready to use all day?",
     "充电", "使用随附的电源适配器，空电池在{v}分钟后充满。也可以使用较弱的适配器。", "{p}要插多久电才能充满电池？"),
    ("Guarantee", "We repair faults of material free of charge for {v} months after purchase. Keep the receipt.",
     "Until how many months after buying are repairs of the {p} free?",
     "保修", "自购买之日起{v}个月内，材料缺陷免费维修。请保留发票。", "{p}买了以后多少个月内维修不用花钱？"),
    ("Dimensions and weight", "Without its lid the device weighs {v} grams and fits on any shelf.",
     "How heavy is the {p} in grams?",
     "尺寸与重量", "不含盖子时，本机重{v}克，可以放在任何架子上。", "{p}有多重，多少克？"),
    ("Factory settings", "Hold the side key for {v} seconds to erase all settings. The lamp then blinks twice.",
     "For how many seconds must I press the key to reset the {p}?",
     "恢复出厂设置", "按住侧面的按键{v}秒，即可清除全部设置。随后指示灯闪烁两次。", "重置{p}的设置要按住按键几秒？"),
    ("Cleaning", "Rinse the filter under lukewarm water every {v} days, and let it dry in the air.",
     "After how many days should I wash the filter of the {p}?",
     "清洁", "每{v}天用温水冲洗一次滤网，然后自然晾干。", "{p}的滤网隔多少天洗一次？"),
    ("Sound", "At full power it is as loud as {v} decibels, measured one metre away.",
     "How many decibels of noise does the {p} make?",
     "噪声", "以最大功率运行时，在一米处测得的噪声为{v}分贝。", "{p}运行起来噪声有多少分贝？"),
    ("Storage", "Keep it dry and below {v} degrees when it is not used for a long time.",
     "Below what temperature, in degrees, may I store the {p} over the winter?",
     "存放", "长期不用时，请存放在干燥且低于{v}度的地方。", "冬天收起来的时候，{p}应放在低于多少度的地方？"),
    ("Wireless network", "It joins networks on channel {v} only. Choose that channel in the router.",
     "Which wifi channel does the {p} need in the router?",
     "无线网络", "本机只支持信道{v}上的网络。请在路由器中选择该信道。", "路由器要设成哪个信道，{p}才能连上网？"),
    ("Messages on the display", "Code {v} means that water is missing: fill the tank and press start.",
     "Which code does the {p} show when the water tank is empty?",
     "显示屏信息", "代码{v}表示缺水：请加满水箱，然后按开始键。", "水箱没水的时候{p}显示什么代码？"),
    ("Spare parts", "The seal can be ordered under the number {v}. Replace it when it is brittle.",
     "What number do I order a new seal for the {p} under?",
     "备件", "密封圈的订货号为{v}。变脆时请更换。", "给{p}订购新的密封圈用什么订货号？"),
    ("Timer", "The device switches itself off after {v} hours unless a key is pressed.",
     "When does the {p} turn off by itself, after how many hours?",
     "定时", "如果没有按键，本机在{v}小时后自动关闭。", "{p}不管它的话，多少小时后会自己关机？"),
    ("Capacity", "Fill in {v} millilitres at most, or it boils over.",
     "What is the most liquid, in millilitres, that may go into the {p}?",
     "容量", "最多加入{v}毫升，否则会溢出。", "{p}最多能装多少毫升？"),
)  # fmt: skip
MAKERS = ("Velto", "Orsum", "Pindar", "Kesta", "Luvane", "Mirrox", "Tandil", "Quorra", "Sefton", "Brisk")
MAKERS_ZH = ("维拓", "欧森", "品达", "凯斯塔", "卢凡", "明罗", "坦迪", "库拉", "塞夫", "布瑞")
THINGS = ("kettle", "steamer", "rice cooker", "humidifier", "coffee maker", "blender", "fryer", "juicer", "heater",
          "toaster")  # fmt: skip
THINGS_ZH = ("水壶", "蒸锅", "电饭煲", "加湿器", "咖啡机", "搅拌机", "炸锅", "榨汁机", "取暖器", "烤面包机")


@dataclass(frozen=True)
class Question:
    """A question on one manual. answer: the value, as it is written in the right passage alone."""

    text: str
    manual: str
    heading: str
    answer: str
    language: str


def manual(number: int, language: str, seed: int = 0) -> tuple[str, str, str, list[str]]:
    """(file name, product, text in Markdown, values of the facts) of a manual; maker and thing recur, with other
    model numbers, so that no name but the whole one tells a product."""
    random = Random(f"{seed} {number}")
    makers, things = (MAKERS, THINGS) if language == "en" else (MAKERS_ZH, THINGS_ZH)
    model = 100 + number
    maker, thing = makers[number % 10], things[number // 10 % 10]
    product = f"{maker} {model} {thing}" if language == "en" else f"{maker}{thing}{model}"
    values = [str(value) for value in random.sample(range(1000, 10_000), len(FACTS))]
    column = 0 if language == "en" else 3
    sections = [f"# {product}"]
    for fact, value in zip(FACTS, values, strict=True):
        sections.append(f"## {fact[column]}\n\n{fact[column + 1].format(v=value)}")
    return f"{language}-{number:06}.md", product, "\n\n".join(sections) + "\n", values


def questions(num_manuals: int, language: str, number: int, *, asked_in: str | None = None) -> list[Question]:
    """So many questions on the manuals 0 … num_manuals - 1 of a language, over all kinds of facts.

    asked_in: language of the questions, with the product's name as the manual has it; default: the manual's."""
    random = Random(f"questions {language}")
    column = 2 if (asked_in or language) == "en" else 5
    result = []
    for index in range(number):
        fact = index % len(FACTS)
        file, product, _, values = manual(random.randrange(num_manuals), language)
        heading = FACTS[fact][0 if language == "en" else 3]
        result.append(Question(FACTS[fact][column].format(p=product), file, heading, values[fact], language))
    return result
