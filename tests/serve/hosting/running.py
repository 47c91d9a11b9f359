"""`rayse serve` in a process, and requests that run while an alias is moved."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from pipelines.store.artifacts import Artifact, Manifest, Store
from tests.cluster.conftest import ROOT

CHAT = "/v1/chat/completions"


def put_model(store: Store, name: str, folder: Path, **manifest: Any) -> Artifact:
    """Puts a model's folder into a store, as a stage sft would. manifest: further fields of its manifest."""
    draft = store.draft(f"{name:0>16}".replace("_", "0"))
    shutil.copytree(folder, draft.out, dirs_exist_ok=True)
    fields = {"kind": "model", "stage": "sft", "name": name, "stage_version": 1, "seed": 0, "options": {}, "code": ""}
    return store.commit(draft, Manifest(fingerprint=draft.fingerprint, **fields | manifest))


def body(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """A chat request of one short greedy reply."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 6, "temperature": 0, **fields}


class Running:
    """A `rayse serve` that is ready. log: what it prints."""

    def __init__(self, client: httpx.Client, log: Path):
        self.client, self.log = client, log

    def counted(self, server_model: str) -> float:
        """The chats that the gateway of a model has answered, as /metrics has them."""
        lines = self.client.get("/metrics").text.splitlines()
        labels = (f'server_model="{server_model}"', f'route="{CHAT}"')
        of_model = [line for line in lines if line.startswith("rayse_requests_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in of_model if all(label in line for label in labels))

    def started(self, server_model: str) -> float:
        """When the process with a model's engine started, in seconds since 1970."""
        name = f'process_start_time_seconds{{server_model="{server_model}"}} '
        (line,) = [line for line in self.client.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(line.removeprefix(name))

    def wait_for(self, text: str) -> None:
        """Waits until a line of the log has this text."""
        for _ in range(3000):
            if text in self.log.read_text():
                return
            threading.Event().wait(0.1)
        raise AssertionError(self.log.read_text())

    @contextlib.contextmanager
    def requests(self, *models: str) -> Iterator[Counter[int]]:
        """Chats with each of the models, one after another, while the context lasts. Yields their statuses."""
        done, statuses = threading.Event(), Counter[int]()

        def send(model: str) -> None:
            with httpx.Client(base_url=self.client.base_url, timeout=300) as client:  # one a thread
                while not done.is_set():
                    statuses[client.post(CHAT, json=body(model=model)).status_code] += 1

        with ThreadPoolExecutor(len(models)) as pool:
            sending = [pool.submit(send, model) for model in models]
            try:
                yield statuses
            finally:
                done.set()
            for each in sending:
                each.result()


@contextlib.contextmanager
def rayse_serve(folder: Path, store: Store, *arguments: str) -> Iterator[Running]:
    """`rayse serve` on a free port, until the context ends; it must then stop at SIGTERM."""
    command = [sys.executable, "-m", "pipelines", "serve", *arguments, "--store", str(store.root), "--port", "0"]
    log = folder / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, "--json"], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=stderr,
                                   env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        try:
            assert process.stdout
            ready = process.stdout.readline()
            assert ready, log.read_text()
            with httpx.Client(base_url=json.loads(ready)["url"], timeout=300) as client:
                yield Running(client, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) in (0, 130)
        finally:
            process.kill()
            process.wait()
