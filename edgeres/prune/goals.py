"""Goals of `edgeres prune` as something a search can add up: what each module brings, and how much is needed.

    --drop K                gain 1 each                          needed K
    --target-latency 3ms    milliseconds by the latency table    needed predicted(now) - target
    --macs 0.5x             multiply-accumulates an image        needed MACs now - target

`--modules` leaves nothing to choose, `--max-loss` and `--sweep` ask for one number of modules after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from edgeres.core.amounts import Target, counted, macs_from, target_from
from edgeres.core.errors import InputError
from edgeres.core.records.latency import LatencyTable
from edgeres.core.spec import ModelSpec
from edgeres.costs.table import check_table, predicted_ms
from edgeres.prune.config import PruneConfig
from edgeres.prune.sets import Goal

_DEAR = 3.0  # times the usual price, in points for a millisecond
_SHOWN = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def goal_from(config: PruneConfig, candidates: Sequence[str], spec: ModelSpec, table: LatencyTable | None) -> Goal:
    """The goal of a config that names a number, a latency or MACs; `spec` is of the network to be pruned.

    Raises InputError if the goal is met already, cannot be met (says the best reachable).
    """
    if config.target_latency is not None:
        assert table is not None
        return latency_goal(config.target_latency, candidates, spec, table)
    if config.macs is not None:
        return _macs_goal(config.macs, candidates, spec)
    return count_goal(config.drop or len(config.modules), candidates, spec)


def count_goal(count: int, candidates: Sequence[str], spec: ModelSpec) -> Goal:
    """Drop `count` modules; raises InputError for more than there are candidates."""
    if count > (most := len(candidates)):
        raise InputError(f"cannot drop {counted(count, 'module')}: {spec.variant} has {most} that may be dropped")
    return Goal(dict.fromkeys(candidates, 1.0), float(count))


def latency_goal(text: str, candidates: Sequence[str], spec: ModelSpec, table: LatencyTable) -> Goal:
    """Save what is between the network of `spec` and `3ms` or `0.8x`, in the table's milliseconds.

    Raises InputError if the table is of another network, the target is met already or cannot be reached.
    """
    check_table(table, spec)
    now_ms = predicted_ms(table, spec.dropped).value
    gain = {name: table.saved_ms[name] for name in candidates}
    return _saving(f"--target-latency {text}", target_from(text), now_ms, gain, lambda ms: f"{ms:.2f} ms")


def _macs_goal(text: str, candidates: Sequence[str], spec: ModelSpec) -> Goal:
    """Save what is between the network's multiply-accumulates and `0.5x` or `60M`."""
    from edgeres.costs.design import shape_classes
    from edgeres.models.weights import cost_of

    now, gain = cost_of(spec).macs, dict.fromkeys(candidates, 0.0)
    for names in shape_classes(spec).values():  # modules of one shape take the same
        saved = now - cost_of(spec.without(names[:1])).macs
        gain |= {name: float(saved) for name in names if name in gain}
    return _saving(f"--macs {text}", macs_from(text), now, gain, macs_text)


def _saving(option: str, target: Target, now: float, gain: Mapping[str, float], say: Callable[[float], str]) -> Goal:
    """Raises InputError if there is nothing to save, or more than all candidates save."""
    wanted, best = target.of(now), now - sum(value for value in gain.values() if value > 0)
    if wanted >= now:
        raise InputError(f"{option}: {say(now)} <= {say(wanted)}: nothing to drop")
    if wanted < best:
        raise InputError(
            f"{option}: cannot be reached; best reachable {say(best)} ({best / now:.2f}x) of {say(now)}, with all"
            f" {len(gain)} candidates dropped"
        )
    return Goal(gain, now - wanted)


def macs_outcome(text: str, *, before: int, after: int) -> tuple[dict[str, int], str]:
    """What became of the goal `text`: figures, and a sentence."""
    wanted = macs_from(text).of(before)
    is_met = after <= wanted
    figures = {"macs_before": before, "macs_after": after, "macs_wanted": round(wanted), "macs_met": is_met}
    return figures, (
        f"multiply-accumulates an image: {macs_text(before)} before, {macs_text(after)} after ({after / before:.3f}x);"
        f" --macs {text} is {macs_text(wanted)}: {'met' if is_met else 'NOT met'}"
    )


def macs_text(macs: float) -> str:
    """`4.09G`, `125.5M`, `31.24k`: four digits, whatever the size."""
    unit, factor = next(((unit, by) for unit, by in _SHOWN if macs >= by), ("", 1.0))
    return f"{macs / factor:.4g}{unit}"


def worth(table: LatencyTable, points: Mapping[str, float], lost_are: str = "points") -> list[str]:
    """Which modules are not worth dropping, dearest first: `layer2.1 saves 0.02 ms and costs 0.4 points`.

    `points` are the points of accuracy that each module's loss costs. Not worth it is a module that costs some and
    saves nothing that can be told from zero, or whose price per millisecond is three times the median.
    """
    saved = {row.module: row.saved_ms for row in table.table if row.module in points}
    prices = {name: points[name] / saved[name].value for name in saved if saved[name].low > 0}
    usual = median(costly) if (costly := [price for price in prices.values() if price > 0]) else 0.0
    dear = {
        name: prices.get(name, float("inf"))
        for name in saved
        if points[name] > 0 and (name not in prices or prices[name] > _DEAR * usual)
    }
    return [
        f"{name} saves {saved[name].value:.2g} ms and costs {points[name]:.2g} {lost_are}"
        for name in sorted(dear, key=lambda name: (-dear[name], name))
    ]
