"""What a report says: the content of the run's report.json, from which table, plots and page are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from edgeres.core.amounts import counted
from edgeres.core.config import Record, unless_usual
from edgeres.core.environment import Environment
from edgeres.core.metrics import Closeness, OwnFigure
from edgeres.core.records.frontier import Frontier, told_of
from edgeres.core.records.sweep import SweepFigure
from edgeres.core.stage import FileRef
from edgeres.evaluate.agreement import Agreement
from edgeres.evaluate.stage import OTHER_ORDER
from edgeres.report.agreements import AgreementFigure
from edgeres.report.boards import BoardFigure
from edgeres.report.figures import AccuracyFigure, Changes, LatencyFigure
from edgeres.report.findings import CostFigure, HistogramFigure, LesionFigure, TimedWay
from edgeres.report.folder import FileLine


class Row(Record):
    """One model-producing stage."""

    name: str
    stage: str
    what: str
    precision: str | None
    path: str
    sha256: str
    parent: str | None
    params: int
    macs: int
    size_bytes: int
    dropped: tuple[str, ...]
    accuracy: AccuracyFigure | None = None
    accuracy_missing: str = ""
    closeness: Closeness | None = None
    metric: OwnFigure | None = None
    latency: LatencyFigure | None = None
    latency_missing: str = ""
    latency_reason: str = ""
    versus_first: Changes = Changes()
    versus_previous: Changes = Changes()

    _written = unless_usual("closeness", "metric")

    @property
    def is_judged(self) -> bool:
        """Whether it is known how good it is."""
        return self.accuracy is not None or self.closeness is not None


class ModuleState(Record):
    """One module of the original network."""

    name: str
    kind: str
    dropped: bool


class StageDetail(Record):
    """One stage folder, whatever it produced."""

    name: str
    stage: str
    duration_s: float
    created: str
    config: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    source: FileRef | None
    output: FileRef | None
    environment: Environment
    command: str = ""
    superseded: bool = False  # what it measured has been measured again since


class NotRun(Record):
    """What was not measured, why, and what measures it."""

    name: str
    what: str
    why: str
    todo: str


class Claim(Record):
    """One measured gain or cost in words: `figure` large, `what` beside it, `detail` below."""

    figure: str
    what: str
    detail: str


class RunSummary(Record):
    """A whole run.

    `rows_on_board` are the rows with the figures of the board that measured last what the run is judged by, of which
    headline and claims speak.
    """

    schema_version: int = 1
    run: str
    headline: str
    claims: tuple[Claim, ...] = ()
    rows: tuple[Row, ...]
    rows_on_board: tuple[Row, ...] = ()
    ways: tuple[TimedWay, ...] = ()
    frontier: Frontier | None = None
    sweep: SweepFigure | None = None
    lesion: tuple[LesionFigure, ...] = ()
    modules: tuple[ModuleState, ...] = ()
    costs: CostFigure | None = None
    histograms: HistogramFigure | None = None
    agreements: tuple[AgreementFigure, ...] = ()
    kept_agreements: tuple[Agreement, ...] = ()
    boards: tuple[BoardFigure, ...] = ()
    absent: tuple[NotRun, ...] = ()
    files: tuple[FileLine, ...] = ()
    stages: tuple[StageDetail, ...] = Field(default=())
    recipe: str | None = None
    problems: tuple[str, ...] = ()

    _written = unless_usual("frontier")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes figures doubtful, once, with the stages that said so."""
        said_by: dict[str, list[str]] = {}
        for stage in self.stages:
            for warning in () if stage.superseded else dict.fromkeys(stage.warnings):
                said_by.setdefault(warning, []).append(stage.name)
        said = [f"{', '.join(names)}: {warning}" for warning, names in said_by.items()]
        noted = [f"{row.name}: {row.latency.note}" for row in self.rows if row.latency and row.latency.note]
        return (*said, *noted)

    def warned(self, where: str) -> Iterator[str]:
        """For a terminal: what makes accuracies mean nothing, and how many more warnings there are, where."""
        grave = [one for one in self.warnings if OTHER_ORDER in one]
        yield from grave
        if more := len(self.warnings) - len(grave):
            yield f"stages gave {counted(more, 'more warning' if grave else 'warning')}: {where}"

    @property
    def goals(self) -> tuple[str, ...]:
        """Of `optimize`: whether each goal was kept, with its figure, and which searches were before that."""
        if self.frontier is None:
            return ()
        searches = [one.name for one in self.stages if one.stage == "optimize" and not one.config.get("plan_only")]
        others = (
            f"the newest of {len(searches)} searches; the others: {', '.join(searches[:-1])} (show their frontier.json)"
        )
        return *told_of(self.frontier), *([others] if searches[1:] else [])

    @property
    def gone(self) -> set[str]:
        """Modules that were dropped."""
        return {module.name for module in self.modules if module.dropped}

    @property
    def lost(self) -> dict[str, float]:
        """Points of top-1 lost without each module."""
        return {entry.module: entry.lost_points for entry in self.lesion}

    @property
    def timed(self) -> list[tuple[str, LatencyFigure]]:
        """What was timed here."""
        return [(row.name, row.latency) for row in self.rows if row.latency]

    @property
    def timed_on_boards(self) -> list[tuple[str, LatencyFigure]]:
        """What boards timed."""
        return [(one.stage, one.latency) for one in self.boards if one.latency]

    @property
    def timed_conditions(self) -> list[str]:
        """What the latencies belong to, one line for each machine and mode."""
        return sorted({latency.conditions for _, latency in self.timed})
