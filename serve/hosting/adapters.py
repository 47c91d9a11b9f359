"""LoRA adapters of one engine: models behind the same address that share the weights of the base that is served.

    artifact of sft, dpo, ppo ──adapter/──► engine of its base ──► requests of the model NAME

Each has a gateway of its own, with the chat template, guard and persona of its artifact. vLLM knows it by a name of its
version, so that the replies of two versions, and what its cache holds of them, are never mixed.

Two faults of vLLM 0.29 decide the sizes here: on a CPU the requests of the plain base get the adapter in the last slot,
so that one slot more than are ever used stays empty; and log-probabilities of a prompt end the engine where a batch has
several requests, so that a server with adapters refuses them (gateway/request.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.store.artifacts import Store
from serve.gateway import asgi
from serve.gateway.asgi import App, Event, Receive, Scope, Send
from serve.hosting import adapter_weights
from serve.hosting.artifacts import MODEL
from serve.settings import Settings

FOLDER, CONFIG_FILE = "adapter", "adapter_config.json"  # of a model's artifact, as PEFT writes them
REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")  # keys of its configuration
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # maximum ranks that vLLM's engine takes


def adapted(store: Store, base: Settings, adapter: Settings) -> Settings:
    """The settings of a model as an adapter of another one. adapter: as the model would be served by itself, under the
    name that requests choose it by.

    Raises UserError where it has no adapter that vLLM serves, was trained beside the weights of another model, or does
    not fit those: an engine gets none that it could not load."""
    what = f"--adapter {adapter.name}"
    config = _read_config(what, adapter.model)
    artifact = store.find(MODEL, adapter.version)
    trained_on = artifact.manifest.parents.get(MODEL, "") if artifact else ""
    if trained_on != base.version:
        raise UserError(f"{what}: was trained on top of {_named(store, trained_on)}, and {base.name}, which "
                        f"is served, is {_named(store, base.version)}; expected an adapter of that")  # fmt: skip
    if config["r"] > RANKS[-1]:
        raise UserError(f"{what}: has rank {config['r']}; expected at most {RANKS[-1]}, which vLLM serves")
    adapter_weights.check_fits(f"{what}: {_named(store, adapter.version)}", adapter.model / FOLDER, base.model,
                               rank=config["r"], transposed=bool(config.get("fan_in_fan_out")))  # fmt: skip
    return adapter.model_copy(update={"adapter_of": base.name})


def note(store: Store, adapter: Settings) -> str:
    """What a user should know of an adapter that is served; empty where that is nothing."""
    artifact = store.find(MODEL, adapter.version)
    lora = artifact.manifest.options.get("lora") if artifact else None
    if not lora or not lora.get("qlora"):
        return ""
    return (f"{adapter.name}: its adapter was trained beside weights in 4 bits (qlora), and is served beside the same "
            f"weights as they are stored")  # fmt: skip


def _named(store: Store, fingerprint: str) -> str:
    artifact = store.find(MODEL, fingerprint) if fingerprint else None
    return f"{artifact.manifest.name} {fingerprint}" if artifact else fingerprint or "no model of this store"


def _read_config(what: str, model: Path) -> dict[str, Any]:
    """PEFT's configuration of the adapter of a model's folder. Raises UserError for one that vLLM does not serve."""
    file = model / FOLDER / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{what}: {model.name} has no adapter; expected what sft, dpo or ppo made with `lora:`")
    config = json.loads(file.read_text(encoding="utf-8"))
    required = REQUIRED if config.get("peft_type", "LORA") == "LORA" else ()
    missing = [key for key in required if key not in config]
    if missing:
        raise UserError(f"{what}: {model.name}/{FOLDER}/{CONFIG_FILE} has no {', '.join(missing)}; expected PEFT's "
                        f"configuration, as sft, dpo or ppo write it. Train it anew")  # fmt: skip
    unsupported = [
        label
        for label, is_so in (
            (f"of the type {config['peft_type']}", config["peft_type"] != "LORA"),
            ("with magnitudes apart (dora)", config.get("use_dora")),
            ("of a mixture's experts", config.get("target_parameters")),
            ("with whole layers beside it", config.get("modules_to_save")),
            ("with biases", config.get("bias", "none") != "none"),
            ("with ranks or scales of single layers", config.get("rank_pattern") or config.get("alpha_pattern")),
        )
        if is_so
    ]
    if unsupported:
        raise UserError(f"{what}: is an adapter {', '.join(unsupported)}; expected plain LoRA, which vLLM serves on "
                        f"top of its base. Serve the merged model instead: `rayse serve {model.name}`")  # fmt: skip
    return config


def engine_sizes(adapters: Sequence[Settings]) -> dict[str, int]:
    """The settings `adapter_slots` and `adapter_rank` of an engine with these adapters; empty without.

    Slots: for each adapter and its next version while one takes over from the other, and one that stays empty; a power
    of two, so that the engine need not start anew for every further adapter."""
    if not adapters:
        return {}
    ranks = [_read_config(adapter.name, adapter.model)["r"] for adapter in adapters]
    slots = 1 << (2 * len(adapters)).bit_length()
    return {"adapter_slots": slots, "adapter_rank": next(rank for rank in RANKS if rank >= max(ranks))}


def engine_name(adapter: Settings) -> str:
    """The name by which vLLM knows this version of an adapter."""
    return f"{adapter.name}@{adapter.version}"


def renamed(app: App, adapter: Settings) -> App:
    """vLLM's application for requests of an adapter: they name the version, and its responses name the model."""
    name, version = adapter.name, engine_name(adapter)
    written = [asgi.dumps({"model": each})[1:-1] for each in (version, name)]

    async def renaming(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_renamed() -> Event:
            event = await receive()
            if event["type"] != "http.request" or not event.get("body"):
                return event
            return {**event, "body": asgi.dumps({**json.loads(event["body"]), "model": version})}

        async def send_renamed(event: Event) -> None:
            if event["type"] == "http.response.body":  # in a text the quotes of this would be escaped
                event = {**event, "body": event.get("body", b"").replace(*written)}
            await send(event)

        await app(scope, receive_renamed, send_renamed)

    return renaming
