"""What `edgeres study lesion` found, as it is stored.

lesions.json   a `LesionTable`
lesions.csv    one row a network: whole, without one module, without a random set, and the control's
lesions.svg    error without each module, error against the number of modules deleted
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Literal

from edgeres.core.config import Record
from edgeres.core.records.lesion import Lesion
from edgeres.study.claims import Claim
from edgeres.study.random_sets import Coupling, SetLesion
from edgeres.study.result import Value
from edgeres.study.trend import Trend


class NetworkLesions(Record):
    """All single lesions of one checkpoint; `whole` is the network as it is."""

    model_sha256: str
    network: str = ""
    num_classes: int = 0
    whole: Lesion
    table: tuple[Lesion, ...]


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


def stages_of(lesions: Sequence[Lesion]) -> tuple[StageSummary, ...]:
    """`layer1` ... in order, identity and projection modules apart."""
    groups: dict[tuple[str, str], list[Lesion]] = {}
    for row in lesions:
        groups.setdefault((row.module.partition(".")[0], row.kind), []).append(row)
    return tuple(_summary(stage, kind, rows) for (stage, kind), rows in groups.items())


def _summary(stage: str, kind: str, rows: Sequence[Lesion]) -> StageSummary:
    worst = min(rows, key=lambda row: row.change_points)
    return StageSummary(
        stage=stage,
        kind=kind,
        modules=len(rows),
        median_change_points=median(row.change_points for row in rows),
        worst_change_points=worst.change_points,
        worst=worst.module,
    )


def csv_rows(table: LesionTable) -> tuple[dict[str, Value], ...]:
    """Every network judged, `n` images each."""
    control = _single_rows(table.control) if table.control else ()
    return (*_single_rows(table), *(_set_row(table, one) for one in table.sets), *control)


def _single_rows(lesions: NetworkLesions) -> Iterator[dict[str, Value]]:
    for row in (lesions.whole, *lesions.table):
        yield {
            "network": lesions.network,
            "without": row.module,
            "modules": int(bool(row.module)),
            "kind": row.kind,
            "n": row.accuracy.n,
            "error_percent": round(100 * (1 - row.accuracy.top1), 4),
            "change_points": round(row.change_points, 4),
            "half_width_points": round(row.half_width_points, 4),
            "loss_nats": round(row.loss, 6),
            "kl_nats": round(row.kl, 6),
        }


def _set_row(table: LesionTable, one: SetLesion) -> dict[str, Value]:
    return {
        "network": table.network,
        "without": " ".join(one.modules),
        "modules": one.k,
        "kind": "random set",
        "n": table.sets_n,
        "error_percent": round(one.error_percent, 4),
        "loss_nats": round(one.loss, 6),
        "kl_nats": round(one.kl, 6),
    }
