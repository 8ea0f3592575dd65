"""A machine with a GPU, by a fake driver and fake bindings, and engines for it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.spec import Card, Cost
from edgeres.runtime import cuda, engine, manifest
from edgeres.runtime.cuda import Gpu
from edgeres.runtime.manifest import EngineManifest, this_system

VERSIONS = {"tensorrt": "10.3.0", "tensorrt-rtx": "rtx-1.7.1"}
MAGIC = {"tensorrt": b"ftrt", "tensorrt-rtx": b"vtrt"}


def _fakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runtime_fakes", Path(__file__).with_name("fakes.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def manifest_values(spec_of) -> dict[str, object]:
    """What every manifest holds, of an INT8 engine that TensorRT 10.3 built on an Orin."""
    return {
        "card": Card(spec=spec_of(), cost=Cost(params=1, macs=1), stage="compile", parent="0" * 64, edgeres="0"),
        "runtime": "tensorrt",
        "runtime_version": "10.3.0.30",
        "targets": ("sm87",),
        "precision": "int8",
        "onnx_sha256": "0" * 64,
        "plan_sha256": "",
        "batch": (1, 1, 1),
        "inputs": {"images": (1, 1, 8, 8)},
        "outputs": {"logits": (1, 10)},
        "build_s": 1.0,
    }


@pytest.fixture
def gpu_machine(monkeypatch):
    """`gpu_machine(runtime, version=..., half=...)`: fakes in place of driver and binding; has .driver, .binding."""
    fakes = _fakes()

    def make(runtime: str = "tensorrt", *, version: str | None = None, **options: object) -> SimpleNamespace:
        driver = fakes.Driver(capturable=options.pop("capturable", True))
        name = version or VERSIONS[runtime]
        binding = fakes.Binding(name, driver, **options)
        binding.__version__ = name.removeprefix("rtx-")
        host = manifest.Host(this_system(), Gpu("sm89", "RTX 4090", "13.0"), {runtime: binding.__version__})
        monkeypatch.setattr(cuda, "_driver", lambda: driver)
        monkeypatch.setattr(manifest, "this_host", lambda: host)
        monkeypatch.setitem(sys.modules, runtime.replace("-", "_"), binding)
        engine.logger_for.cache_clear()
        return SimpleNamespace(driver=driver, binding=binding, host=host, fakes=fakes)

    return make


@pytest.fixture
def engine_from(manifest_values):
    """`engine_from(model, "tensorrt")`: a fake plan of an ONNX file, with its manifest, for the fake GPU."""

    def make(model: OnnxModel, runtime: str = "tensorrt", *, version: str | None = None, **values: object) -> Engine:
        numbers = [int(part) for part in (version or VERSIONS[runtime]).removeprefix("rtx-").split(".")]
        head = MAGIC[runtime] + bytes(20) + bytes((numbers + [0] * 4)[:4]) + bytes(36)
        path = model.path.with_name(f"{model.path.stem}.{runtime}.plan")
        path.write_bytes(head + model.path.read_bytes())
        first = -1 if model.batch is None else model.batch
        known = {
            "card": model.card,
            "runtime": runtime,
            "runtime_version": ".".join(map(str, numbers)),
            "targets": ("sm89",),
            "plan_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "batch": (1, 2, 4) if first < 0 else (first,) * 3,
            "inputs": {"images": (first, 1, 8, 8)},
            "outputs": {"logits": (first, 10)},
            "onnx_name": model.path.name,
            "system": this_system(),
        }
        manifest = EngineManifest(**manifest_values | known | values)
        path.with_name(f"{path.name}.json").write_text(manifest.model_dump_json())
        return Engine(path)

    return make
