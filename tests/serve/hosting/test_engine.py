"""serve/hosting/engine.py without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ray.experimental import internal_kv

from cluster.session import Session
from serve.hosting.engine import imported

FACTORY = "ray.llm._internal.serve.engines.vllm.kv_transfer.factory"
REGISTRY = "ray.llm._internal.serve.utils.registry"


def test_a_replica_imports_ray_beside_others_that_do(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    exists, asked = internal_kv._internal_kv_exists, dict[bytes, bytes | None]()

    def exists_a_moment_later(key: bytes) -> bool:
        """Says that a connector is not registered yet when first asked; another process registers it then."""
        if b"kv_connector_backend/" not in key or key in asked:
            return exists(key)
        asked[key] = internal_kv._internal_kv_get(key)
        internal_kv._internal_kv_put(key, b"another process's")
        return False

    monkeypatch.setattr(internal_kv, "_internal_kv_exists", exists_a_moment_later)
    for module in (FACTORY, REGISTRY):
        monkeypatch.delitem(sys.modules, module, raising=False)
    try:
        factory = imported(FACTORY)
    finally:
        for key, value in asked.items():
            internal_kv._internal_kv_del(key)
            if value is not None:
                internal_kv._internal_kv_put(key, value)
    assert len(asked) == len(factory.BUILTIN_BACKENDS) > 1


def test_other_errors_of_an_import_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("int('x')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="invalid literal"):
        imported("broken_module")
