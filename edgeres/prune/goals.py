"""Goals of `edgeres prune` as something a search can add up: what each module brings, and how much is needed.

    --drop K                gain 1 each                          needed K
    --target-latency 3ms    milliseconds by the latency table    needed predicted(now) - target
    --macs 0.5x             multiply-accumulates an image        needed MACs now - target

`--modules` leaves nothing to choose, `--max-loss` and `--sweep` ask for one number of modules after another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median

from edgeres.core.errors import InputError
from edgeres.core.records.latency import LatencyTable
from edgeres.core.spec import ModelSpec
from edgeres.costs.check import Target, target_from
from edgeres.costs.table import AGAIN, check_table, predicted_ms
from edgeres.prune.config import PruneConfig
from edgeres.prune.plan import Goal

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
_DEAR = 3.0  # times the usual price, in points for a millisecond


_SHOWN = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def goal_from(config: PruneConfig, candidates: Sequence[str], spec: ModelSpec, table: LatencyTable | None) -> Goal:
    """The goal of a config that names a number, a latency or MACs; `spec` is of the network to be pruned.

    Raises InputError if the goal is met already, cannot be met (says the best reachable), or lacks its table.
    """
    if config.target_latency is not None:
        if table is None:
            raise InputError(f"--target-latency needs a latency table (--latency FILE); measure one: {AGAIN}")
        return latency_goal(target_from(config.target_latency), candidates, spec, table)
    if config.macs is not None:
        return macs_goal(config.macs, candidates, spec)
    return count_goal(config.drop or len(config.modules), candidates, spec)


def count_goal(count: int, candidates: Sequence[str], spec: ModelSpec) -> Goal:
    """Drop `count` modules; raises InputError for more than there are candidates."""
    if count > len(candidates):
        raise InputError(f"cannot drop {count} modules: {spec.variant} has {len(candidates)} that may be dropped")
    return Goal(dict.fromkeys(candidates, 1.0), float(count))


def latency_goal(target: Target, candidates: Sequence[str], spec: ModelSpec, table: LatencyTable) -> Goal:
    """Save what is between the network of `spec` and `target`, in the table's milliseconds.

    Raises InputError if the table is of another network, the target is met already or cannot be reached.
    """
    check_table(table, spec)
    now = predicted_ms(table, spec.dropped).value
    gain = {name: table.saved_ms[name] for name in candidates}
    needed, best = now - target.ms(now), now - _most(gain)
    if needed <= 0:
        raise InputError(f"--target-latency: {now:.2f} ms <= {target.ms(now):g} ms: nothing to drop")
    if now - needed < best:
        raise InputError(
            f"--target-latency {target}: cannot be reached; best reachable {best:.2f} ms ({best / now:.2f}x) of"
            f" {now:.2f} ms, with all {len(candidates)} candidates dropped"
        )
    return Goal(gain, needed)


def macs_goal(text: str, candidates: Sequence[str], spec: ModelSpec) -> Goal:
    """Save what is between the network's multiply-accumulates and `text`, `0.5x` or `60M`.

    Raises InputError if they are that few already or cannot become so few.
    """
    from edgeres.models.weights import cost_of

    now = cost_of(spec).macs
    target = _macs_from(text, now)
    gain = {name: float(now - macs) for name, macs in _macs_without(candidates, spec).items()}
    best = now - _most(gain)
    if target >= now:
        raise InputError(f"--macs {text}: {macs_text(now)} <= {macs_text(target)}: nothing to drop")
    if target < best:
        raise InputError(
            f"--macs {text}: cannot be reached; best reachable {macs_text(best)} ({best / now:.2f}x) of"
            f" {macs_text(now)}, with all {len(candidates)} candidates dropped"
        )
    return Goal(gain, now - target)


def macs_outcome(text: str, *, before: int, after: int) -> tuple[dict[str, int], str]:
    """What became of the goal `text`: figures, and a sentence."""
    wanted = _macs_from(text, before)
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


def worth(table: LatencyTable, points: Mapping[str, float]) -> list[str]:
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
        f"{name} saves {saved[name].value:.2g} ms and costs {points[name]:.2g} points"
        for name in sorted(dear, key=lambda name: (-dear[name], name))
    ]


def _macs_from(text: str, now: int) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([xkmg])\s*", text.lower())
    if match is None or float(match[1]) <= 0:
        raise InputError(f"--macs {text}: say a share such as 0.5x, or a number such as 60M")
    return float(match[1]) * (now if match[2] == "x" else _UNITS[match[2]])


def _macs_without(candidates: Sequence[str], spec: ModelSpec) -> dict[str, int]:
    """MACs without each candidate; modules of one shape have the same."""
    from edgeres.costs.design import shape_classes
    from edgeres.models.weights import cost_of

    found: dict[str, int] = {}
    for names in shape_classes(spec).values():
        if members := [name for name in names if name in candidates]:
            found |= dict.fromkeys(members, cost_of(spec.without((members[0],))).macs)
    return found


def _most(gain: Mapping[str, float]) -> float:
    return sum(value for value in gain.values() if value > 0)
