"""What every study leaves: a claim somebody published, what this run saw, and whether the two agree.

Beside study.json, which holds a `Study`, lie study.csv with its rows and study.svg with its figure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgeres.core.artifacts import StudyFile
from edgeres.core.config import Record
from edgeres.core.figures import figure_file
from edgeres.core.files import csv_text, write_text
from edgeres.core.stage import Recorder, StageResult

Verdict = Literal["supported", "not supported", "undecided"]
Value = float | int | str | None
Draw = Callable[[Any], None]


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
    rows: tuple[dict[str, Value], ...]
    summary: dict[str, Any] = Field(default_factory=dict)


def finish(
    study: Study, recorder: Recorder, out_dir: Path, draw: Draw, *, panels: int = 1, width_in: float = 6.4
) -> StageResult[StudyFile]:
    """Writes study.json, study.csv and study.svg (by `draw(axes)`) into `out_dir`, and the report's figures."""
    output = StudyFile(out_dir / "study.json")
    write_text(out_dir / "study.csv", csv_text(study.rows))
    with figure_file(out_dir / "study.svg", panels=panels, width_in=width_in) as axes:
        draw(axes)
    write_text(output.path, study.model_dump_json(indent=1) + "\n")
    recorder.results |= {"claim": f"{study.claim} ({study.source})", "verdict": study.verdict, "because": study.because}
    recorder.results["study"] = study.model_dump(mode="json")
    seeds = f"{len(study.seeds)} seed{'' if len(study.seeds) == 1 else 's'}"
    recorder.notes.append(f"{study.setting} setting, {study.data}, n = {study.n:,}, {seeds}: {study.verdict}")
    recorder.notes.append("its figure and its table lie beside it, .svg and .csv")
    return StageResult(output, recorder.finish(output))
