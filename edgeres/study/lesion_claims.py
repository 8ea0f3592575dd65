"""Veit et al. 2016 on deleted modules, as far as a table of lesions can speak to it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from edgeres.core.metrics import wilson
from edgeres.core.records.lesion import Lesion
from edgeres.study.claims import Claim
from edgeres.study.lesion_table import LesionTable, NetworkLesions
from edgeres.study.result import Verdict
from edgeres.study.trend import is_smooth

PAPER = "Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.1 and 4.2, figures 3 and 5a"
PAPER_MODULES = 54
HARDLY_POINTS = 1.0  # of top-1: the paper's figure 3 shows less for most of its modules
MUCH_POINTS = 5.0
NEAR_CHANCE = 0.10  # top-1 above that of guessing


def claims_of(table: LesionTable) -> tuple[Claim, ...]:
    """One verdict a claim; those that nothing was measured for are left out."""
    claims = [_one_hardly_matters(table)]
    if table.trend is not None:
        verdict, because = is_smooth(table.trend)
        claims.append(
            Claim(
                claim="error rises smoothly with the number of randomly deleted modules",
                source=PAPER,
                verdict=verdict,
                because=f"{because} (n = {table.trend.n:,})",
            )
        )
    if table.control is not None:
        claims += [_control_collapses(table.control), _residual_suffers_less(table, table.control)]
    return tuple(claims)


def identity_rows(lesions: Sequence[Lesion]) -> list[Lesion]:
    """The modules whose shortcut is the identity, all modules if there are none."""
    return [row for row in lesions if row.kind == "identity"] or list(lesions)


def _one_hardly_matters(table: LesionTable) -> Claim:
    costs = [row.cost_points for row in identity_rows(table.table)]
    harmless = sum(high <= HARDLY_POINTS for _, _, high in costs)
    costly = sum(low > HARDLY_POINTS for _, low, _ in costs)
    severe = sum(low > MUCH_POINTS for _, low, _ in costs)
    verdict: Verdict = "undecided"
    if 2 * harmless > len(costs):
        verdict = "supported"
    elif 2 * costly >= len(costs):
        verdict = "not supported"
    return Claim(
        claim="deleting one module hardly changes the error, except the few that change the shape",
        source=PAPER,
        verdict=verdict,
        because=(
            f"of {len(costs)} {_kind_of(table.table)} modules {harmless} surely cost at most {HARDLY_POINTS:g} point,"
            f" {costly} surely more and {severe} more than {MUCH_POINTS:g} (95 % intervals, n ="
            f" {table.whole.accuracy.n:,}); the median costs {median(cost for cost, _, _ in costs):.1f} points"
            f"{_shape_changers(table.table)}; the paper's network has {PAPER_MODULES} modules, this one"
            f" {len(table.table)}"
        ),
    )


def _kind_of(lesions: Sequence[Lesion]) -> str:
    return "identity" if any(row.kind == "identity" for row in lesions) else "projection"


def _shape_changers(lesions: Sequence[Lesion]) -> str:
    costs = [-row.change_points for row in lesions if row.kind == "projection"]
    if not costs or len(costs) == len(lesions):
        return ""
    return f", the {len(costs)} that change the shape {min(costs):.1f} to {max(costs):.1f}"


def _control_collapses(control: NetworkLesions) -> Claim:
    limit = 1 / control.num_classes + NEAR_CHANCE
    bounds = [wilson(row.accuracy.correct_top1, row.accuracy.n) for row in control.table]
    near = sum(high <= limit for _, high in bounds)
    far = sum(low > limit for low, _ in bounds)
    verdict: Verdict = "undecided"
    if near == len(bounds):
        verdict = "supported"
    elif far:
        verdict = "not supported"
    errors = [100 * (1 - row.accuracy.top1) for row in control.table]
    return Claim(
        claim="deleting any layer of a network without shortcuts leaves it near chance",
        source=PAPER,
        verdict=verdict,
        because=(
            f"{near} of {len(bounds)} layers of {control.network} surely leave at most {100 * limit:.0f} % right, {far}"
            f" surely more; error {100 * (1 - control.whole.accuracy.top1):.1f} % whole, median {median(errors):.1f} %"
            f" and at least {min(errors):.1f} % without a layer (chance {100 * (1 - 1 / control.num_classes):.0f} %,"
            f" n = {control.whole.accuracy.n:,})"
        ),
    )


def _residual_suffers_less(table: LesionTable, control: NetworkLesions) -> Claim:
    ours = _medians([row.cost_points for row in identity_rows(table.table)])
    theirs = _medians([row.cost_points for row in control.table])
    verdict: Verdict = "undecided"
    if theirs[1] > ours[2]:
        verdict = "supported"
    elif theirs[2] < ours[1]:
        verdict = "not supported"
    return Claim(
        claim="a residual network loses less by a deletion than one without shortcuts",
        source=PAPER,
        verdict=verdict,
        because=(
            f"the median deletion costs {table.network} {ours[0]:.1f} points ({_kind_of(table.table)} modules) and"
            f" {control.network} {theirs[0]:.1f}"
        ),
    )


def _medians(costs: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Medians of the costs and of the bounds of their intervals."""
    return tuple(median(column) for column in zip(*costs, strict=True))
