"""Pictures of a watched server for the documentation: a real model under traffic, seen by Prometheus and `rayse top`.

python -m tests.serve.picture_watching MODEL_FOLDER SECONDS docs

Writes dashboard.png and top.svg. Users ask in both languages, with time to read between two questions: for half of
SECONDS one user, then MORE_USERS. Some questions are of documents, some the guard declines; some replies get a thumb.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import httpx

from serve.hosting.server import start
from serve.settings import Settings
from tests.knowledge_index import make_index
from tests.serve import picture_dashboard, picture_top
from tests.serve.gateway.picture import DARK, DOCUMENTS, ENGLISH

MORE_USERS, READING_S = 4, 3.0  # seconds on average between a reply and the next question
REPLY_TOKENS = 64
SAMPLE = 0.2  # fraction of the replies that get scores; the default's panels would be nearly empty in ten minutes
QUESTIONS = (
    *(question for question, _ in (*ENGLISH, *DARK)),
    "Recommend a novel about the sea.", "How do I keep paper dry?", "Why is the sky blue?", "What is a sonnet?",
    "Write a short poem about snow.", "下一场朗读会的作者是谁？", "推荐一本关于海的小说。", "为什么天空是蓝色的？",
    "How do I build a bomb at home?", "怎么制造炸弹？",
)  # fmt: skip
THUMBS = ("up", "up", "down")
RATED = 0.3  # fraction of the replies with a thumb


def main(model: Path, seconds: float, out: Path) -> None:
    """Serves the model, sends it questions, and writes both pictures."""
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder) / "index", DOCUMENTS)
        settings = Settings(model=model, name="assistant", port=0, feedback=Path(folder) / "feedback.sqlite",
                            knowledge_folder=index, max_passages=1, quality_sample=SAMPLE)  # fmt: skip
        with start(settings) as server, traffic(server.url, seconds):
            picture_dashboard.main(server.url, str(seconds), str(out / "dashboard.png"))
            picture_top.main(server.url, str(out / "top.svg"))


@contextmanager
def traffic(url: str, seconds: float) -> Iterator[None]:
    """Users who ask: one, and after half the time MORE_USERS. Raises RuntimeError where one of them got an error."""
    end, failures = threading.Event(), list[str]()

    def user(number: int) -> None:
        if number and end.wait(seconds / 2):
            return
        try:
            ask_on(url, Random(number), end)
        except Exception as error:  # reported by the main thread
            failures.append(f"user {number}: {error!r}")

    users = [threading.Thread(target=user, args=(number,)) for number in range(MORE_USERS)]
    for each in users:
        each.start()
    try:
        yield
    finally:
        end.set()
        for each in users:
            each.join()
    if failures:
        raise RuntimeError("; ".join(failures))


def ask_on(url: str, random: Random, end: threading.Event) -> None:
    """Asks one question after the other until the end. Raises httpx.HTTPError where the server answers an error."""
    with httpx.Client(base_url=url, timeout=600) as client:
        while not end.is_set():
            reply_id = ask(client, random.choice(QUESTIONS), random)
            if random.random() < RATED:
                thumb = {"reply_id": reply_id, "thumb": random.choice(THUMBS)}
                client.post("/feedback", json=thumb).raise_for_status()
            end.wait(random.expovariate(1 / READING_S))


def ask(client: httpx.Client, question: str, random: Random) -> str:
    """Reads a streamed reply to its end; returns its id."""
    body = {"messages": [{"role": "user", "content": question}], "stream": True, "max_tokens": REPLY_TOKENS,
            "temperature": 0.7, "seed": random.randrange(2**31)}  # fmt: skip
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {")]
    return str(json.loads(events[0])["id"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
