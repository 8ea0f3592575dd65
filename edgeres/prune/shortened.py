"""Files of a network without some of its modules, to be timed and thrown away."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from edgeres.core.artifacts import Checkpoint, Model, OnnxModel
from edgeres.core.files import write_bytes
from edgeres.core.progress import track

Runtime = Literal["ort", "torch", "tensorrt"]  # the last one reads the graphs of the first
Precision = Literal["fp32", "int8"]
_ANY_AMAX = 1.0  # a clipping bound changes the numbers, not the time they take
_OPSET = 13  # the oldest that is written: TensorRT 8.2, a Jetson Nano's, reads no newer one


def shortened(source: Checkpoint, dropped: Sequence[Sequence[str]], folder: Path) -> list[Checkpoint]:
    """One checkpoint below `folder` for each of `dropped`, without these modules; the same names give the same file."""
    from edgeres.models.weights import load_weights, save_checkpoint, weights_without

    weights = load_weights(source)
    made: dict[frozenset[str], Checkpoint] = {}
    for names in dropped:
        if frozenset(names) not in made:
            spec = source.spec.without(tuple(names))
            path = folder / f"{len(made):02}-without-{len(names)}" / "model.safetensors"
            kept = weights_without(weights, spec)
            made[frozenset(names)] = save_checkpoint(kept, spec, path, stage="prune", parent=source.sha256)
    return [made[frozenset(names)] for names in dropped]


def as_run(
    checkpoints: Sequence[Checkpoint], folder: Path, *, runtime: Runtime, precision: Precision, batch: int
) -> list[Model]:
    """The checkpoints as the runtime executes them: exported below `folder`, quantized where asked for."""
    if runtime == "torch":
        return list(checkpoints)
    made: dict[Path, Model] = {}
    with _quiet("edgeres.export"):
        for checkpoint in track(checkpoints, "export", len(checkpoints)):
            if checkpoint.path not in made:
                place = folder / f"onnx-{len(made):02}-without-{len(checkpoint.spec.dropped)}"
                made[checkpoint.path] = _exported(checkpoint, place, precision=precision, batch=batch)
    return [made[checkpoint.path] for checkpoint in checkpoints]


def _exported(checkpoint: Checkpoint, folder: Path, *, precision: Precision, batch: int) -> OnnxModel:
    from edgeres.export.stage import ExportConfig, export

    model = export(checkpoint, ExportConfig.model_validate({"batch": batch, "opset": _OPSET}), folder).output
    return _with_pairs(model) if precision == "int8" else model


def _with_pairs(model: OnnxModel) -> OnnxModel:
    """The graph with Q/DQ pairs where `edgeres quantize` puts them."""
    from edgeres.quantize.decision import Decision
    from edgeres.quantize.insert import with_pairs
    from edgeres.quantize.placement import placement_of

    placement = placement_of(model.proto)
    quantized = with_pairs(model.proto, placement, Decision(dict.fromkeys(placement.observed, _ANY_AMAX)))
    path = model.path.with_name("model.int8.onnx")
    write_bytes(path, quantized.SerializeToString(deterministic=True))
    return OnnxModel(path)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Only warnings of the logger `name`: its lines on dozens of throw-away files tell nobody anything."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
