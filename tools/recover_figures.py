"""What ResNet-56 loses when modules go and training back has minutes, not days.

    python tools/recover_figures.py whole.safetensors --data folder:cifar10-jpeg --work work

Each line of PLAN is `edgeres prune` with these options, judged on val against the whole network, paired. Writes
tools/results/recover.json after each; lines already there are not run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Record, config_from, record_from_json
from edgeres.core.environment import environment
from edgeres.core.files import write_text
from edgeres.core.metrics import paired_difference
from edgeres.data import dataset_for
from edgeres.evaluate.stage import accuracy_of
from edgeres.prune.config import PruneConfig
from edgeres.prune.stage import prune

RESULTS = Path(__file__).parent / "results" / "recover.json"
_MIMIC: dict[str, Any] = {"drop": 4, "recover": "mimic", "images": 2000, "budget": "3m"}
_BOTH: dict[str, Any] = {"drop": 4, "recover": "mimic,distill", "images": 2000, "budget": "3m"}
_NINE: dict[str, Any] = {"drop": 9, "recover": "distill", "images": 50_000, "budget": "6m", "epochs": 1}
PLAN: tuple[dict[str, Any], ...] = (
    {"drop": 4},
    _MIMIC,
    _NINE,
    {**_MIMIC, "score": "kl"},
    _BOTH,
    *({**_MIMIC, "seed": seed} for seed in (1, 2)),
    {"drop": 9},
)


class Line(Record):
    """One call, what it dropped and what was lost, in points of top-1 on val."""

    options: dict[str, Any]
    dropped: tuple[str, ...]
    top1: float
    change_points: float
    half_width_points: float
    n: int
    duration_s: float
    recovery: dict[str, Any]


class Lines(Record):
    """The file."""

    whole_top1: float
    data: str
    machine: str
    lines: tuple[Line, ...] = ()


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    source = Checkpoint(options.checkpoint)
    dataset = dataset_for(source.spec, options.data)
    options.work.mkdir(parents=True, exist_ok=True)
    whole = accuracy_of(source, dataset, out=options.work / "whole.npy")
    before = _right(options.work / "whole.npy")
    known = record_from_json(Lines, RESULTS).lines if RESULTS.is_file() else ()
    done = Lines(whole_top1=whole.top1, data=options.data, machine=environment().machine, lines=known)
    for number, wanted in enumerate(PLAN):
        if any(line.options == wanted for line in done.lines):
            continue
        config = config_from(PruneConfig, {"data": options.data, **wanted}, "recover_figures")
        folder, start = options.work / f"{number:02}", time.perf_counter()
        result = prune(source, config, folder)
        duration_s = time.perf_counter() - start
        accuracy = accuracy_of(result.output, dataset, out=folder / "eval.npy")
        change, half = paired_difference(before, _right(folder / "eval.npy"))
        line = Line(
            options=wanted,
            dropped=tuple(result.report.results["chosen"]),
            top1=accuracy.top1,
            change_points=100 * change,
            half_width_points=100 * half,
            n=accuracy.n,
            duration_s=round(duration_s, 1),
            recovery={k: v for k, v in result.report.results.get("recovery", {}).items() if k != "looks"},
        )
        done = done.model_copy(update={"lines": (*done.lines, line)})
        write_text(RESULTS, done.model_dump_json(indent=1) + "\n")
        print("\n".join(table_of(done)), flush=True)
    return 0


def table_of(done: Lines) -> list[str]:
    """Markdown."""
    lines = [
        "| `edgeres prune` with | top-1 % | against the whole | steps | recovering | all |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in done.lines:
        words = " ".join(f"--{name} {value}" for name, value in line.options.items())
        spent = line.recovery.get("duration_s")
        change = f"{line.change_points:+.2f} ± {line.half_width_points:.2f}".replace("-", "−")
        how = f"{spent:.0f} s" if spent else ""
        steps = str(line.recovery.get("steps", ""))
        lines.append(f"| `{words}` | {100 * line.top1:.2f} | {change} | {steps} | {how} | {line.duration_s:.0f} s |")
    n = done.lines[0].n
    return [*lines, "", f"{done.data} val, n = {n:,}, whole network {100 * done.whole_top1:.2f} %; {done.machine}."]


def _right(path: Path) -> list[bool]:
    pairs = np.load(path)
    return list(pairs[:, 0] == pairs[:, 1])


if __name__ == "__main__":
    sys.exit(main())
