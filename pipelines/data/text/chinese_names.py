"""Names of people in Chinese texts, by family names and by what stands beside them: labels, titles, letters.

cue (姓名：, 我叫, 亲爱的, 此致敬礼) ──► family name and one or two characters ─┐
title (先生, 老师, 经理) ──► the same before it, or the family name alone ───────┴──no word of the lists──► a name
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.data.text.name_words import (
    BEFORE_TITLE,
    CHINESE_COMPOUND,
    CHINESE_FAMILY,
    CHINESE_FUNCTION,
    NO_CHINESE_NAME,
    RARE_CHINESE_FAMILY,
)

HAN = "\u4e00-\u9fff"
COMPOUND = "|".join(CHINESE_COMPOUND)
TITLES = (
    "先生|女士|小姐|太太|夫人|老师|教授|博士|医生|大夫|医师|护士|经理|总监|主任|校长|院长|处长|科长|局长|所长"
    "|律师|警官|法官|师傅|阿姨|叔叔|大爷|大妈|大叔|大姐|大哥|奶奶|爷爷|同学|同志|秘书|会计|工程师|教练|老板|导师"
    "|店长|医師|老師|經理|某"
)
GIVEN = f"(?:(?!{TITLES}|[{CHINESE_FUNCTION}])[{HAN}])"  # a character of a given name
FOREIGN = f"[{HAN}]{{1,8}}(?:[·•][{HAN}]{{1,8}}){{1,4}}"
ANY_FAMILY = f"(?:{COMPOUND}|[{CHINESE_FAMILY}{RARE_CHINESE_FAMILY}])"
COMMON_FAMILY = f"(?:{COMPOUND}|[{CHINESE_FAMILY}])"
TITLE = re.compile(f"{TITLES}|总(?![结共是体部要会数统理裁算额量之和有在能而归得局的])|[姐哥](?![姐哥妹弟夫们儿伦特])")
AFTER_GIVEN = frozenset("总姐哥某")  # titles of one character stand after the family name alone
# Family names that end other words (允许医生, 用于老师): names after a sign or one of BEFORE_NAME.
OFTEN_NO_FAMILY = frozenset(
    "于许何方高安金史文常易万管包单华房路游温康施季夏江龙章纪曾莫宁尚庄段石钟陆范付任程余林童焦连时关严齐成左明"
)
BEFORE_NAME = frozenset("的和与跟给找请对问是让叫把被见到了您你我他她及为由是着")
# What may follow a name where no sign does.
FOLLOWING = (
    "今天|昨天|明天|前天|今年|去年|刚|在|是|说|的|和|与|来自|已|也|还|很|将|曾|有|要|请|想|住|因|让|称|投诉"
    "|反映|离职|毕业|了|到|家|把|被|给|从|向|带|做|当|去|上|先生|女士|小姐|同志|同学|老师|你|您|我|申请|现|年|结婚|生|敬|谨"
)
ENDED = f"(?=[^{HAN}·•]|$)"
FOLLOWED = f"(?=[^{HAN}·•]|$|{FOLLOWING})"
# Labels of forms that begin the lines of chats, too: what follows may be what somebody says (用户：查天气).
SPEAKERS = (
    "患者|病人|病员|客户|家长|学生|业主|租客|房东|司机|医师|医生|护士长?|老师|班主任|教师|辅导员|快递员|负责医生|父亲|母亲"
    "|丈夫|妻子|儿子|女儿|老公|老婆|妈妈|爸爸|用户名?|会员"
)
SIGNS = "[ \"“”'*_]{0,5}"  # of blanks, of JSON, of Markdown
LABEL = re.compile(
    "(?:姓[ ]?名|联系人|收[件货]人|寄[件货]人|发[件货]人|取件人|申请人|代表人|开户名|户名|持卡人"
    "|开卡人|报修人|报案人|投诉人|签名|签字\\)?|签到|参会人员|出席|缺席|与会者|嘉宾|经办人|负责人|主管|户主"
    "|监护人|陪同人|原告|被告人?|甲方|乙方|代理人|委托人|受托人|证人|记录人|主持人|被保险人|投保人|受益人|乘客|旅客|订餐人|预订人"
    "|入住人|联络人|接待人|值班人?|审核|审批人?|制表人?|填表人|责任编辑|配偶|子女|本人|聯繫人"
    f"|{SPEAKERS}){SIGNS}[:：]{SIGNS}"
)
IS_SPEAKER = re.compile(SPEAKERS)
NAME_LABEL = re.compile("姓[ ]?名")
LISTED = re.compile(f"({FOREIGN}|{ANY_FAMILY}{GIVEN}{{1,2}}){ENDED}")
SPOKEN = re.compile(  # after a speaker: the full name alone, or before the next field of a form
    f"({FOREIGN}|(?![{''.join(sorted(OFTEN_NO_FAMILY))}]){COMMON_FAMILY}{GIVEN}{{1,2}})"
    f"(?=[ \"”'*_]*(?:$|\n|[，,；;、 ][ ]*(?:[男女0-9]|[{HAN}]{{2,4}}[:：])))"
)
STRANGE = re.compile(f"([{HAN}]{{2,5}}){ENDED}")  # after 姓名：, whatever the family name
INTRODUCED = re.compile(
    "(?:姓名|我叫|名叫|我的名字[是叫]|名字叫|[他她]叫|叫做|本人|我是|[我他她](?:的)?(?:妈妈?|爸爸?|母亲|父亲"
    "|哥哥?|姐姐?|弟弟?|妹妹?|爷爷|奶奶|老公|老婆|丈夫|妻子|儿子|女儿|孩子|男友|女友|男朋友|女朋友|朋友|同学|同事|室友|邻居|老板|领导|学生|导师"
    "|表[哥姐弟妹]|叔叔|舅舅|老师|客户|徒弟|师傅)|邻居|同事|客户|业主|用户|会员|患者|病人|学生|快递员|护士|护士长|司机|员工|职工|房东"
    "|租客|收货人|收件人|报案人|投诉人|户主|被告人|原告人?|证人|村民|居民|转告|通知|兹证明|学员|记者|交给了?|给了|我姓|@)"
    "(?:业主|家长|客户|学生|快递员|司机|护士)?[ ]?"
    f"({FOREIGN}|{COMMON_FAMILY}{GIVEN}{{1,2}}?{FOLLOWED})"
)
NICKNAME = re.compile(f"(?:我叫|名叫|名字[是叫])([小阿]{GIVEN}){FOLLOWED}")
MY_FAMILY_NAME = re.compile(f"(?:我|免贵|本人)姓({ANY_FAMILY}){ENDED}")
GREETED = re.compile(
    f"(?:(?:亲爱的|敬爱的|尊敬的)({COMMON_FAMILY}{GIVEN}{{1,2}}|[小阿][{HAN}]|([{HAN}])\\2)(?=[：:，,！!])"
    f"|(?:^|[\\n。！!？?])[ ]*({COMMON_FAMILY}{GIVEN}{{1,2}}?)(?=[，, ]?[你您]好))"
)
UNDER = f"[！!。，,]?[ ]*\n\\s{{0,4}}(?:[{HAN}]{{1,4}}[：: ][ ]?)?"
SIGNED = re.compile(
    "(?:敬礼|祝好|商祺|台安|顺安|安好|祝福|此致|顺利|健康|快乐|愉快|进步|学安|教安|春安|夏安|秋安|冬安|大安|您的学生[：:])"
    f"{UNDER}({ANY_FAMILY}{GIVEN}{{1,2}}|小[{HAN}]){ENDED}"
)
THANKED = re.compile(  # as requests end, too: 谢谢, and under it what is asked for
    f"(?:谢谢|多谢|感谢){UNDER}({COMMON_FAMILY}{GIVEN}{{1,2}}|小[{HAN}]){ENDED}"
)
SIGNATURE = re.compile(
    f"(?:(?:^|\n)[ ]*(?:——|--)[ ]*|您的学生[：: ])({ANY_FAMILY}{GIVEN}{{1,2}})(?=[，,\n]|$)"
    f"|(?:^|\n)[ ]*({ANY_FAMILY}{GIVEN}{{1,2}})[ ]{{0,2}}(?:敬上|谨上|上$)"
)
FAMILIAR = re.compile(f"(?:^|[\\n，,。！!？?“])[老小]({COMMON_FAMILY})(?=[，,！!])")
PLACES = re.compile("[省市县区镇乡村路街州国堡]$")


def chinese_names(text: str) -> Iterator[tuple[int, int]]:
    """Where names of people begin and end; of a name with a title alone, its family name.

    >>> text = "张先生您好，我叫陈思远，收件人：李娜。高级经理和欧阳老师在。"
    >>> [text[a:b] for a, b in sorted(set(chinese_names(text)))]
    ['张', '陈思远', '李娜', '欧阳']
    """
    found = [*_titled(text), *_labelled(text)]
    for pattern in (INTRODUCED, NICKNAME, MY_FAMILY_NAME, GREETED, SIGNED, THANKED, SIGNATURE, FAMILIAR):
        for match in pattern.finditer(text):
            group = next(number for number in range(1, pattern.groups + 1) if match[number])
            if _is_name(match[group]):
                found.append(match.span(group))
    yield from found
    names = {text[start:stop] for start, stop in found if stop - start > 1}
    yield from _again(text, {name for name in names if name[0] not in RARE_CHINESE_FAMILY or _family(name)})


def _titled(text: str) -> Iterator[tuple[int, int]]:
    """Names before titles: the longest that begins with a family name."""
    for title in TITLE.finditer(text):
        end = title.start()
        lengths = (1, 2) if title[0] in AFTER_GIVEN else (4, 3, 2, 1)
        for length in lengths:
            start = end - length
            if start >= 0 and _is_titled(text, start, end, title[0]):
                yield start, end
                break


def _is_titled(text: str, start: int, end: int, title: str) -> bool:
    name = text[start:end]
    family = _family(name)
    given = name[len(family) :]
    if not family or len(given) > (0 if title in AFTER_GIVEN else 2) or not _is_name(name + title):
        return False
    if any(sign in CHINESE_FUNCTION or not "\u4e00" <= sign <= "\u9fff" for sign in given):
        return False
    before = text[max(0, start - 1) : start]
    if family in OFTEN_NO_FAMILY and "\u4e00" <= before <= "\u9fff" and before not in BEFORE_NAME:
        return False
    return before + family not in BEFORE_TITLE


def _labelled(text: str) -> Iterator[tuple[int, int]]:
    """Names after labels, one or several: 联系人：李娜、王芳."""
    for label in LABEL.finditer(text):
        place = label.end()
        if IS_SPEAKER.match(label[0]):
            match = SPOKEN.match(text, place)
            if match and _is_name(match[1]):
                yield match.span(1)
            continue
        while (match := LISTED.match(text, place)) and _is_name(match[1]):
            yield match.span(1)
            place = match.end() + 1
            if text[match.end() : place] not in ("、", "，", ","):
                break
        if place == label.end() and NAME_LABEL.match(label[0]):
            match = STRANGE.match(text, place)
            if match and _is_name(match[1]) and not PLACES.search(match[1]):
                yield match.span(1)


def _again(text: str, names: set[str]) -> Iterator[tuple[int, int]]:
    """Where these names stand, in one pass however many they are. A name of a rare family is not among them: it may be
    a word (查天气)."""
    if not names:
        return
    lengths = sorted({len(name) for name in names}, reverse=True)
    for first in re.finditer(f"[{''.join(sorted({name[0] for name in names}))}]", text):
        start = first.start()
        name = next((name for length in lengths if (name := text[start : start + length]) in names), "")
        if name:
            yield start, start + len(name)


def _family(name: str) -> str:
    """The family name that a name begins with; empty if there is none."""
    if name[:2] in CHINESE_COMPOUND:
        return name[:2]
    return name[:1] if name[:1] in CHINESE_FAMILY else ""


def _is_name(name: str) -> bool:
    return not any(name[:length] in NO_CHINESE_NAME for length in (2, 3, 4))
