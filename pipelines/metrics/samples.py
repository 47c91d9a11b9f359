"""Samples: how a model goes on with held-out texts, for people to read. No figure."""

from __future__ import annotations

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.metrics.metric import Answers, Document, Material, Prompt, Requests, Score, drawn_seed

BROKEN = "\ufffd"  # what the bytes of half a character decode to


class Samples:
    """The beginnings of a few documents of each language, continued, also by the model before where there is one."""

    def requests(self, material: Material) -> Requests | None:
        prompts = [
            Prompt(
                [material.start_id, *begin],
                seed=drawn_seed(document.id, material.seed),
                about=document.language,
            )
            for document, begin in _beginnings(material)
        ]
        return Requests(prompts=prompts, sampling=material.sampling, asks="both") if prompts else None

    def score(self, material: Material, requests: Requests, answers: Answers, previous: Answers | None) -> Score:
        rows = []
        for number, (prompt, reply) in enumerate(zip(requests.prompts, answers.replies, strict=True)):
            begin = prompt.tokens[1:]
            row = {
                "metric": "samples",
                "language": prompt.about,
                "prompt": _text(material.encoder, begin),
                "reply": _text(material.encoder, reply.tokens),
            }
            if previous is not None:
                row["reply_before"] = _text(material.encoder, previous.replies[number].tokens)
            rows.append(row)
        return Score(rows=rows)


def _beginnings(material: Material) -> list[tuple[Document, list[int]]]:
    """The first documents of each language that are longer than a prompt, cut where a character ends."""
    length = min(material.prompt_tokens, material.context // 2)
    found: dict[str, list[tuple[Document, list[int]]]] = {language: [] for language in material.languages}
    for document in material.documents:
        own = found[document.language]
        if len(own) < material.num_samples:
            (tokens,) = material.encoder.encode([document.text])
            begin = tokens[:length].tolist()
            while begin and _text(material.encoder, begin).endswith(BROKEN):
                begin.pop()
            if begin and len(tokens) > length:
                own.append((document, begin))
    return [one for own in found.values() for one in own]


def _text(encoder: Encoder, tokens: list[int]) -> str:
    return encoder.tokenizer.decode(tokens, skip_special_tokens=True)


METRIC = Samples()
