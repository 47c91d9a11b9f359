"""Names of people in texts in Latin letters, by what stands before them: titles, labels of forms, letters, chats.

    cue ("Dear ", "Name: ", "my sister ", "Best regards,\\n") ──► the capitalised words after it ──words lists──► a name

How much is believed depends on the cue: after "Dear" any name, after "From:" a known given name or two words.
In a letter, a chat or an introduction known given names count wherever they stand, and so does a name that was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache

from pipelines.data.text.name_words import GIVEN, NO_NAME, NO_TITLED, ORGANISATION

LATIN = [*range(0x41, 0x250), *range(0x1E00, 0x1F00)]
UPPER = "".join(filter(str.isupper, map(chr, LATIN)))
LETTER = "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ"
# Of a word: no letter, nor the rest of an address of mail (Jane.Doe@corp.com).
END = rf"(?![{LETTER}0-9_@]|[.+'-][A-Za-z0-9][A-Za-z0-9.+'_-]{{0,63}}@)"
WORD = rf"[{UPPER}](?:\.(?:[ ]?[{UPPER}]\.)*|[{LETTER}]*(?:['’-](?!s\b)[{LETTER}]+)*){END}"
PARTICLE = "(?:van|von|der|den|de|del|della|da|di|du|dos|la|le|el|al|bin|ibn|ter|zu)"
NAME = re.compile(rf"{WORD}(?:[ ](?:{PARTICLE}[ ]){{0,2}}{WORD}){{0,3}}")
CAPITALISED = re.compile(rf"(?<![{LETTER}0-9_@.'’-]){WORD}")
FAMILY_NAME = re.compile(rf"[ ]({WORD})")
PART = re.compile(rf"[{LETTER}]+(?:['’-][{LETTER}]+)*{END}")
ENDED = re.compile(
    rf"(?:[ \t]*(?:$|[\n,;:.!?()<>\[\]{{}}|/\"”*]|['’](?![{LETTER}])|[-–—][ -]|(?:and|&)[ ])|[ ]{{2}}|\t)"
)
SIGNED = re.compile(r"[ \t]*(?:$|[\n,|/]|(?:and|&)[ ])")
TITLE = re.compile(
    r"(?:Mrs?|Ms|Mx|Miss|Dr|Prof|Professor|Mme|Mlle|Herr|Frau|Se[ñn]ora?|Cpl|Sgt|Capt|Lt|Rev|Officer|Coach|Nurse"
    rf"|Aunt|Auntie|Uncle|Grandma|Grandpa|Granny)\.?[ ](?=[{UPPER}])"
)
GREETING = re.compile(rf"(?:Dear(?:est)?|Hi|Hello|Hey|Good (?:morning|afternoon|evening|day)),?[ ](?=[{UPPER}])")
NEXT_LINE = re.compile(rf"\n\s{{0,4}}(?=[{UPPER}])")
CLOSING = re.compile(
    r"(?:(?:(?:with|my|all) )?(?:best|kind(?:est)?|warm(?:est)?|with)?(?: [a-z]+)? ?(?:regards|wishes)"
    r"|(?:yours|very)(?: [a-z]+)?|sincerely(?: yours)?|respectfully(?: yours)?|best|cheers"
    r"|(?:many |with )?thanks(?: [a-z]+){0,4}|thank you(?: [a-z]+){0,4}|(?:lots of |with |all my )?love"
    r"|take care|cordially|xoxo|see you(?: [a-z]+)?)[,.!]?",
    re.IGNORECASE,
)
SENTENCE_SIGNS = "\n.!?;:"
# A label of a form stands before a colon; "name" alone, or of a person.
NAME_LABEL = re.compile(
    r"(?:(?:the|your|my)[ ])?(?:(?:first|last|full|given|family|maiden|middle|legal|preferred"
    r"|customer|client|patient|student|guest|passenger|employee|applicant|contact|child|parent|member|user|buyer|seller"
    r"|tenant|cardholder|account holder|beneficiary|pupil|participant|visitor|your)(?:['’]s)?[ ]?){0,2}"
    r"(?:sur|fore)?names?(?:[ ]of[ ][a-z ]{3,24})?[ ]?",
    re.IGNORECASE,
)
PERSON_LABEL = re.compile(
    r"(?:(?:customer|emergency|primary|main|new|lead|hr|your)[ ])?(?:patient|student|pupil"
    r"|applicant|candidate|employee|manager|supervisor|guest|passenger|tenant|landlord|witness|driver|teacher|doctor"
    r"|physician|nurse|interviewe[re]|recipient|sender|contact(?:[ ]person)?|attn|attention|from|to|cc|bcc"
    r"|(?:ship|bill|sold|deliver)[ ]to|(?:signed|prepared|reported|submitted|approved|reviewed|requested|issued"
    r"|witnessed|received|completed)(?:[ ]by)?|assigned[ ]to|assignee|reporter|attendees|participants|present|absent"
    r"|meeting[ ]with|in[ ]care[ ]of|c/o|next[ ]of[ ]kin|parent|guardian|mother|father|spouse|husband|wife|son|daughter"
    r"|caller|client|customer|buyer|seller|owner|cardholder|beneficiary|participant|member|lawyer|solicitor|director"
    r"|(?:account|card|policy)[ ]?holder|organi[sz]er|chair|secretary)[ ]?",
    re.IGNORECASE,
)
BARE_NAME = re.compile("(?:the )?names?(?: of .*)?", re.IGNORECASE)  # of a person, a dish or a program
LABEL_SIGNS = "\n,;.|()\t<>{}[]"  # before a label
AROUND_LABEL = " -–—*•_#+\"'“”`"  # of lists, of Markdown, of JSON
BEFORE_VALUE = re.compile("[ \t]*+[\"'“*_]{0,3}[ ]?")
LABEL_CHARACTERS = 48
CHAT = re.compile(rf"(?:\[[^\]\n]{{1,20}}\][ ]?)?({WORD}(?:[ ]{WORD})?)")  # before a colon, of what somebody says
MY_NAME = re.compile(r"[Mm][Yy] (?:full |first |last )?name(?: is|['’]s)[: ]+")
I_AM = re.compile(rf"(?:I['’]m|I am|[Tt]his is|[Hh]ere is)[ ](?=[{UPPER}])")
SPEAKING = re.compile(r"[ ](?:speaking|calling|writing|here|from)\b")
RELATION = re.compile(
    r"(?:[Mm]y|[Oo]ur)(?: [a-z-]+)? (?:wife|husband|partner|spouse|fianc[ée]e?|mother|mum|mom|dad|father|brother|sister"
    r"|son|daughter|uncle|aunt|cousin|nephew|niece|friend|boss|colleague|co-?worker|neighbou?r|room-?mate|flat-?mate"
    r"|landlord|landlady|nanny|teacher|tutor|coach|assistant|girlfriend|boyfriend|grandmother|grandfather|grandson|granddaughter"
    r"|stepson|stepdaughter|therapist|secretary|supervisor|manager|lawyer|classmate|babysitter|doctor|dentist),?"
    rf"(?: is called| named| called)?[ ](?=[{UPPER}])"
)
LAST_WORD = re.compile(r"[A-Za-z]+(?= $)")
PERSONS = (
    "man woman boy girl guy lady gentleman person child student patient nurse clerk driver neighbour neighbor friend "
    "employee colleague customer tenant someone"
)
WORD_BEFORE = re.compile(rf"(?<![{LETTER}])[{UPPER}][{LETTER}.]*(?= $)")
APOSTROPHE = re.compile("['’]")
RULERS = frozenset({"king", "queen", "pope", "prince", "princess", "lord", "saint", "st.", "president"})
MAILBOX = re.compile(r"\"?[ ]<[^<>@\s]+@")
TICKET = re.compile(r"[A-Z]{2,}/[A-Z]{2,}(?=[ ](?:MR|MRS|MS|MISS|MSTR)\b)")  # as airlines write them
NEXT = re.compile(rf"(?:,?[ ](?:and|&)|[,;])[ ](?=[{UPPER}])")
MAX_NAMES = 20  # of one list
MIN_FAMILY_NAME = 4  # letters of one that is looked for again; shorter ones are words


class Belief(Enum):
    """What is a name after a cue."""

    ANY = auto()  # any word that is not of the other lists
    ENDED = auto()  # the same, where nothing but a sign follows
    SIGNED = auto()  # the same, where the line or a part of it ends
    PAIR = auto()  # a known given name, or two words where nothing but a sign follows
    KNOWN = auto()  # a known given name


TALK = "spoke speak spoken speaks speaking talk talked talking"
BEFORE = {  # words before a name, and the words before them where a person is meant
    word: (belief, frozenset(words.split()))
    for word, belief, words in (
        ("to", Belief.PAIR, f"{TALK} delivered reply"),
        ("with", Belief.PAIR, f"{TALK} met meet meeting"),
        ("for", Belief.PAIR, "ask asked asking"),
        ("by", Belief.PAIR, "prepared reported signed submitted approved"),
        ("of", Belief.PAIR, "behalf"),
        ("me", Belief.ENDED, "call"),
        ("named", Belief.ANY, PERSONS),
        ("called", Belief.ANY, PERSONS),
        ("met", Belief.PAIR, ""),  # whatever stands before
        ("welcome", Belief.PAIR, ""),
    )
}
BEGINNING = [word.capitalize() for word, (_, words) in BEFORE.items() if not words]  # of a sentence: Met, Welcome
WITH_PEOPLE = re.compile(rf"(?:{'|'.join([*BEFORE, *BEGINNING])})[ ](?=[{UPPER}])")


def english_names(text: str) -> Iterator[tuple[int, int]]:
    """Where names of people begin and end.

    >>> text = "Dear Mr. Okafor, my sister Ann Lee asked.\\nBest regards,\\nJane van Dyk\\nHead of Sales"
    >>> [text[a:b] for a, b in sorted(set(english_names(text)))]
    ['Okafor', 'Ann Lee', 'Jane van Dyk']
    """
    found = [*_titled(text), *_related(text)]
    forms, doubtful, chats = _before_colons(text)
    personal = [*_letters(text), *_introduced(text), *chats]
    found += [*forms, *personal]
    yield from doubtful
    yield from found
    if found:
        yield from _again(text, found, is_personal=bool(personal))


def _titled(text: str) -> Iterator[tuple[int, int]]:
    for cue in TITLE.finditer(text):
        is_street = cue[0].startswith("Dr") and _follows_name(text, cue.start())  # 12 Oak Dr. Springfield
        if _begins_word(text, cue.start()) and not is_street:
            for start, stop in _names(text, cue.end(), Belief.ANY):
                if text[start:stop].split(" ", 1)[0].lower() not in NO_TITLED:
                    yield start, stop
    if "/" in text:
        yield from (match.span() for match in TICKET.finditer(text))


def _letters(text: str) -> Iterator[tuple[int, int]]:
    """Names in greetings, under letters, before addresses of mail."""
    for cue in GREETING.finditer(text):
        if _begins_sentence(text, cue.start()):
            yield from _names(text, cue.end(), Belief.ENDED)
    for line in NEXT_LINE.finditer(text):
        if CLOSING.fullmatch(_segment(text, line.start(), SENTENCE_SIGNS)):
            title = TITLE.match(text, line.end())
            yield from _names(text, title.end() if title else line.end(), Belief.SIGNED)
    if "@" in text:
        for mailbox in MAILBOX.finditer(text):
            name = _segment(text, mailbox.start(), "\n:;,").lstrip('"')
            yield from _names(text, mailbox.start() - len(name), Belief.PAIR)


def _introduced(text: str) -> Iterator[tuple[int, int]]:
    """Names that people give themselves."""
    for cue in MY_NAME.finditer(text):
        word = PART.match(text, cue.end())
        if word and word[0] in GIVEN:
            yield word.span()
        else:
            yield from _names(text, cue.end(), Belief.ANY)
    for cue in I_AM.finditer(text):
        if _begins_word(text, cue.start()):
            is_known = _name(text, cue.end(), Belief.KNOWN) > 0
            for start, stop in _names(text, cue.end(), Belief.ANY):
                if is_known or SPEAKING.match(text, stop):
                    yield start, stop


def _related(text: str) -> Iterator[tuple[int, int]]:
    """Names of people near to who writes, and of those whom one talks to."""
    for cue in RELATION.finditer(text):
        if _begins_word(text, cue.start()):
            yield from _names(text, cue.end(), Belief.ANY)
    for cue in WITH_PEOPLE.finditer(text):
        if _begins_word(text, cue.start()):
            belief, words = BEFORE[cue[0].rstrip().lower()]
            before = LAST_WORD.search(text, max(0, cue.start() - 12), cue.start())
            if not words or (before and before[0].lower() in words):
                yield from _names(text, cue.end(), belief)


def _before_colons(text: str) -> tuple[list[tuple[int, int]], ...]:
    """Names after labels (Name: X, From: X); those after "name" alone that are not known, which may be other things;
    and those of the lines of a chat (Ann: hello)."""
    forms: list[tuple[int, int]] = []
    doubtful: list[tuple[int, int]] = []
    chats: list[tuple[int, int]] = []
    colon = text.find(":")
    while colon >= 0:
        value = BEFORE_VALUE.match(text, colon + 1)
        start = value.end() if value else colon + 1
        if text[start : start + 1].isupper():
            label = _segment(text, colon, LABEL_SIGNS).strip(AROUND_LABEL).replace("_", " ")
            if BARE_NAME.fullmatch(label):
                for place in _names(text, start, Belief.PAIR):
                    (forms if _name(text, place[0], Belief.KNOWN) else doubtful).append(place)
            elif NAME_LABEL.fullmatch(label):
                forms += _names(text, start, Belief.ENDED)
            elif PERSON_LABEL.fullmatch(label):
                forms += _names(text, start, Belief.PAIR)
        if text[colon + 1 : colon + 2] == " ":
            line = _segment(text, colon, "\n")
            if (chat := CHAT.fullmatch(line)) and _is_known(chat[1].split(" ")[0].lower()):
                chats += _names(text, colon - len(chat[1]), Belief.KNOWN)
        colon = text.find(":", start)
    return forms, doubtful, chats


def _segment(text: str, stop: int, signs: str) -> str:
    """What stands before a place, from the last of these signs on; nothing where that is too long for a label."""
    before = text[max(0, stop - LABEL_CHARACTERS) : stop]
    first = max(map(before.rfind, signs)) + 1
    return before[first:].strip() if first or stop <= LABEL_CHARACTERS else ""


def _again(text: str, found: list[tuple[int, int]], *, is_personal: bool) -> Iterator[tuple[int, int]]:
    """Names that were found, where they stand again, and their family names; in personal texts known given names."""
    names = {text[start:stop] for start, stop in found}
    full = {name.split(" ", 1)[0]: name for name in sorted(names) if " " in name}
    words = {name for name in names if _is_known(name.lower())} | {
        name.rsplit(" ", 1)[1] for name in full.values() if len(name.rsplit(" ", 1)[1]) >= MIN_FAMILY_NAME
    }
    end = 0
    for match in CAPITALISED.finditer(text):
        start, stop = match.span()
        if start < end:
            continue
        known = is_personal and _is_known(match[0].lower()) and not _follows_name(text, start)
        if known and (name_end := _name(text, start, Belief.KNOWN)):
            end = name_end
        elif (name := full.get(match[0])) is not None and text.startswith(name, start):
            end = start + len(name)
        elif match[0] in words:
            end = stop
        elif _is_known(match[0].lower()) and (family := FAMILY_NAME.match(text, stop)) and family[1] in words:
            end = family.end()
        else:
            continue
        yield start, end


def _names(text: str, start: int, belief: Belief) -> list[tuple[int, int]]:
    """The name at a place, and those that are joined to it: "Ann, Bob Lee and Cem"."""
    names: list[tuple[int, int]] = []
    while len(names) < MAX_NAMES and (stop := _name(text, start, belief)):
        names.append((start, stop))
        joint = NEXT.match(text, stop)
        if joint is None:
            break
        is_list = belief is Belief.PAIR or joint[0] == " and "
        start, belief = joint.end(), Belief.PAIR if is_list else Belief.KNOWN
    return names


def _name(text: str, start: int, belief: Belief) -> int:
    """The end of the name that begins at a place; 0 if there is none."""
    match = NAME.match(text, start)
    if match is None or TITLE.match(text, start):
        return 0
    parts = match[0].split(" ")
    lower = [part.lower().rstrip(".") for part in parts]
    number = next((place for place, word in enumerate(lower) if _is_no_name(word, parts[place])), len(parts))
    if number == 0 or (not _is_known(lower[0]) and any(word in ORGANISATION for word in lower)):
        return 0
    stop = start + len(" ".join(parts[:number]))
    if text[start:stop].endswith(".") and not _is_initial(parts[number - 1]):
        stop -= 1
    is_ended = ENDED.match(text, stop) is not None
    if belief is Belief.ANY:
        return stop
    if belief is Belief.ENDED:
        return stop if is_ended else 0
    if belief is Belief.SIGNED:
        return stop if SIGNED.match(text, stop) else 0
    if _is_known(lower[0]):
        return stop
    return stop if belief is Belief.PAIR and number > 1 and is_ended else 0


@lru_cache(maxsize=4096)
def _is_known(word: str) -> bool:
    return word in GIVEN or ("-" in word and word.split("-", 1)[0] in GIVEN)


def _is_no_name(word: str, as_written: str) -> bool:
    if _is_initial(as_written):
        return False
    return word in NO_NAME or APOSTROPHE.split(word, maxsplit=1)[0] in NO_NAME


def _follows_name(text: str, place: int) -> bool:
    """Whether the word before is capitalised and may not stand before a name: San Diego, King Charles."""
    before = WORD_BEFORE.search(text, max(0, place - 16), place)
    return before is not None and (before[0].lower() not in NO_NAME or before[0].lower() in RULERS)


def _is_initial(word: str) -> bool:
    return word.endswith(".") and len(word) <= 2


def _begins_word(text: str, place: int) -> bool:
    return place == 0 or not (text[place - 1].isalnum() or text[place - 1] in "_-.'")


def _begins_sentence(text: str, place: int) -> bool:
    """Whether a line, a sentence or a quotation begins at a place."""
    before = text[max(0, place - 3) : place].rstrip(" ")
    return place == 0 or not before or before[-1] in "\n.!?\"“'>:;,)]*"
