"""What a file or an architecture is, as plain data, from which `edgeres show` is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeres.core.artifacts import Engine, Model, OnnxModel, model_from
from edgeres.core.spec import FROM_ONNX, ModelSpec
from edgeres.graph.blocks import skips_in
from edgeres.graph.view import GraphView
from edgeres.models import modules_of, spec_from_arch

_DEFAULT_CLASSES = {"imagenet": 1000, "cifar": 10}


def description_of(name: str) -> dict[str, Any]:
    """Of the file `name`, or, if there is none, of the architecture called so; raises InputError if neither."""
    path = Path(name)
    if path.is_file() or path.suffix or "/" in name:
        return _model_description(model_from(path))
    spec = spec_from_arch(name, num_classes=_usual_classes(name))
    return {"architecture": name, **_spec_description(spec)}


def _usual_classes(arch: str) -> int:
    spec = spec_from_arch(arch, num_classes=10)
    return _DEFAULT_CLASSES["imagenet" if spec.input_shape[1] == 224 else "cifar"]


def _model_description(model: Model) -> dict[str, Any]:
    card = model.card
    described: dict[str, Any] = {
        "file": str(model.path),
        "kind": type(model).__name__,
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "precision": model.precision,
        "made_by": f"edgeres {card.edgeres} {card.stage}",
        "parent_sha256": card.parent,
        "params": card.cost.params,
        "macs": card.cost.macs,
    }
    if isinstance(model, OnnxModel):
        described["batch"] = model.batch or "dynamic"
        described |= _float_skips(model)
        described["opset"] = {entry.domain or "ai.onnx": entry.version for entry in model.proto.opset_import}
    if isinstance(model, Engine):
        manifest = model.manifest
        described["runtime"] = f"{manifest.runtime} {manifest.runtime_version}"
        described["targets"] = list(manifest.targets)
        described["onnx_sha256"] = manifest.onnx_sha256
    return described | _spec_description(card.spec)


def _float_skips(model: OnnxModel) -> dict[str, Any]:
    """The skips that stay float on purpose, named as `--keep` names them; nothing if there are none."""
    if not model.float_skips:
        return {}
    names = [name for name, node in skips_in(GraphView(model.proto)).items() if node in model.float_skips]
    return {"float_skips": names}


def _spec_description(spec: ModelSpec) -> dict[str, Any]:
    modules = [
        {
            "name": info.name,
            "kind": info.kind,
            "channels": [info.in_channels, info.out_channels],
            "stride": info.stride,
            "dropped": info.name in spec.dropped,
        }
        for info in (modules_of(spec) if spec.family != FROM_ONNX else ())
    ]
    return {
        "family": spec.family,
        "variant": spec.variant,
        "options": spec.options,
        "input_shape": list(spec.input_shape),
        "num_classes": spec.num_classes,
        "classes": list(spec.classes),
        "preprocess": spec.preprocess.model_dump(mode="json") if spec.preprocess.is_known else None,
        "modules": modules,
    }
