"""The three networks as runs of their own: a recipe that makes each again, what it makes, its report.

What was made when the network was tried is taken over, stage by stage; the recipe's other steps, val among them, run
now. So val is looked at here and nowhere else.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.core.config import config_from, record_from_json
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval, paired_difference, wilson
from edgeres.core.progress import quiet
from edgeres.core.records.frontier import Result
from edgeres.core.runs import EVAL_NAME, PREDICTIONS_NAME, RECIPE_NAME, Run, run_holding
from edgeres.core.stage import REPORT_NAME, StageReport
from edgeres.evaluate.closeness import lost_of
from edgeres.optimize.answers import Winner
from edgeres.optimize.plan import WHOLE
from edgeres.optimize.tries import EFFORT, Workbench, shortened_of
from edgeres.pipeline.chain import Chain
from edgeres.pipeline.recipe import Recipe, config_of, planned, toml_text

_CALLS = 20  # of each network at least: a slow one must not take longer than there is time
_BRINGS = {"import", "train"}
log = logging.getLogger(__name__)


def handed_over(bench: Workbench, answer: Winner, before: Sequence[Result]) -> Result:
    """The network of one answer as a run in a folder of its name; a copy where one `before` is the same network."""
    twin = next((one.folder for one in before if one.tried == answer.tried), None)
    path = bench.out_dir / answer.name
    if twin is not None and not path.exists():
        _copied(Path(twin), path)
    run = _made(bench, answer)
    file = run.models()[-1][1].path
    return Result(
        name=answer.name,
        tried=answer.tried,
        folder=str(run.path),
        file=str(file.relative_to(run.path)),
        why=answer.why,
        val_all=len(bench.dataset.val),
        **_on_val(run),
    )


def _copied(run: Path, path: Path) -> None:
    """A copy of the run whose reports name itself: its files, and what to run again."""
    shutil.copytree(run, path)
    for told in (*path.glob(f"*/{REPORT_NAME}"), *path.glob(f"*/{EVAL_NAME}")):
        write_text(told, told.read_text(encoding="utf-8").replace(Run(run).called, Run(path).called))


def _made(bench: Workbench, answer: Winner) -> Run:
    """The run of one answer, begun with what is there: made when it was tried, or for another answer."""
    path, home = bench.out_dir / answer.name, run_holding(bench.source.path) or Run(bench.out_dir.parent)
    values = {"name": f"{home.name}-{answer.name}", "data": bench.config.data, "stage": recipe_for(bench, answer)}
    recipe = config_from(Recipe, values, f"the recipe of {answer.name}")
    log.info("%s: %s, %s", answer.name, answer.tried.name, answer.why)
    known = [
        bench.source.path.parent,
        *bench.folder(WHOLE).glob("01-export"),
        *bench.folder(shortened_of(answer.tried)).glob("*"),
    ]
    known += sorted(bench.out_dir.glob("*/0[01]-*"))  # of an answer before it, evaluated by now
    for number, entry in enumerate(recipe.stage):
        folder = path / f"{number:02}-{entry['use']}"
        same = [one for one in known if one.name == folder.name]
        if same and not folder.exists():
            shutil.copytree(same[-1], folder)
    steps = planned(recipe, str(path))
    write_text(path / RECIPE_NAME, toml_text(recipe, steps))
    with quiet("edgeres"):
        for done in Chain(Run(path), steps).execute():
            if done.step.use == "bench":  # before the report, which shows it
                bench.place.hand_over(Run(path))
    return Run(path)


def recipe_for(bench: Workbench, answer: Winner) -> list[dict[str, Any]]:
    """From what brought the network to the report."""
    config, dropped = bench.config, answer.tried.dropped
    batch = {} if config.batch == 1 else {"batch": config.batch}
    threads = {} if config.threads is None else {"threads": config.threads}
    entries: list[dict[str, Any]] = [_brought(bench), {"use": "export", **batch}]
    if dropped:
        cut = config.cut(dropped, bench.images_for(answer.tried.refined), answer.tried.refined).model_dump(
            mode="json", exclude_defaults=True, exclude={"data"}
        )
        entries += [{"use": "prune", **cut}, {"use": "export", **batch}]
    if answer.tried.precision == "int8":
        scales = bench.calibration.model_dump(mode="json", exclude_defaults=True, exclude={"data"})
        entries += [
            {"use": "calibrate", **scales},
            {"use": "quantize", "profile": bench.place.profile, "effort": EFFORT},
        ]
    few = {"images": bench.on_val} if bench.on_val < len(bench.dataset.val) else {}
    clock = {"use": "bench", "seconds": bench.bench_s, "samples": _CALLS, **batch, **threads}
    return [*entries, {"use": "eval", **few, **threads}, clock, {"use": "report"}]


def _brought(bench: Workbench) -> dict[str, Any]:
    """The first entry: as the network was brought into its run, or else its file."""
    path = bench.source.path.parent / REPORT_NAME
    report = record_from_json(StageReport, path) if path.is_file() else None
    if report is None or report.stage not in _BRINGS:
        return {"use": "import", "file": str(bench.source.path)}
    known = {name: value for name, value in report.config.items() if value is not None}
    how = config_from(config_of(report.stage), known, str(path))
    return {"use": report.stage, **how.model_dump(mode="json", exclude_defaults=True)}


def _on_val(run: Run) -> Mapping[str, Any]:
    """What the last network lost against the first on val, paired; how near it is where no label says what is right."""
    judged = [folder.path for folder, _ in run.models() if (folder.path / EVAL_NAME).is_file()]
    if not judged:
        return {"val_lost_points": None, "val_n": 0, "top1": None}
    for near in record_from_json(StageReport, judged[-1] / EVAL_NAME).closeness:
        lost = Interval.around(lost_of(near))
        if near.measure == "guess":
            lost = wilson(round(lost.value * near.n), near.n)
        return {"val_lost_points": lost.times(100), "val_n": near.n, "top1": None}
    whole, last = (np.load(path / PREDICTIONS_NAME, allow_pickle=False) for path in (judged[0], judged[-1]))
    right = [table[:, 0] == table[:, 1] for table in (whole, last)]
    change, half = paired_difference(*right)
    lost = Interval.around(0.0 - 100 * change, 100 * half)
    return {"val_lost_points": lost, "val_n": len(last), "top1": float(right[1].mean())}
