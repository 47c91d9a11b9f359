"""LoRA adapters served beside their base: which are refused, and one real server with two of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from serve.hosting import adapters
from serve.settings import Settings
from serve.verbs.commands import Follower, load_service
from serve.verbs.promote import promote
from tests.serve.gateway.test_gateway import check_error
from tests.serve.hosting import lora_models
from tests.serve.hosting.running import CHAT, body, put_model, rayse_serve
from tests.tiny_models import Tiny, rows

Tensors = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
BASE = f"{'aaaa':0>16}"


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter of rank 12 of the model `first`, and the merged model."""
    return lora_models.write(tiny.first, tmp_path_factory.mktemp("trained") / "model", seed=0, r=12)


@pytest.fixture
def store(tiny: Tiny, trained: Path, tmp_path: Path) -> Store:
    """A store with a base, another model, and an adapter of the base."""
    store = Store(tmp_path / "store").create()
    put_model(store, "aaaa", tiny.first)
    put_model(store, "bbbb", tiny.second)
    put_model(store, "cccc", trained, parents={"model": BASE})
    return store


def changed(trained: Path, folder: Path, config: dict[str, Any], tensors: Tensors | None = None) -> Path:
    """A copy of the folder with other keys of the adapter's configuration (None: without it), and with its tensors as
    `tensors` leaves them."""
    files = Path(shutil.copytree(trained, folder / "changed"))
    of_config, of_tensors = (files / "adapter" / f"adapter_{name}" for name in ("config.json", "model.safetensors"))
    written = json.loads(of_config.read_text()) | config
    for key in (key for key, value in config.items() if value is None):
        del written[key]
    of_config.write_text(json.dumps(written))
    if tensors is not None:
        save_file(tensors(load_file(of_tensors)), of_tensors)
    return files


def load(store: Store, base: str, **adapter_names: str) -> Settings:
    return load_service(store, [f"{base:0>16}"], None, {name: f"{of:0>16}" for name, of in adapter_names.items()})


def test_an_adapter_is_served_with_the_model_that_it_was_trained_on_alone(store: Store, tmp_path: Path) -> None:
    settings = load(store, "aaaa", support="cccc")
    (adapter,) = settings.models[1:]
    assert (adapter.name, adapter.adapter_of, adapter.version) == ("support", "aaaa", f"{'cccc':0>16}")
    assert settings.engines == settings.models[:1]
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(UserError, match=r"--adapter support: was trained on top of aaaa 0*aaaa, and bbbb, which is "
                                        r"served, is bbbb 0*bbbb; expected an adapter of that"):  # fmt: skip
        load(store, "bbbb", support="cccc")
    with pytest.raises(UserError, match=r"--adapter support: 0*bbbb has no adapter; expected what sft, dpo or ppo"):
        load(store, "aaaa", support="bbbb")
    with pytest.raises(UserError, match="two models are named aaaa"):
        load(store, "aaaa", aaaa="cccc").check()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"peft_type": "IA3", "r": None, "lora_alpha": None}, "of the type IA3"),
        ({"use_dora": True}, "dora"),
        ({"target_parameters": ["experts.down_proj"]}, "experts"),
        ({"modules_to_save": ["score"]}, "whole layers"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"q_proj": 4}}, "ranks or scales of single layers"),
        ({"alpha_pattern": {"q_proj": 4}}, "ranks or scales of single layers"),
        ({"r": 1024}, "has rank 1024; expected at most 512"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve_is_refused_with_the_way_out(
    store: Store, trained: Path, tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    put_model(store, "dddd", changed(trained, tmp_path, config), parents={"model": BASE})
    with pytest.raises(UserError, match=problem):
        load(store, "aaaa", support="dddd")


QUERY = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{QUERY}.lora_{side}.weight" for side in "AB")
UNFIT: dict[str, tuple[Tensors, str]] = {
    "rank": (lambda each: each | {A: each[A][:4].copy(), B: each[B][:, :4].copy()},
             rf"{QUERY}: lora_A is 4 × 64, lora_B 64 × 4, and the layer of the base 64 × 64; expected .* rank 12"),
    "shape": (lambda each: each | {B: each[B][:32].copy()}, f"{QUERY}: lora_A is 12 × 64, lora_B 32 × 12"),
    "layer": (lambda each: {name.replace("layers.0", "layers.9"): tensor for name, tensor in each.items()},
              r"matrices for model.layers.9.\S+, and its base has no such linear layer"),
    "target": (lambda each: {name.replace("q_proj", "query"): tensor for name, tensor in each.items()},
               r"matrices for model.layers.0.self_attn.query, and its base has no such linear layer"),
    "half": (lambda each: {name: tensor for name, tensor in each.items() if name != B}, "one of two matrices for"),
    "other": (lambda each: each | {B.replace("lora_B.weight", "lora_B.bias"): each[B][0].copy()},
              "lora_B.bias of 12, which is no matrix of LoRA"),
    "empty": (lambda each: {}, "has no tensors"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "problem"), UNFIT.values(), ids=UNFIT)
def test_an_adapter_that_its_base_could_not_load_reaches_no_engine(
    store: Store, trained: Path, tmp_path: Path, tensors: Tensors, problem: str
) -> None:
    put_model(store, "dddd", changed(trained, tmp_path, {}, tensors), parents={"model": BASE})
    with pytest.raises(UserError, match=rf"^--adapter support: dddd 0*dddd: .*{problem}.*serve the merged model"):
        load(store, "aaaa", support="dddd")
    # A server that follows an alias keeps what it has.
    promote(store, f"{'cccc':0>16}", "support", reason="", as_json=False)
    follow = Follower(store, ["support"], lambda: load_service(store, [BASE], None, {"support": "support"}))
    promote(store, f"{'dddd':0>16}", "support", reason="", as_json=False)
    with pytest.raises(UserError, match="--adapter support: dddd"):
        follow()
    assert follow() is None


def test_a_file_without_tensors_is_refused(store: Store, trained: Path, tmp_path: Path) -> None:
    files = changed(trained, tmp_path, {})
    (files / "adapter" / "adapter_model.safetensors").write_bytes(b"no header")
    put_model(store, "dddd", files, parents={"model": BASE})
    with pytest.raises(UserError, match=r"adapter/adapter_model.safetensors: cannot be read"):
        load(store, "aaaa", support="dddd")


def test_an_adapter_trained_in_4_bits_says_so(store: Store, trained: Path) -> None:
    put_model(store, "dddd", trained, parents={"model": BASE}, options={"lora": {"rank": 12, "qlora": True}})
    settings = load(store, "aaaa", plain="cccc", small="dddd")
    assert [adapters.note(store, each)[:60] for each in settings.models[1:]] == [
        "", "small: its adapter was trained beside weights in 4 bits (qlo",
    ]  # fmt: skip


@pytest.mark.parametrize(("num_adapters", "slots"), [(1, 4), (2, 8), (3, 8), (4, 16)])
def test_a_slot_stays_empty_while_every_adapter_is_replaced(store: Store, num_adapters: int, slots: int) -> None:
    names = {f"a{number}": "cccc" for number in range(num_adapters)}
    sizes = adapters.engine_sizes(load(store, "aaaa", **names).models[1:])
    assert sizes == {"adapter_slots": slots, "adapter_rank": 16}  # for rank 12
    assert slots > 2 * num_adapters


@pytest.mark.slow
def test_a_batch_that_mixes_a_base_and_its_adapters_is_exact_and_one_moves_on(tiny: Tiny, tmp_path: Path) -> None:
    """Every reply of a busy batch is the one that transformers gives with the merged model; then an alias is moved."""
    store = Store(tmp_path / "store").create()
    base = put_model(store, "aaaa", tiny.first)
    folders = {"aaaa": tiny.first}
    for number, name in enumerate(("one", "two", "three")):
        folders[name] = lora_models.write(tiny.first, tmp_path / name, seed=number, r=(8, 4, 8)[number])
        put_model(store, f"ad{number}", folders[name], parents={"model": base.fingerprint})
    promote(store, f"{'ad0':0>16}", "one", reason="", as_json=False)
    prompts = rows(3, 24, seed=3)
    expected = {
        (name, number): lora_models.greedy(folder, prompt, 8)
        for name, folder in folders.items()
        for number, prompt in enumerate(prompts)
    }
    arguments = (base.fingerprint, "--adapter", "one", "--adapter", f"two={'ad1':0>16}")
    with rayse_serve(tmp_path, store, *arguments) as server:

        def check(name: str, number: int, of: str) -> None:
            request = {"model": name, "prompt": prompts[number], "max_tokens": 8, "temperature": 0, "logprobs": 1}
            choice = server.client.post("/v1/completions", json={**request, "ignore_eos": True}).json()["choices"][0]
            ids, scores = expected[of, number]
            assert choice["logprobs"]["token_logprobs"] == pytest.approx(scores, abs=1e-3), (name, number, ids)

        def check_all(one: str) -> None:
            cells = [(name, number, of) for number in range(3) for name, of in (("aaaa", "aaaa"), ("one", one),
                                                                                ("two", "two"))]  # fmt: skip
            for cell in cells[:3]:
                check(*cell)  # each alone
            with ThreadPoolExecutor(len(cells)) as pool:
                assert list(pool.map(lambda cell: check(*cell), cells))

        assert [each["id"] for each in server.client.get("/v1/models").json()["data"]] == ["aaaa", "one", "two"]
        check_all("one")
        reply = server.client.post(CHAT, json=body(model="two")).json()
        assert reply["model"] == "two"
        stored = server.client.post("/feedback", json={"receipt": reply["rayse_receipt"], "thumb": "up"})
        assert stored.status_code == 200
        streamed = server.client.post(CHAT, json=body(model="two", stream=True)).text
        assert '"model":"two"' in streamed and "@" not in streamed.replace("data: ", "")
        assert server.counted(f"two {'ad1':0>16}") == 2
        for name in ("aaaa", "two"):  # would end the engine
            scored = {"model": name, "prompt": prompts[0], "max_tokens": 1, "echo": True, "logprobs": 0}
            check_error(server.client.post("/v1/completions", json=scored), 400, "unsupported_parameter")
        check_error(server.client.post(CHAT, json=body(model="ad0")), 404, "model_not_found")

        started = server.started(f"aaaa {base.fingerprint}")
        with server.requests("aaaa", "one", "two") as statuses:
            promote(store, f"{'ad2':0>16}", "one", reason="better", as_json=False)
            server.wait_for(f"one: serving version {'ad2':0>16}, before {'ad0':0>16}")
        assert set(statuses) == {200}
        assert server.started(f"aaaa {base.fingerprint}") == started  # the process and its engine are the same
        check_all("three")
