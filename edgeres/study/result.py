"""What every study leaves: a claim somebody published, what this run saw, and whether the two agree.

Beside study.json, which holds a `Study`, lie study.csv with its rows and study.svg with its figure.

All networks that a study trains see the same images, so a difference between two kinds is taken seed by seed and its
interval holds the luck of initial weights, order and augmentation; how far the images stand for others is said by n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from edgeres.core.amounts import counted
from edgeres.core.artifacts import StudyFile
from edgeres.core.config import Record
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval
from edgeres.core.pictures import COLOURS, MUTED, figure_file
from edgeres.core.safe_text import csv_text
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import t_95

Verdict = Literal["supported", "not supported", "undecided"]
Value = float | int | str | None
Row = dict[str, Value]
MIN_SEEDS = 3  # fewer say nothing about training
_WEAKEST_FIRST: tuple[Verdict, ...] = ("not supported", "undecided", "supported")


class Claim(Record):
    """What was said and where, and what this run says to it; `because` gives the figures."""

    claim: str
    source: str
    verdict: Verdict
    because: str


class Study(Record):
    """The result of one study.

    `claim` is the published statement under test and `source` where it stands; `because` says in one sentence, with the
    figures, what led to the verdict; `undecided` is the honest word for a run that is too small to tell. `rows` is the
    study's table, units in the column names; `setting` is "short", or "full" for the paper's own. `n` counts the images
    an accuracy was judged on.
    """

    kind: Literal["study"] = "study"
    schema_version: int = 1
    name: str
    claim: str
    source: str
    verdict: Verdict
    because: str
    setting: Literal["short", "full"]
    data: str
    n: int
    seeds: tuple[int, ...]
    networks: tuple[str, ...]
    rows: tuple[Row, ...]
    summary: dict[str, Any] = Field(default_factory=dict)

    @property
    def trained(self) -> str:
        """`digits, 3 seeds`."""
        return f"{self.data}, {counted(len(self.seeds), 'seed')}"


@dataclass(frozen=True)
class Picture:
    """What study.svg shows: `draw(axes, study)` into so many panels side by side."""

    draw: Callable[[Any, Study], None]
    panels: int
    width_in: float


def finish(study: Study, recorder: Recorder, out_dir: Path, picture: Picture) -> StageResult[StudyFile]:
    """Writes study.json, study.csv and study.svg into `out_dir`, and the report's figures."""
    output = StudyFile(out_dir / "study.json")
    write_text(out_dir / "study.csv", csv_text(study.rows))
    with figure_file(out_dir / "study.svg", panels=picture.panels, width_in=picture.width_in) as axes:
        picture.draw(axes, study)
    write_text(output.path, study.model_dump_json(indent=1) + "\n")
    recorder.results |= {"claim": f"{study.claim} ({study.source})", "verdict": study.verdict, "because": study.because}
    recorder.results["study"] = study.model_dump(mode="json")
    recorder.notes.append(f"{study.setting} setting, {study.trained}, n = {study.n:,}: {study.verdict}")
    recorder.notes.append("its figure and its table lie beside it, .svg and .csv")
    return StageResult(output, recorder.finish(output))


def judged(*, holds: bool, fails: bool, enough: bool = True) -> Verdict:
    """`undecided` if the figures show neither, or both, or were not enough."""
    if holds == fails or not enough:
        return "undecided"
    return "supported" if holds else "not supported"


def within(parts: Iterable[tuple[Interval, float, float]], seeds: int) -> Verdict:
    """Whether each change (interval, low, high) is between its bounds, with its whole interval.

    Not supported if one lies wholly outside; fewer than MIN_SEEDS decide nothing.
    """
    changes = list(parts)
    return judged(
        enough=seeds >= MIN_SEEDS,
        holds=all(low < one.low and one.high < high for one, low, high in changes),
        fails=any(one.high < low or one.low > high for one, low, high in changes),
    )


def joined(claims: Sequence[Claim], source: str) -> Claim:
    """Several as one: as good as the weakest, each verdict told with its reason; there must be one."""
    return Claim(
        claim="; ".join(claim.claim for claim in claims),
        source=source,
        verdict=min((claim.verdict for claim in claims), key=_WEAKEST_FIRST.index),
        because="; ".join(f"{claim.verdict}: {claim.because}" for claim in claims),
    )


def judged_columns(error_percent: float, loss: float | None, kl: float) -> Row:
    """What a table says of one network; without a loss it has no classes, and the error is a distance."""
    if loss is None:
        return {"error_percent": round(error_percent, 4), "loss_nats": "", "kl_nats": ""}
    return {"error_percent": round(error_percent, 4), "loss_nats": round(loss, 6), "kl_nats": round(kl, 6)}


def numbers(rows: Sequence[Row], column: str) -> list[float]:
    """A column of a study's table; raises TypeError where it holds no number."""
    return [_number(row[column]) for row in rows]


def integers(rows: Sequence[Row], column: str) -> list[int]:
    """The different values of a column of integers, rising."""
    return sorted({int(number) for number in numbers(rows, column)})


def _number(value: Value) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean over seeds and its 95 % t interval; one value alone has an infinite one."""
    n, mean = len(values), float(np.mean(values))
    half = t_95(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Interval.around(mean, half)


def by_seed(rows: Iterable[Row], column: str, **kind: Value) -> list[float]:
    """The column's values in the rows of that kind, in order of their seed."""
    chosen = [row for row in rows if all(row[name] == value for name, value in kind.items())]
    seeds = np.argsort(numbers(chosen, "seed"), kind="stable")
    return [numbers(chosen, column)[place] for place in seeds]


def difference(after: Sequence[float], before: Sequence[float]) -> Interval:
    """The change from `before` to `after`, paired by seed."""
    return mean_interval([b - a for a, b in zip(before, after, strict=True)])


def points(change: Interval) -> str:
    """`+1.20 points (+0.30 to +2.10)`."""
    return change.text("+.2f", "points")


def draw_strips(panel: Any, values: Mapping[str, Sequence[float]], label: str) -> None:
    """A line a kind of network: a dot for each seed and a bar at their mean; `label` says what is measured."""
    for place, each in enumerate(values.values()):
        panel.plot(each, [place] * len(each), "o", color=COLOURS[0], alpha=0.5)
        panel.plot(sum(each) / len(each), place, "|", color=COLOURS[0], markersize=16, markeredgewidth=2)
    panel.set(ylim=(len(values) - 0.5, -0.5), xlim=(0, None), xlabel=label)
    panel.set_yticks(range(len(values)), values)


def draw_guessing(axes: Any, chance: float, *, at: float = 0.01, align: str = "left", room: float = 1.12) -> None:
    """A line at the error of mere `chance` (%), named at that part of the width, with `room` above it."""
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle="--")
    axes.set_ylim(top=max(axes.get_ylim()[1], chance * room))
    place, style = (at, chance), {"ha": align, "va": "bottom", "fontsize": 8, "color": MUTED}
    axes.annotate("guessing", place, xycoords=("axes fraction", "data"), **style)
