"""Samples: continuations of held-out texts for people to read. No figure."""

from __future__ import annotations

from pipelines.data.tokens.tokenizing import Encoder
from pipelines.metrics.metric import Document, Material, Outputs, Prompt, Requests, Score, named_seed

BROKEN = "\ufffd"  # what the bytes of half a character decode to


def beginnings(material: Material) -> Requests | None:
    """The beginnings of a few documents of each language, to be continued, also by the previous model."""
    prompts = [
        Prompt([material.start_id, *tokens], named_seed(document.id, material.seed), document.language)
        for document, tokens in _beginnings(material)
    ]
    return Requests(prompts=prompts, sampling=material.sampling, models="both") if prompts else None


def score(material: Material, requests: Requests, outputs: Outputs, previous: Outputs | None) -> Score:
    """Rows {metric, language, prompt, reply, reply_before?}; reply_before: the previous model's."""
    rows = []
    for number, (prompt, reply) in enumerate(zip(requests.prompts, outputs.replies, strict=True)):
        row = {
            "metric": "samples",
            "language": prompt.language,
            "prompt": _text(material.encoder, prompt.tokens[1:]),
            "reply": _text(material.encoder, reply.tokens),
        }
        if previous is not None:
            row["reply_before"] = _text(material.encoder, previous.replies[number].tokens)
        rows.append(row)
    return Score(rows=rows)


def _beginnings(material: Material) -> list[tuple[Document, list[int]]]:
    """The first documents of each language that are longer than a prompt, cut where a character ends."""
    length = min(material.prompt_tokens, material.context // 2)
    chosen: dict[str, list[tuple[Document, list[int]]]] = {language: [] for language in material.languages}
    for document in material.documents:
        if len(chosen[document.language]) < material.num_samples:
            (tokens,) = material.encoder.encode([document.text])
            beginning = tokens[:length].tolist()
            while beginning and _text(material.encoder, beginning).endswith(BROKEN):
                beginning.pop()
            if beginning and len(tokens) > length:
                chosen[document.language].append((document, beginning))
    return [item for items in chosen.values() for item in items]


def _text(encoder: Encoder, tokens: list[int]) -> str:
    return encoder.tokenizer.decode(tokens, skip_special_tokens=True)
