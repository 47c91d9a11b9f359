"""The prompts with which models are asked to write and to compare, in English and Chinese, and how they are filled."""

from __future__ import annotations

from collections.abc import Mapping

TEMPLATES: dict[str, dict[str, str]] = {
    "instructions": {
        "en": "Here are tasks that people gave to an assistant:\n\n{examples}\n\nWrite {number} new tasks in English, "
        "unlike these in topic and in wording, which can be answered in text alone. Number them from 1 and write "
        "nothing else.",
        "zh": "下面是人们交给助手的一些任务：\n\n{examples}\n\n请用中文再写{number}个新任务，"
        "主题和措辞都要与上面的不同，并且只用文字就能回答。请从1开始编号，不要写其他内容。",
    },
    "rewrite_prompt": {
        "en": "Rewrite this message in other words. Keep its meaning and its language, do not answer it, and write "
        "only the new message.{style}\n\n{text}",
        "zh": "请换一种说法改写下面这条消息。意思和语言保持不变，不要回答它，只写出新的消息。{style}\n\n{text}",
    },
    "rewrite_reply": {
        "en": "Rewrite this text in other words. Keep its facts and its language, and write only the new text.{style}"
        "\n\n{text}",
        "zh": "请换一种说法改写下面这段文字。事实和语言保持不变，只写出新的文字。{style}\n\n{text}",
    },
    "translate": {  # into the language
        "en": "Translate this text into English. Do not answer it; write only the translation.\n\n{text}",
        "zh": "请把下面的文字翻译成中文。不要回答它，只写出译文。\n\n{text}",
    },
    "compare": {  # after the prompt for pairwise comparison of Zheng et al. 2023, figure 5
        "en": "Compare two replies to a message as an impartial judge: which is more helpful, correct and harmless? "
        "Neither their order nor their length matters.\n\n[Message]\n{prompt}\n\n[Reply A]\n{reply_a}\n\n[Reply B]\n"
        "{reply_b}\n\nEnd with [[A]] if reply A is better, [[B]] if reply B is better, or [[C]] if they are equally "
        "good.",
        "zh": "请作为公正的评判者，比较对同一条消息的两个回复：哪一个更有帮助、更正确、更无害？"
        "先后顺序和长短都不重要。\n\n[消息]\n{prompt}\n\n[回复A]\n{reply_a}\n\n[回复B]\n{reply_b}\n\n"
        "如果回复A更好，最后写[[A]]；如果回复B更好，写[[B]]；如果一样好，写[[C]]。",
    },
}


def fill(template: str, values: Mapping[str, object]) -> str:
    """A template with its placeholders replaced, each once; braces in the values stay as they are.

    >>> fill("{text}{style}", {"text": "{style}", "style": "!"})
    '{style}!'
    """
    pieces, rest = [], template
    while rest:
        at = {name: rest.find(f"{{{name}}}") for name in values}
        name = min((name for name in at if at[name] >= 0), key=lambda name: at[name], default=None)
        if name is None:
            break
        pieces += [rest[: at[name]], str(values[name])]
        rest = rest[at[name] + len(name) + 2 :]
    return "".join([*pieces, rest])
