"""What `edgeres study lesion` found, as it is stored, and what it says to Veit et al. 2016 on deleted modules.

lesions.json   a `LesionTable`
lesions.csv    one row a network: whole, without one module, without a random set, and the control's
lesions.svg    error without each module, error against the number of modules deleted
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Literal

from edgeres.core.config import Record
from edgeres.core.metrics import Interval
from edgeres.core.records.lesion import Lesion
from edgeres.study.outcomes import Trend, is_smooth
from edgeres.study.random_sets import Coupling, SetLesion
from edgeres.study.result import Claim, Row, judged, judged_columns

PAPER = "Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.1 and 4.2, figures 3 and 5a"
PAPER_MODULES = 54
HARDLY_POINTS = 1.0  # of top-1: the paper's figure 3 shows less for most of its modules
MUCH_POINTS = 5.0
NEAR_CHANCE = 0.10  # top-1 above that of guessing


class NetworkLesions(Record):
    """All single lesions of one checkpoint; `whole` is the network as it is."""

    model_sha256: str
    network: str = ""
    num_classes: int = 0
    whole: Lesion
    table: tuple[Lesion, ...]

    @property
    def typical(self) -> list[Lesion]:
        """The modules whose shortcut is the identity, all modules if there are none."""
        return [row for row in self.table if row.kind == "identity"] or list(self.table)


class StageSummary(Record):
    """The modules of one stage and kind: the median and the largest cost in points of top-1."""

    stage: str
    kind: str
    modules: int
    median_change_points: float
    worst_change_points: float
    worst: str


class LesionTable(NetworkLesions):
    """All lesions of one checkpoint, and what they say to the claims.

    `sets` were judged on `sets_n` of the images; `trend` is their error against the number of modules; `couplings`
    begins with the one over all sets.
    """

    kind: Literal["lesions"] = "lesions"
    schema_version: int = 1
    stages: tuple[StageSummary, ...] = ()
    sets_n: int = 0
    sets: tuple[SetLesion, ...] = ()
    trend: Trend | None = None
    couplings: tuple[Coupling, ...] = ()
    control: NetworkLesions | None = None
    claims: tuple[Claim, ...] = ()


def stages_of(lesions: Sequence[Lesion]) -> Iterator[StageSummary]:
    """`layer1` ... in order, identity and projection modules apart."""
    groups: dict[tuple[str, str], list[Lesion]] = {}
    for row in lesions:
        groups.setdefault((row.module.partition(".")[0], row.kind), []).append(row)
    for (stage, kind), rows in groups.items():
        worst = min(rows, key=lambda row: row.change_points)
        yield StageSummary(
            stage=stage,
            kind=kind,
            modules=len(rows),
            median_change_points=median(row.change_points for row in rows),
            worst_change_points=worst.change_points,
            worst=worst.module,
        )


def csv_rows(table: LesionTable) -> Iterator[Row]:
    """Every network judged, `n` images each."""
    yield from _single_rows(table)
    for one in table.sets:
        row: Row = {"network": table.network, "without": " ".join(one.modules), "modules": one.k, "kind": "random set"}
        yield row | {"n": table.sets_n} | judged_columns(one.error_percent, one.loss, one.kl)
    if table.control:
        yield from _single_rows(table.control)


def _single_rows(lesions: NetworkLesions) -> Iterator[Row]:
    for one in (lesions.whole, *lesions.table):
        figures = judged_columns(one.error.value, one.loss, one.kl)
        refitted = one.refitted.model_dump() if one.refitted else {}
        yield {
            "network": lesions.network,
            "without": one.module,
            "modules": int(bool(one.module)),
            "kind": one.kind,
            "n": one.n,
            "error_percent": figures.pop("error_percent"),
            "change_points": round(one.change_points, 4),
            "half_width_points": round(one.half_width_points, 4),
            **figures,
            **{f"refitted_{name}": round(value, 6) for name, value in refitted.items()},
        }


def claims_of(table: LesionTable) -> tuple[Claim, ...]:
    """One verdict a claim; those that nothing was measured for are left out."""
    if table.whole.accuracy is None:  # they speak of classes
        return ()
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


def _one_hardly_matters(table: LesionTable) -> Claim:
    costs = [row.cost for row in table.typical]
    harmless = sum(cost.high <= HARDLY_POINTS for cost in costs)
    costly = sum(cost.low > HARDLY_POINTS for cost in costs)
    severe = sum(cost.low > MUCH_POINTS for cost in costs)
    changing = [row.cost.value for row in table.table if row.kind == "projection"]
    told = f", the {len(changing)} that change the shape {min(changing):.1f} to {max(changing):.1f}" if changing else ""
    return Claim(
        claim="deleting one module hardly changes the error, except the few that change the shape",
        source=PAPER,
        verdict=judged(holds=2 * harmless > len(costs), fails=2 * costly >= len(costs)),
        because=(
            f"of {len(costs)} {table.typical[0].kind} modules {harmless} surely cost at most {HARDLY_POINTS:g} point,"
            f" {costly} surely more and {severe} more than {MUCH_POINTS:g} (95 % intervals, n ="
            f" {table.whole.n:,}); the median costs {median(cost.value for cost in costs):.1f} points"
            f"{told if len(changing) < len(table.table) else ''}; the paper's network has {PAPER_MODULES} modules, this"
            f" one {len(table.table)}"
        ),
    )


def _control_collapses(control: NetworkLesions) -> Claim:
    limit = 1 / control.num_classes + NEAR_CHANCE
    bounds = [row.accuracy.interval for row in control.table if row.accuracy]
    near = sum(one.high <= limit for one in bounds)
    far = sum(one.low > limit for one in bounds)
    errors = [row.error.value for row in control.table]
    return Claim(
        claim="deleting any layer of a network without shortcuts leaves it near chance",
        source=PAPER,
        verdict=judged(holds=near == len(bounds), fails=far > 0),
        because=(
            f"{near} of {len(bounds)} layers of {control.network} surely leave at most {100 * limit:.0f} % right, {far}"
            f" surely more; error {control.whole.error.value:.1f} % whole, median {median(errors):.1f} %"
            f" and at least {min(errors):.1f} % without a layer (chance {100 * (1 - 1 / control.num_classes):.0f} %,"
            f" n = {control.whole.n:,})"
        ),
    )


def _residual_suffers_less(table: LesionTable, control: NetworkLesions) -> Claim:
    ours = _median([row.cost for row in table.typical])
    theirs = _median([row.cost for row in control.table])
    return Claim(
        claim="a residual network loses less by a deletion than one without shortcuts",
        source=PAPER,
        verdict=judged(holds=theirs.low > ours.high, fails=theirs.high < ours.low),
        because=(
            f"the median deletion costs {table.network} {ours.value:.1f} points ({table.typical[0].kind} modules) and"
            f" {control.network} {theirs.value:.1f}"
        ),
    )


def _median(costs: Sequence[Interval]) -> Interval:
    """Medians of the costs and of the bounds of their intervals."""
    return Interval(**{name: median(getattr(cost, name) for cost in costs) for name in Interval.model_fields})
