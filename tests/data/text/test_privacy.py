"""Personal data: precision and recall on a labelled set, look-alikes, surrogates that join and do not tell."""

from __future__ import annotations

import ipaddress
import time
from typing import get_args

import pytest

from pipelines.data.text.privacy import Privacy, id_check, luhn, spans, surrogate, without_cut_value
from pipelines.data.text.privacy_kinds import PrivateKind
from tests.data.text.private_texts import labelled

KINDS: tuple[PrivateKind, ...] = tuple(kind for kind in get_args(PrivateKind) if kind not in ("address", "names"))


@pytest.mark.parametrize("kind", KINDS)
def test_precision_and_recall_on_the_labelled_set(kind: PrivateKind) -> None:
    found = {(text, span) for text, _ in labelled() for span in spans(text, frozenset(KINDS)) if span.kind == kind}
    expected = {(text, span) for text, all_spans in labelled() for span in all_spans if span.kind == kind}
    right = found & expected
    assert len(right) >= 0.95 * len(found), [text[span.start : span.stop] for text, span in found - expected]
    assert len(right) >= 0.9 * len(expected), [text[span.start : span.stop] for text, span in expected - found]


def test_full_width_forms_are_found_where_they_stand_and_join_with_ascii() -> None:
    text = "𝒜 电话：（０１０）６２７５１２３４，手机１３８１２３４５６７８，邮箱ann＠mail.com。"
    found = [text[start:stop] for _, start, stop in spans(text, frozenset(KINDS))]
    assert found == ["（０１０）６２７５１２３４", "１３８１２３４５６７８", "ann＠mail.com"]
    masked, _ = Privacy({"phone": "mask", "email": "mask"}, seed=7).replace(text)
    assert masked == "𝒜 电话：[phone]，手机[phone]，邮箱[email]。"
    assert surrogate("phone", "１３８１２３４５６７８", 7) == surrogate("phone", "13812345678", 7)
    assert surrogate("email", "ann＠mail.com", 7) == surrogate("email", "ann@mail.com", 7)
    assert without_cut_value("电话 １３８　１２") == without_cut_value("电话 138 12") == "电话"


def test_a_bare_number_of_twelve_digits_is_a_telephone_number_after_the_word_alone() -> None:
    for lead, is_phone in (("联系电话号码是", True), ("Tel. no. ", True), ("条码", False), ("", False), ("共", False)):
        assert bool(spans(f"{lead}057187654321", frozenset(KINDS))) == is_phone, lead


def test_the_labelled_set_has_both_languages_and_look_alikes() -> None:
    rows = labelled()
    assert sum(bool(found) for _, found in rows) >= 35 and sum(not found for _, found in rows) >= 40
    chinese = [found for text, found in rows if any(character >= "\u4e00" for character in text)]
    assert {span.kind for found in chinese for span in found} == set(KINDS)


def test_published_numbers_have_right_check_digits() -> None:
    assert luhn("378282246310005") and luhn("5555555555554444") and luhn("4012888888881881")  # of card networks
    assert id_check("11010519491231002") == "X" and id_check("44052418800101001") == "4"  # GB 11643's examples


@pytest.mark.parametrize(
    "text",
    [
        f"passport{' ' * 2000}x", f"passport no{chr(10) * 2000}is x", f"护照{' ' * 2000}号码 {' ' * 2000}",
        f"order{' ' * 2000}13812345678", "order              13812345678 " * 100,
        "version            81.2.69.142 " * 100,
        "a" * 2000, "a.-" * 2000, f"a@{'a.' * 2000}", f"a@{'a-' * 2000}", "a@" * 2000,
        "1" * 2000, "1 " * 2000, "1.1-(" * 2000, "2001:" * 2000, f"+{'1 ' * 2000}",
    ],
    ids=lambda text: text[:12].replace("\n", " "),
)  # fmt: skip
def test_a_long_run_of_anything_takes_little_time(text: str) -> None:
    start = time.process_time()
    spans(text, frozenset(KINDS))
    assert time.process_time() - start < 1


def test_equal_values_have_equal_surrogates_and_the_seed_changes_all() -> None:
    privacy = Privacy(dict.fromkeys(KINDS, "surrogate"), seed=7)
    first, _ = privacy.replace("Ann: ann@mail.org, 138 1234 5678. Bob: bob@mail.org.")
    second, _ = privacy.replace("ANN@mail.org，电话13812345678")
    ann, bob = (word.strip(",.") for word in first.split() if "@" in word)
    assert ann != bob and ann in second
    assert first.split("com, ")[1][:13].replace(" ", "") in second
    assert privacy.replace("ann@mail.org")[0] != Privacy({"email": "surrogate"}, seed=8).replace("ann@mail.org")[0]


def test_surrogates_are_of_ranges_that_belong_to_no_one() -> None:
    assert surrogate("email", "ann@mail.org", 7).endswith("@example.com")
    assert ipaddress.ip_address(surrogate("ip", "81.2.69.142", 7)).is_reserved
    assert ipaddress.ip_address(surrogate("ip", "2a02::5", 7)) in ipaddress.ip_network("2001:db8::/32")
    card = surrogate("card", "4111 1111 1111 1111", 7)
    assert card.startswith("99") and luhn(card.replace(" ", "")) and [len(part) for part in card.split()] == [4] * 4
    number = surrogate("id_number", "11010519491231002X", 7)
    assert number.startswith("99") and id_check(number[:17]) == number[17] and 1940 <= int(number[6:10]) < 2000
    assert surrogate("id_number", "219-09-9999", 7)[0] == "9"
    assert surrogate("phone", "+86 138 1234 5678", 7).startswith("+86 10")
    assert surrogate("phone", "(415) 555-2671", 7).startswith("(555) ")
    assert surrogate("phone", "+49 30 901820", 7).startswith("+99 9")
    assert surrogate("passport", "E12345678", 7)[0] == "X"
    assert surrogate("passport", "533380006", 7)[0] == "X" and len(surrogate("passport", "533380006", 7)) == 10


def test_different_values_have_different_surrogates() -> None:
    phones = {surrogate("phone", f"138{number:08}", 7) for number in range(10_000)}
    addresses = {surrogate("email", f"u{number}@mail.org", 7) for number in range(10_000)}
    assert len(phones) == len(addresses) == 10_000


def test_actions() -> None:
    text = "ann@mail.org, 81.2.69.142, 13812345678"
    privacy = Privacy({"email": "mask", "ip": "drop", "phone": "keep"}, seed=7)
    clean, found = privacy.replace(text)
    assert clean == "[email], [ip], 13812345678"
    assert found == {"email": 1, "ip": 1} and privacy.drops(found) and not privacy.drops({"email": 1})
    off = Privacy({}, seed=7)
    assert off.replace(text) == (text, {}) and not off.is_on


def test_what_was_replaced_is_not_found_again() -> None:
    for action in ("mask", "surrogate"):
        privacy = Privacy(dict.fromkeys(("email", "ip", "passport"), action), seed=7)
        for text, _ in labelled():
            clean, _ = privacy.replace(text)
            assert not [span for span in spans(clean, frozenset({"email"})) if span.kind == "email"]
