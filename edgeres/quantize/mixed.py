"""Mixed precision with a reason: the cheapest set of units to leave out of INT8 so that a loss is kept.

Units are taken in the order of the noise they cause alone per unit of cost, as many as are needed (found by bisection,
each try measured with all of them together), and then given back one by one, from the end, where the loss is
kept without them.

The loss is measured with labels where there are any. Without, it is the expected loss (`fidelity`), not the share of
images whose first guess changes: most changes are between two classes that float cannot tell apart either, they go
both ways and cost no accuracy, so a bound on them would leave half of the network in FP16 for nothing. That share and
its upper bound stand in the reason. n images cannot resolve less than about 1 / n; the half-width is said too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from edgeres.core.errors import InputError, StageError
from edgeres.quantize.decision import Decision
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.partial import PlacementArgs, QuantizedNetwork
from edgeres.quantize.search import HeldOut, KeptUnit, MixedChoice, Search
from edgeres.quantize.sensitivity import Sensitivity


@dataclass(frozen=True)
class Budget:
    """`max_loss`: points of accuracy; `costs`: unit -> latency in ms of FP16 minus INT8, None: counted in MACs."""

    max_loss: float
    costs: Mapping[str, float] | None = None


def choose_kept(
    model: onnx.ModelProto,
    args: PlacementArgs,
    decision: Decision,
    *,
    found: tuple[Sensitivity, ...],
    held_out: HeldOut,
    budget: Budget,
) -> MixedChoice:
    """The units to leave out of INT8; `found` comes from `sensitivities` with the same arguments.

    Raises:
        InputError: a maximum below zero, or below what one labelled image counts.
        StageError: the loss is larger even with every unit left float, so it does not come from INT8.
    """
    _check(budget, held_out)
    network = QuantizedNetwork(model, args, decision)
    search = Search(network, held_out, lambda fidelity: fidelity.loss <= budget.max_loss)
    costs, what = _costs(network, held_out, budget)
    noise = {row.unit: row.alone.noise_power / row.alone.power for row in found}
    order = sorted(noise, key=lambda unit: -noise[unit] / costs[unit])
    keep = search.cheapest(order)
    if keep is None:
        loss = search.fidelity(frozenset(order)).loss
        raise StageError(
            f"quantize: {loss:.2f} points are lost with no unit in INT8, more than {budget.max_loss:g}; this loss"
            " comes from replaced weights or biases"
        )
    rows = tuple(KeptUnit(unit, costs[unit], noise[unit], unit in keep) for unit in noise)
    reason = _reason(search, keep, costs=costs, what=what, noise=noise, max_loss=budget.max_loss)
    return MixedChoice(tuple(unit for unit in noise if unit in keep), rows, search.fidelity(keep), reason)


def _check(budget: Budget, held_out: HeldOut) -> None:
    if not budget.max_loss >= 0:
        raise InputError(f"a maximum loss of {budget.max_loss} points cannot be kept; give 0 or more")
    one_image = 100 / len(held_out.images)
    if held_out.labels is not None and budget.max_loss < one_image:
        raise InputError(
            f"{len(held_out.images)} images cannot measure a loss of {budget.max_loss:g} points, one image is"
            f" {one_image:.2f}; take more images, or leave the labels out"
        )


def _costs(network: QuantizedNetwork, held_out: HeldOut, budget: Budget) -> tuple[dict[str, float], str]:
    """(cost of each unit, in words what it is); units that `budget.costs` lacks cost as much as their MACs say."""
    macs = network.macs(held_out.images[:1])
    if budget.costs is None:
        return macs, "multiply-accumulates (there is no latency table)"
    known = {unit: max(cost, 0.0) for unit, cost in budget.costs.items() if unit in macs}
    if not sum(known.values()) > 0:
        raise InputError("the latency table has no unit of this network that takes any time; leave it out")
    rate = sum(known.values()) / sum(macs[unit] for unit in known)
    smallest = 1e-6 * sum(known.values())  # a unit that takes no time costs next to nothing
    missing = [unit for unit in macs if unit not in known]
    estimated = f", estimated from multiply-accumulates for {', '.join(missing)}" if missing else ""
    return {
        unit: max(known.get(unit, rate * macs[unit]), smallest) for unit in macs
    }, f"time by the latency table{estimated}"


def _reason(
    search: Search,
    keep: frozenset[str],
    *,
    costs: Mapping[str, float],
    what: str,
    noise: Mapping[str, float],
    max_loss: float,
) -> str:
    all_int8, chosen = search.fidelity(frozenset()), search.fidelity(keep)
    kind = "measured" if chosen.labelled else "expected"
    before = f"{kind} loss with everything in INT8 {all_int8.loss:.2f} +- {all_int8.loss_half_width:.2f} points"
    if not keep:
        return f"{before}, at most {max_loss:g} allowed: nothing is left float ({_limits(chosen)})"
    share = sum(costs[unit] for unit in keep) / sum(costs.values())
    caused = ", ".join(
        f"{unit} ({noise[unit] / sum(noise.values()):.0%})" for unit in sorted(keep, key=lambda u: -noise[u])
    )
    return (
        f"{before}, at most {max_loss:g} allowed; left out of INT8, with the share of the noise each causes: {caused};"
        f" {chosen.loss:.2f} +- {chosen.loss_half_width:.2f} points remain; that is {share:.1%} of the"
        f" network's {what}; {_limits(chosen)}"
    )


def _limits(fidelity: Fidelity) -> str:
    return (
        f"{fidelity.n} train images: first guess changed on {fidelity.disagreement:.2%}, at most"
        f" {fidelity.disagreement_bound:.2%} with 95 % confidence"
    )
