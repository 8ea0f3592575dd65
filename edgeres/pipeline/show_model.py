"""What a model file or an architecture is, as plain data: its spec and lineage, every module with its precision.

The precision of an ONNX graph is read from the graph, whoever wrote it: a layer (convolution, fully connected) is INT8
if both its input and its weights come from DequantizeLinear, which is what an INT8 kernel is fused from; what an engine
makes of it is the builder's decision. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.core.artifacts import MODEL_KINDS, Checkpoint, Engine, Model, OnnxModel, model_from, safetensors_header
from edgeres.core.errors import InputError, require
from edgeres.core.lineage import lineage_of
from edgeres.core.spec import FROM_ONNX, ModelSpec, Preprocess
from edgeres.graph.blocks import modules_in, skips_in
from edgeres.graph.view import DQ, WEIGHTED, GraphView, called
from edgeres.models import modules_of, spec_from_arch
from edgeres.report.folder import taken
from edgeres.report.wording import size
from edgeres.runtime.manifest import manifest_of, plan_header

if TYPE_CHECKING:
    import onnx

Facts = dict[str, Any]
SUFFIXES = frozenset(kind.suffix for kind in MODEL_KINDS)
OUTSIDE = "outside"  # stem, head and downsampling that is of no module
_LENGTH_BYTES = 8  # of the header, at the start of a safetensors file
_SHOWN_ALREADY = {"schema_version", "card", "precision", "plan_sha256", "runtime_version"}
_INTEGER_OPS = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm"})
_FLOATS = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16"}  # onnx.TensorProto.DataType
_CIFAR_CLASSES, _IMAGENET_CLASSES, _IMAGENET_SIZE = 10, 1000, 224


def facts_of_arch(name: str) -> Facts:
    """Of the architecture called so; raises InputError if there is none."""
    spec = spec_from_arch(name, num_classes=_CIFAR_CLASSES)
    if spec.input_shape[1] == _IMAGENET_SIZE:
        spec = spec_from_arch(name, num_classes=_IMAGENET_CLASSES)
    return {"architecture": name, **_spec_facts(spec)}


def facts_of_file(path: Path) -> Facts:
    """Of a model file; raises InputError if it cannot be read, is cut off or its network is not known here."""
    model = taken(model_from(path), "show")
    if isinstance(model, Checkpoint):
        _refuse_cut(model)
    if isinstance(model, Engine) and not model.manifest_path.is_file():
        return _plan_facts(model)
    if isinstance(model, OnnxModel) and not model.has_card:
        return _foreign_facts(model)
    card = model.card
    own: Facts = {
        "file": str(path),
        "kind": type(model).__name__,
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "precision": model.precision,
        "made_by": f"edgeres {card.edgeres} {card.stage}",
        "parent_sha256": card.parent,
        "params": card.cost.params,
        "macs": card.cost.macs,
    }
    more = _graph_facts(model) if isinstance(model, OnnxModel) else {}
    built = _engine_facts(model) if isinstance(model, Engine) else {}
    layers = module_precisions(model) if isinstance(model, OnnxModel) else {}
    known = _known_spec(model)
    return {**own, **more, **built, **known, **_precisions(model, layers, known), "lineage": lineage_of(model)}


def _refuse_cut(model: Checkpoint) -> None:
    """Raises InputError if the file does not end where its header says."""
    entries = [entry for name, entry in safetensors_header(model.path).items() if name != "__metadata__"]
    try:
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (TypeError, KeyError, IndexError, ValueError) as err:
        raise InputError(f"{model.path} is not a safetensors file: its header is damaged") from err
    with model.path.open("rb") as file:
        whole = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little") + end
    if whole != model.size_bytes:
        raise InputError(f"{model.path} is damaged: its header promises {whole:,} bytes, it has {model.size_bytes:,}")


def _known_spec(model: Model) -> Facts:
    """The file's spec in words; raises InputError that names the file if its network is not known here."""
    try:
        facts = _spec_facts(model.spec)
    except InputError as err:
        raise err if str(model.path) in str(err) else InputError(f"{model.path}: {err}") from err
    if unknown := sorted({*model.spec.dropped} - {module["name"] for module in facts["modules"]}):
        raise InputError(f"{model.path} says that it lacks {', '.join(unknown)}, which its network never had")
    return facts


def _spec_facts(spec: ModelSpec) -> Facts:
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
        **_outputs_of(spec),
        **({"classes": list(spec.classes)} if spec.task == "classes" else {}),
        "preprocess": _fed(spec.preprocess) if spec.preprocess.is_known else None,
        "modules": modules,
    }


def _fed(preprocess: Preprocess) -> Facts:
    return {**preprocess.model_dump(mode="json"), "fit": preprocess.fitted}


def _outputs_of(spec: ModelSpec) -> Facts:
    """How many numbers the network gives for an image, and what they are."""
    return {"num_classes": spec.num_classes} if spec.task == "classes" else {"gives": spec.outputs_text}


def _graph_facts(model: OnnxModel) -> Facts:
    """What the graph says beyond its card; skips that stay float on purpose are named as `--keep` names them."""
    facts: Facts = {"batch": model.batch or "dynamic"}
    if model.float_skips:
        skips = skips_in(GraphView(model.proto))
        facts["float_skips"] = [name for name, node in skips.items() if node in model.float_skips]
    return {**facts, "opset": _opset(model)}


def _opset(model: OnnxModel) -> Facts:
    return {entry.domain or "ai.onnx": entry.version for entry in model.proto.opset_import}


def _engine_facts(model: Engine) -> Facts:
    """The manifest beside the plan; what the builder made of each layer stands there only if a GPU could be asked."""
    known = manifest_of(model).model_dump(mode="json", exclude_none=True, exclude=_SHOWN_ALREADY)
    layers = known.pop("layers", {})
    kernels = layers.get(
        "headline", "not inspected: precision is the ONNX file's, not the kernels' (edgeres layers FILE.json)"
    )
    return {**known, "runtime": f"{model.manifest.runtime} {model.manifest.runtime_version}", "kernels": kernels}


def _precisions(model: Model, layers: dict[str, tuple[str, ...]], known: Facts) -> Facts:
    """Puts its precision beside each module: from the graph, otherwise the file's as a whole; the rest is returned."""
    for module in known["modules"]:
        module["precision"] = None if module["dropped"] else as_label(layers.get(module["name"], (model.precision,)))
    facts: Facts = {}
    if model.spec.family == FROM_ONNX:
        facts["precision_of_modules"] = {name: as_label(kinds) for name, kinds in layers.items() if name != OUTSIDE}
    if OUTSIDE in layers:
        facts["precision_outside_modules"] = as_label(layers[OUTSIDE])
    return facts


def _plan_facts(model: Engine) -> Facts:
    header = plan_header(model.path)
    return {
        "file": str(model.path),
        "kind": "Engine without a manifest: not built by edgeres, or its .plan.json is gone",
        "size": size(model.size_bytes),
        "sha256": model.sha256,
        "runtime": f"{header.runtime} {header.version}",
        "unknown": "spec, lineage, GPU architecture, precision: a plan's header does not say",
    }


def _foreign_facts(model: OnnxModel) -> Facts:
    graph = model.proto.graph
    if not graph.node and not graph.output:
        raise InputError(f"{model.path} is empty: it holds no graph")
    given = {tensor.name for tensor in graph.initializer}
    return {
        "file": str(model.path),
        "kind": "ONNX of another tool: it holds no spec",
        "size": size(model.size_bytes),
        "sha256": model.sha256,
        "producer": f"{model.proto.producer_name} {model.proto.producer_version}".strip(),
        "opset": _opset(model),
        "inputs": {value.name: _shape(value) for value in graph.input if value.name not in given},
        "outputs": {value.name: _shape(value) for value in graph.output},
        "nodes": len(graph.node),
        "precision": model.precision,
        "precision_of_modules": {name: as_label(kinds) for name, kinds in module_precisions(model).items()},
        **_derived(model),
    }


def _derived(model: OnnxModel) -> Facts:
    """What the commands that take such a file read from its graph, or why they cannot."""
    try:
        spec, cost = model.spec, model.card.cost
    except InputError as err:
        return {"not_taken": str(err).removeprefix(f"{model.path} ")}
    facts = {"input_shape": list(spec.input_shape), **_outputs_of(spec), "params": cost.params}
    return {
        **facts,
        "macs": cost.macs or None,
        "preprocess": "unknown: --mean and --std, or --like, where images are shown",
    }


def _shape(value: Any) -> str:
    dims = value.type.tensor_type.shape.dim
    return " x ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)


def module_precisions(model: OnnxModel) -> dict[str, tuple[str, ...]]:
    """Module -> the format of each of its layers in order, `outside` for layers of no module."""
    require("onnx", "onnx")
    view = GraphView(model.proto)
    owner = {node: module for module, nodes in modules_in(view).items() for node in nodes}
    found: dict[str, list[str]] = {}
    for node in view.nodes:
        if node.op_type in WEIGHTED | _INTEGER_OPS:
            found.setdefault(owner.get(called(node), OUTSIDE), []).append(_precision_of(node, view))
    return {name: tuple(layers) for name, layers in found.items()}


def as_label(layers: Sequence[str]) -> str:
    """`int8`, or `int8 1 of 2, fp32 1 of 2` where layers of one module differ."""
    kinds = list(dict.fromkeys(layers))
    if len(kinds) <= 1:
        return "".join(kinds)
    return ", ".join(f"{kind} {list(layers).count(kind)} of {len(layers)}" for kind in kinds)


def _precision_of(node: onnx.NodeProto, view: GraphView) -> str:
    if node.op_type in _INTEGER_OPS:
        return "int8"
    made = [view.op_of(tensor) for tensor in node.input[:2]]
    if made and all(op == DQ for op in made):
        return "int8"
    if DQ in made[1:]:
        return "int8 weights"
    stored = _stored_behind(node, view)
    return _FLOATS.get(stored.data_type, "other") if stored is not None else "fp32"


def _stored_behind(layer: onnx.NodeProto, view: GraphView) -> Any:
    """The constant a weight comes from, through nodes of one input."""
    tensor = layer.input[1] if len(layer.input) > 1 else ""
    while tensor not in view.constants and (node := view.producers.get(tensor)) and node.input:
        tensor = node.input[0]
    return view.constants.get(tensor)
