"""What stays out of INT8 so that a limit is kept: the cheapest set of units, or of skips, that is enough.

A quarter of the images tells what each unit does alone. Units are taken in the order of that noise per unit of cost, as
many as are needed on the other images (found by bisection, each try measured with all of them together), and then
given back one by one, from the end, where the limit is kept without them.

`units_left_float` keeps a loss of accuracy, the expected one (`fidelity`), not the share of images whose first guess
changes: most changes are between two classes that float cannot tell apart either, they go both ways and cost no
accuracy, so a bound on them would leave half of the network in FP16 for nothing. That share and its upper bound stand
in the reason. n images cannot resolve less than about 1 / n; the half-width is said too.

`skips_left_float` keeps a signal-to-noise ratio of the logits. Every INT8 skip rounds the residual stream once more,
with 7 bits behind a ReLU; in a deep network this is most of the noise. A module whose skip stays float keeps its INT8
convolutions: its addition ends in float16 (float32 in a file without float16), and the input of the next convolution is
quantized by a kernel of its own. What that takes was not measured on hardware, so a skip's cost is the number of values
that are moved so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import onnx

from edgeres.core.errors import InputError, StageError
from edgeres.graph.blocks import skips_in
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.placement import Options
from edgeres.quantize.simulate import Images, QuantizedNetwork

_NEAR_DB = 0.2  # to what every skip left float gives: a twentieth of the noise, which no figure of accuracy shows
_RANKED_BY = 4  # a quarter of the images ranks the units, the limit is measured on the others
Measured = Callable[[frozenset[str]], Fidelity]


@dataclass(frozen=True)
class KeptUnit:
    """One unit of the answer or not: what it costs to leave it out of INT8, what it does alone, whether it is kept."""

    unit: str
    cost: float
    noise: float
    is_kept: bool


@dataclass(frozen=True)
class MixedChoice:
    """`keep`: the units to leave out of INT8, in the graph's order; `reason`: why, in one or two sentences."""

    keep: tuple[str, ...]
    rows: tuple[KeptUnit, ...]
    reason: str


def units_left_float(
    model: onnx.ModelProto,
    decision: Decision,
    options: Options,
    *,
    images: Images,
    max_loss: float,
    latency: Mapping[str, float] | None = None,
) -> MixedChoice:
    """The units to leave out of INT8, besides those that `options` do, so that no more points of top-1 are lost.

    `images`: float32 (N, C, H, W) of train that no scale comes from. `latency`: unit -> ms of FP16 minus INT8, None:
    MACs are counted. Raises StageError if the loss is larger even with every unit left float, so that it does not come
    from INT8.
    """
    network, cut = QuantizedNetwork(model, options, decision), len(images) // _RANKED_BY
    costs, what = _costs(network, images[:1], latency)
    alone = network.alone(network.units, network.batches(images[:cut]))
    noise = {unit: one.noise_power / one.power for unit, one in alone.items()}
    judge = network.batches(images[cut:])
    measured = cache(lambda keep: network.fidelity(keep, judge))
    keep = _cheapest(noise, costs, lambda keep: measured(keep).loss <= max_loss)
    if keep is None:
        loss = measured(frozenset(noise)).loss
        raise StageError(
            f"quantize: {loss:.2f} points are lost with no unit in INT8, more than {max_loss:g}; this loss"
            " comes from replaced weights or biases"
        )
    reason = _loss_reason(measured, keep, costs=costs, what=what, noise=noise, max_loss=max_loss)
    return _choice(noise, costs, keep, reason)


def skips_left_float(
    model: onnx.ModelProto,
    decision: Decision,
    options: Options,
    *,
    images: Images,
    min_sqnr: float,
    or_near: bool = False,
) -> MixedChoice:
    """The skips to leave float, besides what `options` do, so that logits keep `min_sqnr` dB against float.

    `images`: float32 (N, C, H, W) of train that no scale comes from. If every skip is not enough it is StageError or,
    `or_near`, those that come near to what all of them give.
    """
    network, cut = QuantizedNetwork(model, options, decision), len(images) // _RANKED_BY
    rank, judge = network.batches(images[:cut]), network.batches(images[cut:])
    every = frozenset(network.skips)
    without, alone = network.fidelity(every, rank).noise_power, network.alone(network.skips, rank)
    noise = {skip: max(one.noise_power - without, 0.0) / one.power for skip, one in alone.items()}
    costs = _values(model, network, images[:1])
    measured = cache(lambda keep: network.fidelity(keep, judge))
    limit = min(min_sqnr, measured(every).sqnr_db - _NEAR_DB) if or_near else min_sqnr
    keep = _cheapest(noise, costs, lambda keep: measured(keep).sqnr_db >= limit)
    if keep is None:
        raise StageError(
            f"quantize: the logits keep {measured(every).sqnr_db:.1f} dB with every skip float, less than"
            f" {min_sqnr:g}; ask for less, or --keep modules"
        )
    reason = _noise_reason(measured, keep, costs=costs, min_sqnr=min_sqnr)
    if measured(keep).sqnr_db < min_sqnr:
        reason += f"; {measured(every).sqnr_db:.1f} dB with every skip float"
    return _choice(noise, costs, keep, reason)


def _cheapest(
    noise: Mapping[str, float], costs: Mapping[str, float], is_enough: Callable[[frozenset[str]], bool]
) -> frozenset[str] | None:
    """The units with the most noise for their cost, as few as bisection tells, less the needless.

    None if all of them are not enough.
    """
    order = sorted(noise, key=lambda unit: -noise[unit] / costs[unit])
    if is_enough(frozenset()):
        return frozenset()
    if not is_enough(frozenset(order)):
        return None
    low, high = 0, len(order)  # the first `high` are enough, the first `low` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(frozenset(order[:middle])) else (middle, high)
    keep = frozenset(order[:high])
    for unit in reversed(order[:high]):
        if is_enough(keep - {unit}):
            keep = keep - {unit}
    return keep


def _choice(noise: Mapping[str, float], costs: Mapping[str, float], keep: frozenset[str], reason: str) -> MixedChoice:
    rows = tuple(KeptUnit(unit, costs[unit], noise[unit], unit in keep) for unit in noise)
    return MixedChoice(tuple(unit for unit in noise if unit in keep), rows, reason)


def _costs(
    network: QuantizedNetwork, image: Images, latency: Mapping[str, float] | None
) -> tuple[dict[str, float], str]:
    """(cost of each unit, in words what it is); units that `latency` lacks cost as much as their MACs say."""
    macs = network.macs(image)
    if latency is None:
        return macs, "multiply-accumulates (there is no latency table)"
    known = {unit: max(cost, 0.0) for unit, cost in latency.items() if unit in macs}
    if not sum(known.values()) > 0:
        raise InputError("the latency table has no unit of this network that takes any time; leave it out")
    rate = sum(known.values()) / sum(macs[unit] for unit in known)
    smallest = 1e-6 * sum(known.values())  # a unit that takes no time costs next to nothing
    missing = [unit for unit in macs if unit not in known]
    estimated = f", estimated from multiply-accumulates for {', '.join(missing)}" if missing else ""
    costs = {unit: max(known.get(unit, rate * macs[unit]), smallest) for unit in macs}
    return costs, f"time by the latency table{estimated}"


def _values(model: onnx.ModelProto, network: QuantizedNetwork, image: Images) -> dict[str, float]:
    """Skip -> number of values it holds for one image."""
    view = GraphView(model)
    nodes, sums = {node.name: node for node in view.nodes}, skips_in(view)
    outputs = {skip: str(nodes[sums[skip]].output[0]) for skip in network.skips}
    sizes = network.sizes(image, list(outputs.values()))
    return {skip: float(math.prod(sizes[output])) for skip, output in outputs.items()}


def _loss_reason(
    measured: Measured,
    keep: frozenset[str],
    *,
    costs: Mapping[str, float],
    what: str,
    noise: Mapping[str, float],
    max_loss: float,
) -> str:
    all_int8, chosen = measured(frozenset()), measured(keep)
    limits = (
        f"{chosen.n} train images: first guess changed on {chosen.disagreement.value:.2%}, at most"
        f" {chosen.disagreement.high:.2%} with 95 % confidence"
    )
    before = f"expected loss with everything in INT8 {all_int8.loss:.2f} +- {all_int8.loss_half_width:.2f} points"
    if not keep:
        return f"{before}, at most {max_loss:g} allowed: nothing is left float ({limits})"
    share = sum(costs[unit] for unit in keep) / sum(costs.values())
    caused = ", ".join(
        f"{unit} ({noise[unit] / sum(noise.values()):.0%})" for unit in sorted(keep, key=lambda u: -noise[u])
    )
    return (
        f"{before}, at most {max_loss:g} allowed; left out of INT8, with the share of the noise each causes: {caused};"
        f" {chosen.loss:.2f} +- {chosen.loss_half_width:.2f} points remain; that is {share:.1%} of the"
        f" network's {what}; {limits}"
    )


def _noise_reason(measured: Measured, keep: frozenset[str], *, costs: Mapping[str, float], min_sqnr: float) -> str:
    before, after = measured(frozenset()), measured(keep)
    start = f"logits keep {before.sqnr_db:.1f} dB with every skip in INT8, {min_sqnr:g} asked for"
    if not keep:
        return f"{start}: no skip is left float ({before.n} train images)"
    share = sum(costs[skip] for skip in keep) / sum(costs.values())
    return (
        f"{start}; left float: {', '.join(skip for skip in costs if skip in keep)} ({len(keep)} of {len(costs)} skips,"
        f" {share:.0%} of their values): {after.sqnr_db:.1f} dB on the {after.n} train images they were"
        " chosen by; the time this takes was never measured on hardware"
    )
