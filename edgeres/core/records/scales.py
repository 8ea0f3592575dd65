"""The scale table: what calibration found of every tensor of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeres.core.config import Record, record_from_json
from edgeres.core.spec import ModelSpec


class TensorScale(Record):
    """One tensor: its range on the calibration images, the fraction of exact zeros, and amax by method."""

    minimum: float
    maximum: float
    zeros: float
    amax: dict[str, float]


class ScaleTable(Record):
    """Content of scales.json; `model_sha256` is of the float ONNX file, `spec` what was stated of it."""

    kind: Literal["scales"] = "scales"
    schema_version: int = 1
    model_sha256: str
    dataset: str
    split: str
    n: int
    seed: int = Field(ge=0)
    ids_sha256: str
    methods: tuple[str, ...]
    tensors: dict[str, TensorScale]
    spec: ModelSpec | None = None


def scale_table_from(path: Path) -> ScaleTable:
    """The table in scales.json; raises InputError if it is damaged or something else."""
    return record_from_json(ScaleTable, path)
