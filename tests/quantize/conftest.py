"""Float ONNX models of small networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeres.core.artifacts import OnnxModel
from edgeres.export.stage import ExportConfig, export


@pytest.fixture
def onnx_of(spec_of, checkpoint_of, tmp_path: Path) -> Callable[..., OnnxModel]:
    """`onnx_of("resnet8", shortcut="B")`; `dropped`, `seed` and `dynamic` are keywords too."""

    def make(
        arch: str = "resnet8",
        *,
        dropped: tuple[str, ...] = (),
        seed: int = 0,
        dynamic: bool = False,
        **options: str | int,
    ) -> OnnxModel:
        checkpoint = checkpoint_of(spec_of(arch, **options).without(dropped), seed=seed)
        folder = tmp_path / f"float-{seed}-{dynamic}"
        return export(checkpoint, ExportConfig(dynamic=dynamic), folder).output

    return make
