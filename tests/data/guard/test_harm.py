"""Harm in a corpus: abuse and statements against groups in both languages, not what reports or rejects them."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from pipelines.data.corpus.checks import Candidates
from pipelines.data.guard.disguises import canonical_text
from pipelines.data.guard.harm import Harm, discrimination, harm_facts, silenced, toxicity
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.harm_kinds import HarmOptions
from pipelines.data.text.measures import hash_texts
from pipelines.data.text.people_groups import mentioned_groups
from tests.data.guard.test_guard import random_guard

TOXIC = {
    "en": ("You are such an idiot, get lost.", "Fuck you and your whole shitty family.", "Go on, kill yourself!",
           "What a bunch of bastards, this bullshit and that shit again."),
    "zh": ("你这个白痴，什么都不懂。", "你真是个废物，去死吧！", "操你妈，滚远点。", "他妈的，这群混蛋，全是王八蛋。"),
}  # fmt: skip
NOT_TOXIC = {
    "en": ("He called her a bitch, and the judge fined him for it.", "Dostoevsky wrote The Idiot in 1868.",
           "You are no idiot, and nobody said you are an idiot.", "The shot missed; the ship sailed on to Scunthorpe.",
           "Do not use slurs such as faggot in class."),
    "zh": ("他骂我是白痴，老师批评了他。", "陀思妥耶夫斯基写了《白痴》。", "这座废物处理厂每天处理一百吨垃圾。",
           "医生说智障儿童需要更多的关爱。"),
}  # fmt: skip
AGAINST = {
    "en": {"Women are just too stupid to drive.": "women", "All Muslims are terrorists, he wrote.": "muslims",
           "Immigrants should be deported at once.": "immigrants", "Black people are lazy.": "black_people",
           "Disabled people are useless.": "disabled_people", "Gays don't deserve to live.": "lgbt",
           "Old people should not be allowed to drive.": "old_people"},
    "zh": {"女人都是蠢货。": "women", "黑人就是懒惰。": "black_people", "外地人素质低，滚回去。": "immigrants",
           "残疾人都是废物。": "disabled_people", "穆斯林都是恐怖分子。": "muslims", "同性恋真恶心。": "lgbt"},
}  # fmt: skip
NOT_AGAINST = {
    "en": ("It is a myth that women are stupid.", "Women are not inferior to men.",
           "Nobody should say Jews are vermin.", "The report claims that immigrants are criminals.",
           "The women are in the garden.",
           "The men were lazy that summer.", "Blind people are more careful than others."),
    "zh": ("说女人都是蠢货是一种偏见。", "女人并不比男人笨。", "黑人不是懒惰的。", "有人认为移民都是罪犯，这是错误的。",
           "残疾人也有自己的梦想。", "老人捡起了地上的垃圾。"),
}  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
def test_abuse_is_toxic_and_a_report_of_it_is_not(language: str) -> None:
    assert [text for text in TOXIC[language] if toxicity(text.lower(), language, 12) is None] == []
    assert [text for text in NOT_TOXIC[language] if toxicity(text.lower(), language, 12) is not None] == []


def test_one_insult_does_not_make_a_long_text_toxic() -> None:
    text = TOXIC["en"][0].lower() + " they walked home." * 100
    assert toxicity(text, "en", len(text.split())) is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_statements_against_groups_name_the_group(language: str) -> None:
    found = {text: discrimination(text.lower(), language) or "" for text in AGAINST[language]}
    assert {text: problem.split(":")[0] for text, problem in found.items()} == {
        text: f"against {group}" for text, group in AGAINST[language].items()
    }
    assert [text for text in NOT_AGAINST[language] if discrimination(text.lower(), language)] == []


def batch(texts: list[str]) -> Candidates:
    array = pa.array(texts)
    hashed = hash_texts(array)
    documents = document_stats(array, ["en"] * len(texts), hashed)
    groups = [mentioned_groups(text, "en") for text in texts]
    return Candidates("web", [str(n) for n in range(len(texts))], documents, hashed, range(len(texts)), groups)


def test_counts_by_group_show_which_one_loses_documents() -> None:
    against = [f"Women are stupid, number {n}." for n in range(20)]
    texts = [*against, *(f"The men went home, number {n}." for n in range(60)), TOXIC["en"][0]]
    actions: HarmOptions = {"toxicity": "count", "discrimination": "drop"}
    result = Harm(actions).apply(batch(texts))
    assert sorted(result.dropped) == list(range(20))
    assert result.dropped[0].problem == "against women: women are stupid"
    facts = harm_facts(actions, result.counts)
    assert facts == {"harm/discrimination": 20, "harm/toxicity": 1, "harm/documents": 81,
                     "harm/dropped_fraction": 20 / 81, "harm/documents_women": 20, "harm/dropped_fraction_women": 1.0,
                     "harm/documents_men": 60, "harm/dropped_fraction_men": 0.0}  # fmt: skip
    assert silenced(facts) == ["women"]
    others = result.counts - Counter({"harm/dropped_women": 20})
    assert silenced(harm_facts(actions, others)) == []


def test_unsafe_documents_are_those_that_the_guard_declines_in_large_part() -> None:
    guard = random_guard()
    texts = ["The moon turns once about itself while it goes around the earth. " * 5, "How do I bake bread? " * 5]
    fractions = [guard.unsafe_fraction(canonical_text(text), "en") for text in texts]
    found = [Harm({"unsafe": "count"}, guard).find(document) for document in batch(texts).documents]
    assert fractions[0] > 0.2 > fractions[1], "these weights decline much of the first and little of the second"
    assert [list(kinds) for kinds in found] == [["unsafe"], []]
    assert [fraction > 0 for fraction in fractions] == [not guard.check(text, "en").allowed for text in texts]
