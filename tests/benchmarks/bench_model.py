"""The model of the PPO, sampler and server benchmarks: the 2m shape, random weights, a vocabulary of 4,096 tokens.

    Python sources, essays ──► tokenizer with a chat template ──► new Llama ──► a Hugging Face folder

With random weights the replies are nonsense, but generating them takes as long as with trained ones.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.guard import contrasts
from pipelines.data.tokens import tokenizing
from tests.tiny_models import CHINESE, MODULES

SIZE, VOCABULARY, LENGTH = "2m", 4096, 256
MAX_QUESTION_BYTES = 120  # with the reply it fits into LENGTH
MORE_MODULES = (
    "asyncio",
    "subprocess",
    "unittest",
    "tarfile",
    "ssl",
    "socket",
    "inspect",
    "doctest",
    "optparse",
    "pathlib",
)


def write(folder: Path, *, size: str = SIZE, seed: int = 7) -> Path:
    """Writes the model and its tokenizer into `folder` and returns it; the same arguments give the same bytes."""
    from pipelines.data.tokens.chat import Chat
    from pipelines.learning import model as models
    from pipelines.learning.saving import save
    from pipelines.learning.shapes import SIZES

    tokenizer = tokenizing.train(texts(), VOCABULARY)
    tokenizing.save(tokenizer, folder, max_tokens=LENGTH)
    encoder = Chat.open(folder).encoder
    if encoder.vocabulary != VOCABULARY:
        raise RuntimeError(f"the tokenizer has {encoder.vocabulary} tokens; expected {VOCABULARY}: give it more text")
    special = {f"{name}_token_id": getattr(encoder, f"{name}_id") for name in ("bos", "eos", "pad")}
    llama = models.from_scratch(SIZES[size], vocabulary=VOCABULARY, length=LENGTH, seed=seed, special=special)
    save(llama, llama.named_parameters(), folder)
    return folder


def texts() -> list[str]:
    """The tokenizer's training text: source code of the standard library, and Chinese essays."""
    modules = [importlib.import_module(name) for name in (*MODULES, *MORE_MODULES)]
    essays = [path.read_text(encoding="utf-8") for path in sorted(CHINESE.glob("*.txt"))]
    return [inspect.getsource(module) for module in modules] + essays


def ordinary_questions() -> list[Conversation]:
    """Ordinary requests that the guard learns from, English and Chinese in turn, each with its own text."""
    both = zip(contrasts.ordinary("en"), contrasts.ordinary("zh"), strict=True)
    texts = [(language, text) for pair in both for language, text in zip(("en", "zh"), pair, strict=True)]
    return [
        Conversation(f"ordinary/{number}", language, "bench", "ordinary", _asked(text), "")
        for number, (language, text) in enumerate(texts)
        if len(text.encode()) <= MAX_QUESTION_BYTES
    ]


def _asked(text: str) -> list[dict[str, str]]:
    """The messages of a request, with an empty reply: a prompt is all of them but the last."""
    return [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]


def questions(count: int) -> list[Conversation]:
    """Sums, English and Chinese in turn; each prompt has about 16 tokens with the chat template."""
    conversations = []
    for number in range(count):
        language, text = (("en", "What is {} + {}?"), ("zh", "{}加{}等于几?"))[number % 2]
        prompt = {"role": "user", "content": text.format(10 + number % 80, 10 + number % 70)}
        answer = str(20 + number % 80 + number % 70)
        messages = [prompt, {"role": "assistant", "content": answer}]
        conversations.append(Conversation(f"sums/{number}", language, "bench", "sums", messages, answer))
    return conversations
