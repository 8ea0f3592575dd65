"""Fixtures several packages need: small specs, a checkpoint on disk, a runs folder of the test's own."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from edgeres.core.artifacts import Checkpoint
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.models import spec_from_arch

GREY = Preprocess(mean=(0.3,), std=(0.4,))
SpecMaker = Callable[..., ModelSpec]
CheckpointMaker = Callable[..., Checkpoint]

# `make test` draws the same examples everywhere: a commit is judged by what it changes. `make exhaustive` searches.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("EDGERES_EXAMPLES", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands first: they take longest, and at the end one process would wait for the other."""
    items.sort(key=lambda item: "test_readme" not in item.nodeid)


@pytest.fixture(autouse=True)
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder with runs of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGERES_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def spec_of() -> SpecMaker:
    """`spec_of("resnet8", ordering="full-preact")`: 8x8 grey images, ten classes."""

    def make(arch: str = "resnet8", *, channels: int = 1, **options: str | int | float) -> ModelSpec:
        preprocess = GREY if channels == 1 else None
        return spec_from_arch(
            arch, num_classes=10, input_shape=(channels, 8, 8), preprocess=preprocess, options=options
        )

    return make


@pytest.fixture
def checkpoint_of(tmp_path: Path) -> CheckpointMaker:
    """A checkpoint with random weights and batch-norm statistics that are not the initial ones."""

    def make(spec: ModelSpec, name: str = "model.safetensors", seed: int = 0) -> Checkpoint:
        import torch

        from edgeres.models import network_from
        from edgeres.models.weights import save_checkpoint

        torch.manual_seed(seed)
        network = network_from(spec)
        for key, tensor in network.state_dict().items():
            if key.endswith("running_mean"):
                tensor.normal_(0, 0.2)
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
        return save_checkpoint(network.state_dict(), spec, tmp_path / name, stage="test")

    return make


@pytest.fixture(scope="session")
def run_of() -> Callable[..., Path]:
    """`run_of(folder, {"use": "eval"})`: a run from import to INT8, then the stages named; its folder."""

    def make(folder: Path, *more: dict[str, Any]) -> Path:
        import torch

        from edgeres.models import network_from
        from edgeres.models.weights import save_checkpoint
        from edgeres.pipeline.chain import Chain, run_of_recipe
        from edgeres.pipeline.recipe import Recipe, planned

        torch.manual_seed(0)
        spec = spec_from_arch("resnet8", num_classes=10, input_shape=(1, 8, 8), preprocess=GREY)
        save_checkpoint(network_from(spec).state_dict(), spec, folder / "random.safetensors", stage="test")
        stages = (
            {"use": "import", "file": str(folder / "random.safetensors")},
            {"use": "lesion", "images": 40, "draws": 0},
            {"use": "prune", "drop": 1, "images": 50},
            {"use": "export"},
            {"use": "calibrate", "images": 32, "methods": ["minmax", "mse"]},
            {"use": "quantize"},
            *more,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGERES_RUNS", str(folder / "runs"))
            recipe = Recipe(name="made", data="digits", stage=stages)
            list(Chain(run_of_recipe(recipe, None), planned(recipe, "test")).execute())
        return folder / "runs" / "made"

    return make


@pytest.fixture(scope="session")
def hosts() -> ModuleType:
    """tests/bench/hosts.py: an OpenSSH server with a pretend Jetson behind it."""
    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).parent / "bench" / "hosts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host(hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The board `desk`, reached over real ssh once it is started."""
    with hosts.serving(tmp_path, monkeypatch) as one:
        yield one
