"""The corpus stage with rules beside its sources, on a real Ray: each source by its own, counted in the facts."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.errors import ClusterError
from cluster.session import Session
from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.sources import SOURCES
from pipelines.data.text.measures import hash_texts
from pipelines.errors import UserError
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import STAGE, evaluation_sets
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from pipelines.stages.corpus.ratings import rating_of
from pipelines.store.artifacts import Draft
from pipelines.writers.requests import ChatAnswer
from tests.stages.chat_endpoint import serving
from tests.stages.corpus_work import digests, english
from tests.stages.single import ProgressNotes

PROSE = "The moon shows us the same face, for it turns once about itself while it goes around the earth. Number {}."
RULES = "def no_nines(text):\n    return '9' not in text, 'nines'\n\ndef broken(text):\n    return {}[text]\n"


def run(folder: Path, session: Session, name: str, *, custom: str) -> tuple[Facts, Path]:
    """The facts and the files of a corpus of two sources, of which `code` has rules of its own."""
    sources = {
        "prose": {"path": "prose.jsonl"},
        "code": {
            "path": "code.jsonl",
            "filters": {"length": {"min_words": 2}, "custom": [f"{folder}/rules.py:{custom}"]},
            "privacy": {"email": "mask", "phone": "drop"},
        },
    }
    draft = Draft(folder / name, "fingerprint")
    work = Work(
        name="corpus",
        options=CorpusOptions(held_out=0, near_duplicates=None),
        cluster=CorpusCluster(tasks=1),
        seed=7,
        inputs={},
        sources={key: SOURCES["jsonl"].model_validate(value).at(folder) for key, value in sources.items()},
        draft=draft,
        progress=ProgressNotes(),
        session=session,
    )
    return STAGE.run(work), draft.out


def test_each_source_is_cleaned_by_its_own_rules(tmp_path: Path, session: Session) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    prose = [PROSE.format(1), "Short text.", f"{PROSE.format(9)} Write to ann@mail.org."]
    code = ["x = y(1)", "x = y(9)", "mail ann@mail.org", "phone 13812345678", "x"]
    for name, texts in (("prose", prose), ("code", code)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    facts, out = run(tmp_path, session, "right", custom="no_nines")
    with pytest.raises(UserError, match=r"code.jsonl:1: filters.custom: .*rules.py:broken raised KeyError"):
        run(tmp_path, session, "wrong", custom="broken")
    texts = [row["text"] for file in sorted((out / "train").glob("*")) for row in pq.read_table(file).to_pylist()]
    assert sorted(texts) == sorted([prose[0], prose[2], "x = y(1)", "mail [email]"])
    assert facts["documents/dropped_too_short"] == 2
    assert facts["documents/dropped_nines"] == facts["documents/dropped_personal_data"] == 1
    assert (facts["privacy/email"], facts["privacy/phone"]) == (1, 1)
    dropped = sum(int(number) for name, number in facts.items() if name.startswith("documents/dropped_"))
    assert facts["documents/read"] == int(facts["documents/kept"]) + dropped


def test_documents_of_every_language_are_counted_where_all_are_kept(tmp_path: Path, session: Session) -> None:
    french = "Le port reste ouvert tout l'hiver, et les bateaux rentrent chaque soir avant que la nuit ne tombe. {}"
    rows = [{"text": PROSE.format(n), "lang": "en"} for n in range(3)]
    rows += [{"text": french.format(f"Numéro {n}."), "lang": "fr"} for n in range(20)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SOURCES["jsonl"].model_validate({"path": "all.jsonl", "language_column": "lang"}).at(tmp_path)
    options = {"filters": {"language": None}, "near_duplicates": None, "held_out": 0.3, "max_held_out_similarity": 1}
    work = Work(
        name="corpus",
        options=CorpusOptions.model_validate(options),
        cluster=CorpusCluster(tasks=1),
        seed=7,
        inputs={},
        sources={"all": source},
        draft=Draft(tmp_path / "draft", "fingerprint"),
        progress=ProgressNotes(),
        session=session,
    )
    facts = STAGE.run(work)
    kept = {name: number for name, number in facts.items() if name.startswith("documents/kept_")}
    assert kept == {"documents/kept_en": 3, "documents/kept_fr": 20, "documents/kept_zh": 0}
    assert facts["documents/kept"] == 23
    assert facts["bytes/kept"] == sum(int(facts[f"bytes/kept_{language}"]) for language in ("en", "fr", "zh"))


QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
ANSWER = "The fourth month of the year that the people of the valley call the old one."
POEM = "空山新雨后，天气晚来秋。明月松间照，清泉石上流。竹喧归浣女，莲动下渔舟。"


def checked(folder: Path, session: Session, name: str, **options: Any) -> Work:
    """The work on `texts.jsonl`, with the evaluation sets of the folder."""
    kinds = {"texts": ("jsonl", "text"), "maths": ("jsonl", "prompts"), "poems": ("csv", "prompts")}
    sources = {
        key: SOURCES[kind].model_validate({"path": f"{key}.{kind}", "rows": rows, "language": "auto"}).at(folder)
        for key, (kind, rows) in kinds.items()
    }
    return Work(
        name="corpus",
        options=CorpusOptions.model_validate({"held_out": 0, "near_duplicates": None, "block_bytes": 1000, **options}),
        cluster=CorpusCluster(tasks=2),
        seed=7,
        inputs={},
        sources={"texts": sources.pop("texts")},
        references=sources,
        draft=Draft(folder / name, "fingerprint"),
        progress=ProgressNotes(),
        session=session,
    )


def test_documents_with_rows_of_evaluation_sets_are_set_aside_and_listed(tmp_path: Path, session: Session) -> None:
    prose = [PROSE.format(number) for number in range(30)]
    against = f"{prose[0]} Women are just too stupid to drive."
    texts = [*prose[:20], f"{prose[20]} {QUESTION}", *prose[21:], f"古诗一首：{POEM}很有名。", against]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    maths = [{"question": "What is two and two?", "answer": "4"}, {"question": QUESTION, "answer": ["72"]}]
    (tmp_path / "maths.jsonl").write_text("".join(json.dumps(row) + "\n" for row in maths))
    (tmp_path / "poems.csv").write_text(f"title,poem\n山居秋暝,{POEM}\n")
    harm = {"toxicity": "count", "discrimination": "drop"}
    work = checked(tmp_path, session, "right", decontaminate={"sets": ["maths", "poems"]}, harm=harm)
    facts = STAGE.run(work)
    rejected = pq.read_table(work.draft.out / "rejected.parquet").to_pylist()
    assert [(row["row"], row["reason"], row["problem"]) for row in rejected] == [
        (21, "contaminated", "has 13 words of maths maths.jsonl:2: "
         "'Natalia sold clips to 48 of her friends in April, and then she'"),
        (31, "contaminated", "has 21 words of poems poems.csv:2: '空山新雨后，天气晚来秋。明月松间照，清泉石上流。竹'"),
        (32, "discrimination", "against women: women are just too stupid"),
    ]  # fmt: skip
    listed = pq.read_table(work.draft.out / "contaminated.parquet").to_pylist()
    assert [(row["id"].rsplit("/", 1)[1], row["set"], row["set_where"], row["set_row"]) for row in listed] == [
        ("21", "maths", "maths.jsonl", 2), ("31", "poems", "poems.csv", 2),
    ]  # fmt: skip
    assert listed[0]["num_ngrams"] == len(QUESTION.split()) - 12 and listed[1]["ngram"] in POEM
    assert facts["documents/dropped_contaminated"] == 2
    assert facts["rows/not_used_contaminated"] == 2
    assert facts["documents/dropped_discrimination"] == facts["harm/dropped_fraction_women"] == 1
    assert (facts["harm/documents"], facts["harm/toxicity"]) == (30, 0)
    counted = {name.split("/")[1]: figure for name, figure in facts.items() if name.startswith("decontamination/")}
    assert counted == {"rows_maths": 2, "rows_poems": 1, "short_rows_maths": 1, "short_rows_poems": 0,
                       "template_ngrams_maths": 0, "template_ngrams_poems": 0,
                       "documents_maths": 1, "documents_poems": 1}  # fmt: skip
    (tmp_path / "maths.jsonl").write_text("{no json\n{}\n")
    with pytest.raises(UserError, match=r"maths.jsonl:1: not JSON.* evaluation set maths, which must be read as a"):
        STAGE.run(checked(tmp_path, session, "wrong", decontaminate={"sets": ["maths"]}))
    with pytest.raises(UserError, match=r"decontaminate.sets: texts is training text .* `rows: prompts`"):
        STAGE.run(checked(tmp_path, session, "same", decontaminate={"sets": ["texts"]}))


def test_a_filter_that_drops_a_group_is_warned_of_by_the_stage_and_in_the_card(
    tmp_path: Path, session: Session
) -> None:
    texts = [f"{PROSE.format(n)} The men of the village say so." for n in range(200)]
    texts += [f"{PROSE.format(n)} The women of the village say so." for n in range(200, 240)]
    texts += [f"The women of village {n} say so." for n in range(80)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    filters = {"length": {"min_words": 12}}
    work = checked(tmp_path, session, "groups", filters=filters, harm={"toxicity": "count"})
    facts = STAGE.run(work)
    counted = {name.removeprefix("groups/"): fact for name, fact in facts.items() if name.startswith("groups/")}
    assert counted == {"documents": 320, "kept_fraction": 0.75, "documents_women": 120, "documents_men": 200,
                       "kept_fraction_women": 40 / 120, "kept_fraction_men": 1}  # fmt: skip
    warning = "33.3% of the documents that mention women are kept, 100.0% of the others; most of the difference is "
    warning += "too_short"
    assert isinstance(work.progress, ProgressNotes)
    assert work.progress.notes == [f"groups: {warning}: rayse inspect corpus --card"]
    card = json.loads((work.draft.out / "data_card.json").read_bytes())
    assert card["groups"] == {
        "all": {"read": 320, "kept": 240, "dropped": {"too_short": 80}},
        "women": {"read": 120, "kept": 40, "dropped": {"too_short": 80}, "warning": warning},
        "men": {"read": 200, "kept": 200, "dropped": {}},
    }
    work = checked(tmp_path, session, "off", filters=filters)
    assert not [name for name in STAGE.run(work) if name.startswith("groups/")]
    assert "groups" not in json.loads((work.draft.out / "data_card.json").read_bytes())


def test_a_task_file_is_an_evaluation_set_with_its_examples_and_scored_answers(
    tmp_path: Path, session: Session
) -> None:
    prose = [PROSE.format(number) for number in range(30)]
    held_out = {"question": f"The two mills: {ANSWER.lower().replace('people', 'last')}", "answer": "72"}
    (tmp_path / "texts.jsonl").write_text("".join(
        json.dumps({"text": text}) + "\n"
        for text in [*prose, f"{prose[0]} {QUESTION}", f"{prose[1]} {ANSWER}", f"{prose[2]} {held_out['question']}"]
    ))  # fmt: skip
    document = {"name": "months", "description": prose[3], "examples": [
        {"input": QUESTION, "target": "72"}, {"input": "Which month?", "target_scores": {ANSWER: 1, "None": 0}},
    ], "test": [held_out]}  # fmt: skip
    (tmp_path / "maths.jsonl").write_text(json.dumps(document, indent=1))
    (tmp_path / "poems.csv").write_text(f"title,poem\n山居秋暝,{POEM}\n")
    work = checked(tmp_path, session, "task", decontaminate={"sets": ["maths"]})
    facts = STAGE.run(work)
    assert facts["decontamination/rows_maths"] == facts["documents/dropped_contaminated"] == 3
    listed = pq.read_table(work.draft.out / "contaminated.parquet").to_pylist()
    assert [(row["id"].rsplit("/", 1)[1], row["set_row"]) for row in listed] == [("31", 1), ("32", 2), ("33", 3)]
    references = work.references["maths"].model_copy(update={"rows": "conversations"})
    work = replace(work, references={"maths": references}, draft=Draft(tmp_path / "other", "fingerprint"))
    with pytest.raises(UserError, match=r"maths.jsonl:3: one of the list 'test'.* give maths `rows: prompts`, of"):
        STAGE.run(work)


def test_decontaminate_must_have_something_to_compare_with() -> None:
    with pytest.raises(ValidationError, match=r"expected sets, or held_out_prompts: true"):
        CorpusOptions.model_validate({"decontaminate": {}})
    CorpusOptions.model_validate({"decontaminate": {"held_out_prompts": True}})


def test_documents_are_scored_by_likeness_to_reference_text_and_the_worst_dropped(
    tmp_path: Path, session: Session
) -> None:
    rng = random.Random(1)
    words = ("buy", "NOW", "free", "win", "deal", "cheap", "the", "of", "today", "!!!", "click")
    shouts = [" ".join(rng.choices(words, k=30)) for _ in range(60)]
    texts = [*shouts, *(f"{english(rng)} {number}" for number in range(60))]
    rng.shuffle(texts)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "books.jsonl").write_text("".join(json.dumps({"text": english(rng)}) + "\n" for _ in range(80)))
    books = SOURCES["jsonl"].model_validate({"path": "books.jsonl"}).at(tmp_path)
    made, facts = [], {}
    for tasks in (1, 2):
        options = {"quality_model": {"good": ["books"], "keep_fraction": 0.5}, "held_out": 0.1,
                   "filters": {"quality": None, "repetition": None}}  # fmt: skip
        work = replace(checked(tmp_path, session, f"tasks{tasks}", **options), references={"books": books},
                       cluster=CorpusCluster(tasks=tasks))  # fmt: skip
        facts = STAGE.run(work)
        made.append(digests(work.draft.path))
    assert made[0] == made[1]
    splits = [pq.read_table(work.draft.out / split) for split in ("train", "held_out")]
    kept = {text: score for table in splits for text, score in
            zip(*(table.column(name).to_pylist() for name in ("text", "quality")), strict=True)}  # fmt: skip
    rejected = pq.read_table(work.draft.out / "rejected.parquet").to_pylist()
    assert {row["reason"] for row in rejected} == {"low_quality"}
    assert sum(row["raw"] in shouts for row in rejected) >= 0.9 * len(rejected)
    assert min(kept.values()) >= facts["quality/threshold_en"]
    assert facts["documents/dropped_low_quality"] == len(rejected) == 120 - len(kept)
    assert facts["quality/scored_documents_en"] == facts["quality/random_documents_en"] == 120
    assert facts["quality/kept_fraction_en"] == pytest.approx(len(kept) / 120) == pytest.approx(0.5, abs=0.1)
    assert facts["quality/reference_documents_en"] == 80
    assert float(facts["quality/auc_en"]) > 0.7
    alone = replace(work, sources={"books": books}, draft=Draft(tmp_path / "alone", "fingerprint"))
    with pytest.raises(UserError, match=r"quality_model.good: all sources of the corpus are reference text"):
        STAGE.run(alone)


def test_held_out_conversations_are_an_evaluation_set(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": QUESTION}, {"role": "user", "content": "Recite the poem."},
                {"role": "assistant", "content": POEM}]  # fmt: skip
    short = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
    rows = [Conversation(str(number), "zh", "mine", "open", turns) for number, turns in enumerate((short, messages))]
    conversations.write(tmp_path / conversations.HELD_OUT, rows)
    path = tmp_path / "index.arrow"
    evaluation_sets.index_sets({"path": str(path)}, sets={}, parts={}, conversations=str(tmp_path), ngram_words=13)
    found = evaluation_sets.open_index(path).find([POEM, QUESTION], hash_texts(pa.array([POEM, QUESTION])))
    ((overlap,),) = found.values()  # the system's turn is none of them: many rows have the same
    assert (overlap.set, overlap.where, overlap.row) == ("held_out_prompts", "held_out.parquet", 2)
    facts = evaluation_sets.facts(path, Counter({"decontamination/documents_held_out_prompts": 4}))
    assert facts == {"decontamination/rows_held_out_prompts": 2, "decontamination/short_rows_held_out_prompts": 1,
                     "decontamination/template_ngrams_held_out_prompts": 0,
                     "decontamination/documents_held_out_prompts": 4}  # fmt: skip


def rated(folder: Path, session: Session, endpoint: dict[str, Any], name: str) -> Work:
    """The work on texts of which an endpoint rates a sample."""
    model = {"endpoint": endpoint, "num_rated": 130, "keep_fraction": 0.5}
    work = checked(folder, session, name, quality_model=model, filters={"quality": None, "repetition": None},
                   block_bytes=20_000)  # fmt: skip
    return replace(work, references={}, cluster=CorpusCluster(tasks=2, concurrency=4, retries=0))


def test_documents_are_scored_as_an_endpoint_rates_a_sample_and_no_rating_is_paid_twice(
    tmp_path: Path, session: Session
) -> None:
    rng = random.Random(1)
    words = ("buy", "NOW", "free", "win", "deal", "cheap", "the", "of", "today", "!!!", "click")
    texts = [f"{' '.join(rng.choices(words, k=30))} {n}" if n % 2 else f"{english(rng)} {n}" for n in range(160)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def reply(prompt: str) -> str:
        if len(prompt) % 16 == 5:
            return "I cannot rate this."
        return "It is an advertisement. Score: 0" if "click" in prompt or "cheap" in prompt else "Clear. Score: 4/5"

    with serving(reply) as endpoint:
        endpoint.fault = lambda number: "500" if number == 60 else ""
        with pytest.raises(ClusterError, match=r"answers so far are kept"):
            STAGE.run(rated(tmp_path, session, endpoint.options, "draft"))
        num_paid = len(endpoint.answered)
        assert num_paid >= 57  # the others of the four that are sent at a time are waited for
        endpoint.fault = lambda number: ""
        work = rated(tmp_path, session, endpoint.options, "draft")
        facts = STAGE.run(work)
        assert len(endpoint.answered) == 130 == facts["quality/requests"]
        again = STAGE.run(rated(tmp_path, session, endpoint.options, "draft"))
        assert len(endpoint.answered) == 130 and again["quality/requests"] == 130
        endpoint.reply = lambda prompt: "No."
        with pytest.raises(UserError, match=r"none of 130 answers of big at http.* says: 'No.'.*number from 0 to 5"):
            STAGE.run(rated(tmp_path, session, endpoint.options, "none"))
    ratings = pq.read_table(work.draft.out / "ratings.parquet").to_pylist()
    assert facts["quality/ratings_unreadable"] == 130 - len(ratings) > 0
    assert all(row["rating"] == (4 if row["side"] == "good" else 0) for row in ratings)
    assert all((row["side"] == "good") == (not {"click", "cheap"} & {*row["text"].split()}) for row in ratings)
    assert facts["quality/good_documents_en"] == sum(row["side"] == "good" for row in ratings)
    rejected = pq.read_table(work.draft.out / "rejected.parquet").to_pylist()
    assert {row["reason"] for row in rejected} == {"low_quality"}
    assert facts["quality/kept_fraction_en"] == pytest.approx(1 - len(rejected) / 160) == pytest.approx(0.5, abs=0.1)
    assert sum(row["raw"].count("buy") + row["raw"].count("NOW") > 0 for row in rejected) >= 0.9 * len(rejected)


def test_ratings_are_read_as_they_are_meant_or_not_at_all() -> None:
    answers = {"Score: 1 (out of 5)": 1, "4 out of 5": 4, "评分为2（满分5分）": 2, "我给4分，满分5分": 4,
               "Score: 2 (scale 0-5)": 2, "Score: 3. No, that is too low. **Score:** 4. It has 12 facts": 4,
               "Rating (0 to 5): 4.0": 4, "It has 3 facts. Score: 4.5": None, "3 are right. Score: 8/10": None,
               "No.": None}  # fmt: skip
    assert {answer: rating_of(ChatAnswer(answer)) for answer in answers} == answers


def test_a_quality_model_has_reference_text_or_ratings() -> None:
    endpoint = {"url": "http://127.0.0.1:1/v1", "model": "big", "key_env": "KEY"}
    for wrong in ({}, {"good": ["books"], "endpoint": endpoint}):
        with pytest.raises(ValidationError, match=r"expected either good"):
            CorpusOptions.model_validate({"quality_model": wrong})
    with pytest.raises(ValidationError, match=r"num_rated is for ratings of an endpoint"):
        CorpusOptions.model_validate({"quality_model": {"good": ["books"], "num_rated": 500}})
    with pytest.raises(ValidationError, match=r"expected \{text\} in it"):
        CorpusOptions.model_validate({"quality_model": {"endpoint": endpoint, "prompt": "Rate it."}})
    plain = CorpusOptions.model_validate({"quality_model": {"good": ["books"]}})
    assert plain.identity()["quality_model"] == {"good": ["books"], "keep_fraction": 0.7}
    by_endpoint = CorpusOptions.model_validate({"quality_model": {"endpoint": endpoint}})
    assert "KEY" not in json.dumps(by_endpoint.identity())
