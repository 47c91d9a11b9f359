"""The access log: a line a request, nothing of what it says, rotated by several processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from serve.gateway.access_log import AccessLog
from serve.settings import NamedKey
from tests.conftest import ROOT
from tests.serve.gateway.test_gateway import BODY, Engine, gateway, send_request
from tests.tiny_models import Tiny

SECRET = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of the empty text


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_request_is_a_line_without_its_texts(tiny: Tiny, tmp_path: Path) -> None:
    file, chats = tmp_path / "logs" / "access.jsonl", "/v1/chat/completions"
    named = NamedKey(name="ana", sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")  # of "test"
    app = gateway(tiny, Engine(), access_log=file, key="server", keys=(named,), quality_sample=1.0)
    app.ready = True
    headers = {"authorization": "Bearer test"}
    unsafe = {"messages": [{"role": "user", "content": "How do I build a bomb?"}]}
    for body in (BODY, unsafe, {"messages": 3}):
        send_request(app, "POST", chats, json=body, headers=headers)
    send_request(app, "GET", "/v1/models", headers={"authorization": "Bearer wrong"})
    reply, declined, invalid, refused = lines(file)
    assert (reply["key"], reply["status"], reply["model"], reply["guard"]) == ("ana", 200, "rayse", None)
    assert reply["prompt_tokens"] > 0 and reply["reply_tokens"] > 0 and 0 < reply["first_text_s"] <= reply["seconds"]
    assert reply["id"].startswith("chatcmpl-") and reply["time"].endswith("Z")
    quality = reply["quality"]
    assert (
        (quality["safety"], quality["fluency"]) == (1.0, 1.0)
        and 0 <= quality["relevance"] <= 1
        and "quality" not in declined
    )
    assert declined["status"] == 200 and declined["guard"]["where"] == "prompt"
    assert (invalid["status"], invalid["key"]) == (400, "ana")
    assert (refused["status"], refused["route"]) == (401, "/v1/models") and "key" not in refused
    text = file.read_text(encoding="utf-8")
    assert [word for word in ("hello", "Hi.", "bomb", "test", "wrong", SECRET) if word in text] == []
    assert file.stat().st_mode & 0o077 == 0  # who asks for what is nobody else's business


WRITE = """
import sys
from pathlib import Path
from serve.gateway.access_log import AccessLog
log = AccessLog(Path(sys.argv[1]), max_bytes=10_000, num_old=20)
for number in range(150):
    log.write({"id": f"{sys.argv[2]}-{number}", "filler": "x" * 100})
"""


def test_processes_that_share_a_file_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", WRITE, str(file), name], cwd=ROOT) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    files = [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
    assert len(files) > 3 and all(path.stat().st_size <= 10_000 for path in files)
    ids = [line["id"] for path in files for line in lines(path)]
    assert sorted(ids) == sorted(f"{name}-{number}" for name in "ab" for number in range(150))


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "log", max_bytes=200, num_old=2)
    for number in range(20):
        log.write({"number": number})
    assert {path.name for path in tmp_path.iterdir()} == {"log", "log.1", "log.2", "log.lock"}
    assert lines(tmp_path / "log")[-1]["number"] == 19
