"""Rules of the guard: short regular expressions, in English and Chinese, for requests that must always be refused.

Most rules require a request for instructions (how, best way to, 怎么, 办法) and an action with an unambiguous object,
so that a bath bomb, a child process and a question about history pass. Patterns are matched against canonical text
(classifier.canonical_text), which is lower case. Raise RULES_VERSION with every change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

RULES_VERSION = 2


class Rule(NamedTuple):
    """name: the harm that it is against; pattern: a regular expression for canonical text."""

    name: str
    pattern: str


_HOW = (
    r"\b(?:how (?:do|can|could|would|should|to)|tell me how|show me how|teach me|help me|ways? (?:to|of)|i want to|"
    r"i(?:'m| am) going to|plan to|steps (?:to|for)|instructions (?:to|for|on)|guide (?:to|for|on)|recipe for|"
    r"can you)\b[^.?!;]{0,40}?\b"
)
_PERSON = (
    r"(?:(?:my|his|her|their|our|a|an|the|this|that|some|old|young|other|ex) ){0,3}"
    r"(?:someone|somebody|people|boss|wife|husband|neighbou?rs?|teachers?|classmates?|colleagues?|mother|father|"
    r"parents|brother|sister|girlfriend|boyfriend|girls?|boys?|child|children|kids?|baby|wom[ae]n|m[ae]n|policem[ae]n|"
    r"cops?|judges?|guests?|friends?|stranger|president|myself|himself|herself|him)\b(?!')"  # "them" may be aphids
    r"(?! (?:process|thread|node|task|window|command|job|in (?:chess|a game|the game|minecraft)))"
)
_BOMB = (
    r"(?:(?:pipe|letter|nail|car|dirty) bombs?|(?:a|the) bomb\b(?! (?:calorimeter|cyclone|shelter))|bombs|explosives?|"
    r"(?:hand )?grenades?|nerve (?:gas|agents?)|sarin|mustard gas|molotovs?|ghost guns?)"
)
_MAKING = r"(?:mak(?:e|ing)|build(?:ing)?|assembl(?:e|ing)|construct|create|get|plant|detonate)"
_DEALING = r"(?:cook(?:ing)?|mak(?:e|ing)|synthesi[sz](?:e|ing)|brew|produce|smuggl(?:e|ing)|sell(?:ing)?)"
_MINORS = r"(?:child|children|kids?|minors?|underage|toddlers?|(?:1[0-7]|[1-9])[- ]year[- ]olds?)"

_REQUEST = r"(?:怎么|怎样|如何|教我|告诉我|帮我|我想|我要|步骤|教程)[^。?!;]{0,12}?"
_WAY = r"[^。?!;]{0,8}?(?:办法|方法|步骤|教程|诀窍)"
_NEAR = r"[^。?!;,]{0,4}?"
_WHO = (
    r"(?:我的?|他的?|她的?|别人的?|自己的?|某个|一个|那个|这个|前)?"
    r"(?:邻居|老板|警察|妻子|老婆|丈夫|老公|客人|孩子|小孩|老人|老师|同学|同事|朋友|女友|男友|女孩|男孩|女人|男人|商人|"
    r"法官|路人|父母|爸爸|妈妈|家人|人(?![物工机参类生家们品]))"
)
_KILL = r"(?:杀死|杀害|谋杀|毒死|勒死|捅死|掐死|弄死|绑架|强奸|暗杀|杀)"
_MAKE = r"(?:制造|制作|做|造|组装|引爆|自制)"
_DEAL = r"(?:制造|制作|做|合成|提炼|贩卖|走私|买到?|卖)"
_OTHERS = r"(?:别人|他人|前任|前女友|前男友)的"


def _requested(action: str) -> str:
    """A pattern for a Chinese request for an action: the words that request come before or after it."""
    return f"{_REQUEST}(?:{action})|(?:{action}){_WAY}"


RULES: tuple[Rule, ...] = (
    Rule("violence", rf"{_HOW}(?:kill|murder|poison|stab|strangle|assassinate|kidnap|beat up|rape) {_PERSON}"),
    Rule("weapons", rf"{_HOW}{_MAKING} (?:\w+ )?{_BOMB}"),
    Rule("drugs", rf"{_HOW}{_DEALING} (?:\w+ )?(?:meth|methamphetamine|heroin|cocaine|fentanyl|lsd|mdma)\b"),
    Rule(
        "malware",
        r"\b(?:write|create|code|program|make|build|develop|spread)\b[^.?!;]{0,20}\b(?:ransomware|keylogger|spyware)\b"
        r"(?! (?:detector|scanner|protection|removal|defen[sc]e))",
    ),
    Rule("self_harm", rf"{_HOW}(?:kill myself|end my (?:own )?life|commit suicide|hang myself)\b"),
    Rule(
        "children",
        rf"\b(?:sex|sexual|nude|naked|porn\w*|erotic)\b[^.?!;]{{0,30}}\b{_MINORS}\b"
        r"(?! (?:abuse )?(?:prevention|protection|safety))"
        rf"|\b{_MINORS}\b[^.?!;]{{0,10}}\b(?:porn\w*|nudes?|erotica?)\b",
    ),
    Rule(
        "stealing",
        rf"{_HOW}(?:(?:rob|hold up) (?:a|the|an) (?:bank|shop|store|old \w+)|"
        r"steal (?:a |someone's |\w+'s )?(?:credit cards?|passwords?|identity|cars?|wallets?)|"
        r"(?:forge|counterfeit) (?:a )?(?:passports?|banknotes|money))\b",
    ),
    Rule("violence_zh", _requested(rf"(?:给|对){_WHO}下毒|{_KILL}{_WHO}")),
    Rule("weapons_zh", _requested(rf"{_MAKE}{_NEAR}(?:炸弹|炸药|手榴弹|毒气|燃烧瓶|土枪)")),
    Rule(
        "drugs_zh",
        _requested(rf"{_DEAL}{_NEAR}(?:冰毒|海洛因|可卡因|摇头丸|大麻|毒品|芬太尼)(?!预防|教育|危害|检测|的危害)"),
    ),
    Rule(
        "malware_zh",
        rf"(?:写|编写|制作|开发|传播){_NEAR}(?:勒索(?:软件|病毒)|盗号木马|木马病毒)(?!.{{0,4}}(?:检测|防护|查杀))",
    ),
    Rule(
        "self_harm_zh",
        r"(?:怎么|怎样|如何|我想|我要|教我)[^。?!;]{0,6}?(?:自杀|自残|割腕|上吊|结束(?:自己的|我的)?生命)"
        r"(?!率|的人|干预|预防)",
    ),
    Rule(
        "children_zh",
        rf"(?:儿童|未成年|幼女|幼童|小学生|孩子){_NEAR}(?:色情|裸照|性交|做爱)(?!.{{0,6}}(?:危害|保护|举报|防))",
    ),
    Rule(
        "stealing_zh",
        _requested(
            r"(?:抢劫?|打劫)(?:一家|个)?(?:银行|金店|老人)|(?:伪造|做假)(?:护照|钞票|身份证)|"
            rf"(?:盗取|盗用|破解){_OTHERS}"
        ),
    ),
)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def first_match(rules: Iterable[Rule], text: str) -> Rule | None:
    """The first of the rules whose pattern occurs in a canonical text, if any."""
    return next((rule for rule in rules if _compiled(rule.pattern).search(text)), None)
