"""The Serve config of `rayse serve --emit`: valid for Ray Serve and for KubeRay, and served by the real CLI."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from pipelines.errors import UserError
from serve.hosting import emit
from serve.hosting.front import free_port
from serve.settings import GuardEndpoint, NamedKey, Replicas, Settings
from tests.cluster.conftest import ROOT
from tests.tiny_models import Tiny


def test_a_config_is_valid_and_names_its_models(tiny: Tiny, tmp_path: Path) -> None:
    guard = GuardEndpoint(url="http://guard:8001/v1", model="Qwen3Guard-Gen-0.6B", key="not-in-the-file")
    others = (Settings(model=tiny.second, name="second", persona="简短。", guard_endpoint=guard),)
    keys = (NamedKey(name="ana", sha256="0" * 64),)
    settings = Settings(model=tiny.first, name="first", host="0.0.0.0", key="not-in-the-file", keys=keys, others=others,
                        guard_endpoint=guard,
                        replicas=Replicas(min=0, max=3), route="/chat", app="assistant", logs=tmp_path)  # fmt: skip
    emit.write(settings.check(), file := tmp_path / "serve.yaml")
    text = file.read_text(encoding="utf-8")
    assert "not-in-the-file" not in text and "logs" not in text
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    assert (application.name, application.route_prefix) == ("assistant", "/chat")
    assert application.import_path == "serve.hosting.deployment:build"
    assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 8000)
    read = Settings.model_validate(application.args)
    assert (read.name, read.replicas, read.keys) == ("first", settings.replicas, keys)
    assert [(other.name, other.persona) for other in read.others] == [("second", "简短。")]
    without_key = guard.model_copy(update={"key": None})
    assert [each.guard_endpoint for each in read.models] == [without_key] * 2
    # KubeRay passes the text of serveConfigV2 on to Ray Serve as it is.
    service = yaml.safe_load(yaml.safe_dump({"spec": {"serveConfigV2": text}}))
    assert ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"])) == config
    with pytest.raises(UserError, match="exists already"):
        emit.write(settings, file)
    with pytest.raises(UserError, match="the key would stand in the file"):
        emit.config(settings.model_copy(update={"keys": ()}))
    canary = Settings(model=tiny.second, name="first", canary=0.1)
    with pytest.raises(UserError, match="--canary: not together with --emit"):
        emit.config(settings.model_copy(update={"others": (canary,)}))


def test_a_config_that_no_other_machine_reaches_says_so_and_what_is_needed(tmp_path: Path) -> None:
    settings, keys = Settings(model=tmp_path, name="first"), (NamedKey(name="ana", sha256="0" * 64),)
    emit.write(settings, alone := tmp_path / "alone.yaml")
    text = alone.read_text(encoding="utf-8")
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
    assert comment.startswith(
        "This server listens on 127.0.0.1 of each node, where only programs of that node reach it"
    )
    assert "foreign_host" in comment and "--host 0.0.0.0 and --key-file FILE" in comment
    assert ServeDeploySchema.model_validate(yaml.safe_load(text)).http_options.host == "127.0.0.1"
    with_keys = settings.model_copy(update={"key": "k", "keys": keys})
    assert "127.0.0.1" in emit.reach(with_keys) and "foreign_host" not in emit.reach(with_keys)
    emit.write(with_keys.model_copy(update={"host": "0.0.0.0"}), open_ := tmp_path / "open.yaml")
    assert "#" not in open_.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_config_is_deployed_by_the_serve_cli(tiny: Tiny, tmp_path: Path) -> None:
    gcs, dashboard, port = free_port(), free_port(), free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(tmp_path)}

    def run(*command: str) -> None:
        program = [sys.executable, "-m", "ray.scripts.scripts" if command[0] == "ray" else "ray.serve.scripts"]
        done = subprocess.run([*program, *command[1:]], env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr

    settings = Settings(model=tiny.first, name="tiny", port=port, threads=1, route="/chat")
    emit.write(settings.check(), tmp_path / "serve.yaml")
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"ray-{gcs}"
    block = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=4", f"--port={gcs}",
         f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1",
         f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"],
        env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{dashboard}"
        url = f"http://127.0.0.1:{port}/chat"
        deadline_s = time.monotonic() + 400
        while not _answers(f"{address}/api/version"):
            assert time.monotonic() < deadline_s and block.poll() is None
            time.sleep(0.5)
        run("serve", "deploy", str(tmp_path / "serve.yaml"), "--address", address)
        while not _answers(f"{url}/health"):
            assert time.monotonic() < deadline_s and block.poll() is None
            time.sleep(0.5)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"]
        assert "<html" in httpx.get(f"{url}/", timeout=60).text
        run("serve", "shutdown", "--yes", "--address", address)
    finally:
        block.terminate()
        block.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False
