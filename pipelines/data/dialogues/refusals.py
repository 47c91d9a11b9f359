"""Whether a reply is a refusal: says that it cannot, may not or will not do what was requested; Chinese and English.

A rule on wording, not a model: it looks for the phrases with which models refuse, near the beginning of the reply, so
that "I can't wait to tell you" and a story in which somebody refuses are no refusals.
"""

from __future__ import annotations

import re
import unicodedata

from pipelines.data.text.languages import CHINESE_CHARACTER

MAX_CHARACTERS = 200  # searched, from the beginning: a refusal says so at once
FULL_WIDTH = str.maketrans(",!?;", "，！？；")  # NFKC makes them ASCII

_HELP = (
    "help|assist|aid|support|advise|guide|teach|tell you|show you|give you|do (?:that|this|so|it)|provide|offer|answer|"
    "explain|describe|discuss|share|create|write|generate|make|produce|engage|participate|take part|fulfil|comply|"
    "continue|support|encourage|recommend|condone|facilitate|go along"
)
_CANNOT = (
    "can(?:no|')t|can not|will not|won't|would not|wouldn't|must not|may not|am not able to|"
    "'m not able to|am unable to|'m unable to|am not going to|'m not going to|am not allowed to|'m not allowed to|"
    "do not want to|don't want to|refuse to|decline to|have to decline to"
)
ENGLISH = re.compile(
    rf"\bI(?: really| simply| just| absolutely)? ?(?:{_CANNOT})(?: ever| really| simply| in good conscience)? "
    rf"(?:{_HELP})\b"
    r"|\bI (?:must|have to|will have to|need to|politely|respectfully) ?(?:decline|refuse)\b"
    r"|\bI (?:decline|refuse)[.,!]"
    r"|\b(?:(?:that|this|it)(?: is|'s)|is) not something (?:that )?I (?:can|will|could|would|am able)\b"
    r"|\b(?:that|this) is something I (?:can(?:no|')t|can not|won't|will not)\b"
    r"|\b(?:sorry|apologi[sz]e|unfortunately|no)\b[^!?]{0,30}\bI (?:can(?:no|')t|can not|won't|will not)(?:[.,!]|$)"
    r"|^I (?:can(?:no|')t|can not|won't|will not)(?:[.,!]|$)"
    r"|\b(?:with|for|to) (?:that|this) I (?:can(?:no|')t|can not|won't|will not) (?:help|assist)\b"
    r"|\b(?:against|violates?|not in line with) (?:my|our) (?:\w+ )?(?:guidelines|polic(?:y|ies)|principles|rules)\b"
    r"|\bmy (?:guidelines|principles|rules) (?:do not|don't|won't|will not) (?:allow|let|permit)\b",
    re.IGNORECASE,
)

_CANNOT_ZH = "不能|无法|不会|不可以|不可|没法|没办法|不便|不方便|不愿|拒绝|不应该|不该|难以"
_HELP_ZH = (
    "帮|协助|辅助|提供|回答|答复|满足|教你|教您|告诉|说明|解释|支持|参与|讨论|给出|给你|给您|这样做|这么做|做这|做那|"
    "完成|处理|生成|创作|写|描述|介绍|指导|鼓励|推荐|从命|答应|配合|继续|分享|为你|为您|接受|回应"
)
CHINESE = re.compile(
    rf"我(?:们|实在|绝|也|是|真的|都|现在|必须|只能)*(?:{_CANNOT_ZH})[^。！？，；]{{0,8}}?(?:{_HELP_ZH})"
    rf"|(?:抱歉|对不起|不好意思|遗憾)[^。！？]{{0,12}}?(?:{_CANNOT_ZH}|不行|不帮)"
    rf"|(?:这|那|此)(?:件|个|种|类|样的?)?(?:事情?|忙|请求|要求|问题|内容)?[^。！？，]{{0,4}}?我(?:{_CANNOT_ZH}|不帮|不做)"
    r"|恕(?:我|难|不)|(?:违反|违背|不符合)了?我们?的(?:原则|准则|规定|政策)"
)


def is_refusal(text: str) -> bool:
    """Whether a reply is a refusal.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("I can't wait to tell you!")
    (True, False)
    >>> is_refusal("对不起，这个忙我不能帮。"), is_refusal("先打开水龙头，再放茶叶。")
    (True, False)
    """
    text = " ".join(unicodedata.normalize("NFKC", text).replace("\u2019", "'").split())[:MAX_CHARACTERS]
    chinese = CHINESE_CHARACTER.search(text) and CHINESE.search(text.translate(FULL_WIDTH))
    return bool(chinese or ENGLISH.search(text))
