"""What every module costs on a board, from the profile of one engine.

Every layer of the engine is led back to the module it was made from. Profiling separates the layers, so they add up to
more than the network takes; each is scaled by

    measured median of the network / sum of all layers

and `fit_error` is how far the sum is above the measured median, or below it, as a share of that: a profile alone
cannot say how well a sum predicts a shorter network.
A module is charged what would go with it: not the convolution of its shortcut, which stays, and not a copy between
formats at its edge, which its neighbour would need as well. Layers of no module are overhead: `rest_ms`.

From shortened networks (a dozen builds and more) another table is made: see `networks.on_board`.

Never run on hardware so far.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from edgeres.compile.layers import Graph, Layer, layers_in, timed, times_in
from edgeres.core.artifacts import LatencyTableFile, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.metrics import Z_95, Interval, Latency
from edgeres.core.records.latency import LatencyConfig, LatencyTable
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import percentile_interval
from edgeres.costs.design import Classes, Fit
from edgeres.costs.table import classes_to_time, table_from, written
from edgeres.graph.blocks import Block, blocks_in
from edgeres.graph.view import QDQ, WEIGHTED, GraphView

_OTHER_WAY = "time shortened networks instead: edgeres bench --per-module --on BOARD MODEL.safetensors"


class ProfileTexts(NamedTuple):
    """The texts of trtexec's --exportProfile and --exportLayerInfo, of one engine."""

    profile: str
    layers: str


def table_from_profile(source: OnnxModel, latency: Latency, texts: ProfileTexts) -> LatencyTable:
    """The table of the engine built from `source`; `latency` are its samples on the same board.

    Raises InputError if a text is damaged, if the engine is of another graph, or if a layer does the work of several
    modules.
    """
    classes = classes_to_time(source)
    times = _times_by_owner(source, texts, [name for names in classes.values() for name in names])
    total, whole = sum(times.values()), percentile_interval(latency, 50)
    if total <= 0:
        raise InputError("the layer profile adds up to no time at all; measure longer")
    own = {name: time * whole.value / total for name, time in times.items() if name}
    fit = _fit(classes, own, whole, error=total / whole.value - 1)
    precision = "int8" if "int8" in source.precision else "fp32"
    options = {"batch": latency.batch, "runtime": "tensorrt", "precision": precision}
    table = table_from(
        source,
        LatencyConfig.model_validate(options),
        fit,
        whole=latency,
        classes=classes,
        alone={name: Interval.around(time) for name, time in own.items()},
    )
    engine = {"method": "profile", "engine_precision": source.precision, "whole_ms": whole}
    return table.model_copy(update=engine)


def latency_from_profile(
    source: OnnxModel, latency: Latency, texts: ProfileTexts, out_dir: Path
) -> StageResult[LatencyTableFile]:
    """Writes out_dir/latency.json, the table of the profile; raises as `table_from_profile` does."""
    table = table_from_profile(source, latency, texts)
    return written(table, Recorder("latency", table.conditions, source), out_dir)


def _fit(classes: Classes, own: Mapping[str, float], whole: Interval, *, error: float) -> Fit:
    """Means of the classes; their errors from how modules of one class differ, relative, over all classes."""
    means = {shape: fmean(own[name] for name in names) for shape, names in classes.items()}
    squares, degrees = 0.0, 0
    for shape, names in classes.items():
        squares += sum((own[name] / means[shape] - 1) ** 2 for name in names) if means[shape] else 0.0
        degrees += len(names) - 1
    degrees = max(degrees, 1)
    spread = math.sqrt(squares / degrees)
    errors = [means[shape] * spread / math.sqrt(len(names)) for shape, names in classes.items()]
    variances = np.square([(whole.high - whole.low) / 2 / Z_95, *errors])
    return Fit(np.array([whole.value, *means.values()]), np.diag(variances), error, degrees)


def _times_by_owner(source: OnnxModel, texts: ProfileTexts, modules: Sequence[str]) -> dict[str, float]:
    """Module -> ms of its layers in the profile; "" for what belongs to none."""
    graph, view, times = Graph(source.proto), GraphView(source.proto), dict.fromkeys(["", *modules], 0.0)
    blocks = [block for block in blocks_in(view) if block.name in modules]
    homes = {tensor: block.name for block in blocks for tensor in _gone_without(view, block)}
    own = times_in(texts.profile)
    try:
        content = json.loads(texts.layers)
    except ValueError as err:
        raise InputError(f"damaged layer information of trtexec: {err}") from err
    rows = list(timed(layers_in(content, "the layer information"), own))
    owners = [_owner(graph, layer, homes) for layer, _ in rows]
    for (layer, time_ms), owner in zip(rows, owners, strict=True):
        times[_around(layer, rows, owners) if layer.is_copy else owner] += time_ms
    if missing := [name for name in modules if name not in owners]:
        raise InputError(
            f"no layer of the profile was made from {', '.join(missing)} of {source.path}: was the engine built from"
            " this graph?"
        )
    return times


def _gone_without(view: GraphView, block: Block) -> set[str]:
    """What nobody reads any more once the sum's readers read its skip; a ReLU of what a ReLU made goes as well."""
    needed = view.made_from(view.outputs, {block.output: block.skip})
    again = view.readers.get(block.output, ()) if view.op_of(block.skip) == "Relu" else ()
    needed.difference_update(node.output[0] for node, _ in again if node.op_type == "Relu")
    return view.producers.keys() - needed


def _owner(graph: Graph, layer: Layer, homes: Mapping[str, str]) -> str:
    """The module that would take the layer with it; "" if none would. `homes`: what a node makes -> its module."""
    origin = graph.origin(layer)
    computing = [node for node in origin.nodes if not graph.operators((node,)) & QDQ] or list(origin.nodes)
    heavy = [node for node in computing if graph.operators((node,)) & WEIGHTED]
    found = {homes.get(graph.nodes[node].output[0], "") for node in heavy or computing}
    if layer.is_copy or not found - {""}:
        return ""
    if heavy and len(found) > 1:
        raise InputError(
            f"the layer {layer.name} does the work of {' and '.join(sorted(found - {''}))} and more in one: what each"
            f" takes cannot be told; {_OTHER_WAY}"
        )
    return max(found)


def _around(copy: Layer, rows: Sequence[tuple[Layer, float]], owners: Sequence[str]) -> str:
    """The module that both writes and reads what is copied; "" at a module's edge."""
    read, written = {port.name for port in copy.inputs}, {port.name for port in copy.outputs}
    before = {owner for (layer, _), owner in zip(rows, owners, strict=True) if read & {p.name for p in layer.outputs}}
    after = {owner for (layer, _), owner in zip(rows, owners, strict=True) if written & {p.name for p in layer.inputs}}
    return next(iter(before)) if len(before) == 1 and before == after else ""
