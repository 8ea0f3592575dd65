"""What ResNet-56 loses without some modules, and what `solve` gives back from few images.

    python tools/solve_figures.py whole.safetensors --data folder:cifar10-jpeg --work work

Sets of 4, 8 and 12 modules as a sweep chose them by `adaptive`, recovered; and what
`edgeres prune --drop N --recover solve` makes, which chooses by `solved` and solves on the photos of a seed; with 2,000
photos also after `--recover solve,mimic`, which chooses the same.
Each line of the plan is a process of its own, one thread, judged on val against the whole network, paired. Writes
tools/results/solve.json after each; lines already there are not run again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from pathlib import Path

import numpy as np

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Record, record_from_json
from edgeres.core.environment import environment
from edgeres.core.files import write_text
from edgeres.core.metrics import paired_difference
from edgeres.data import dataset_for
from edgeres.evaluate.stage import accuracy_of

RESULTS = Path(__file__).parent / "results"
_SIZES, SEEDS, _IMAGES = (4, 8, 12), (0, 1, 2), 500
_ADAPTIVE = {  # by `edgeres prune --sweep 1..12 --recover mimic,distill --images 1000`, in the order chosen
    4: "1.8 2.3 1.5 2.8",
    8: "1.8 2.3 1.5 2.8 1.2 2.1 3.4 1.0",
    12: "1.8 1.5 2.8 1.2 2.4 3.6 1.3 2.6 3.2 2.7 1.0 2.2",
}
_FEWER_AND_MORE = (50, 100, 200, 2000)
_FLAT_UNTIL = 5000


class Case(Record):
    """`method`: of `edgeres recover`, empty for none; `score`: what the modules were or are chosen by, so many."""

    score: str = "adaptive"
    drop: int
    dropped: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    images: int = 0
    seed: int = 0


class Line(Record):
    """What became of a case: points of top-1 on val against the whole, and what it took."""

    case: Case
    dropped: tuple[str, ...]
    top1: float
    change_points: float
    half_width_points: float
    n: int
    cpu_s: float
    peak_mib: float | None = None
    left_alone: int = 0


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
    source, path = Checkpoint(options.checkpoint), RESULTS / "solve.json"
    options.work.mkdir(parents=True, exist_ok=True)
    whole = accuracy_of(source, dataset_for(source.spec, options.data), out=options.work / "whole.npy")
    done = record_from_json(Lines, path) if path.is_file() else None
    done = done or Lines(whole_top1=whole.top1, data=options.data, machine=environment().machine)
    for case in [*plan(), *refined(done)]:
        if any(line.case == case for line in done.lines):
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            line = pool.apply(run, (case, source, options.data, options.work))
        done = done.model_copy(update={"lines": (*done.lines, line)})
        write_text(path, done.model_dump_json(indent=1) + "\n")
        print(line, flush=True)
    return 0


def plan() -> list[Case]:
    """The sizes with three choices of images, then more and fewer images."""
    sets = [Case(drop=size, dropped=tuple(f"layer{name}" for name in _ADAPTIVE[size].split())) for size in _SIZES]
    few, many = sets[0], sets[-1]
    solved = [case.model_copy(update={"method": ("solve",), "images": _IMAGES}) for case in sets]
    typed = [case.model_copy(update={"score": "solved", "dropped": ()}) for case in solved]
    drawn = [case.model_copy(update={"seed": seed}) for case in (*solved, *typed) for seed in SEEDS]
    norms = [case.model_copy(update={"method": ("bn",), "images": _IMAGES}) for case in sets]
    others = [(many, images) for images in _FEWER_AND_MORE] + [(few, _FLAT_UNTIL)]
    fewer = [case.model_copy(update={"method": ("solve",), "images": images}) for case, images in others]
    return [*sets, *norms, *drawn, *fewer, *_many()]


def refined(done: Lines) -> list[Case]:
    """What was chosen and solved on many images, and then trained as well."""
    chosen = {(line.case.drop, line.case.seed): line.dropped for line in done.lines if line.case in _many()}
    return [
        case.model_copy(update={"dropped": chosen[case.drop, case.seed], "method": ("solve", "mimic")})
        for case in _many()
        if (case.drop, case.seed) in chosen
    ]


def _many() -> list[Case]:
    images = _FEWER_AND_MORE[-1]
    return [
        Case(score="solved", drop=size, method=("solve",), images=images, seed=seed)
        for seed in SEEDS
        for size in _SIZES
    ]


def run(case: Case, source: Checkpoint, data: str, work: Path) -> Line:
    """One case, in this process alone."""
    import torch

    torch.set_num_threads(1)
    begun_s = time.process_time()
    cut, alone = (_recovered if case.dropped or case.score != "solved" else _pruned)(case, source, data, work)
    cpu_s, peak_mib = time.process_time() - begun_s, _peak_mib()
    accuracy = accuracy_of(cut, dataset_for(source.spec, data), out=work / "last.npy")
    change, half = paired_difference(*(_right(work / name) for name in ("whole.npy", "last.npy")))
    return Line(
        case=case,
        dropped=cut.spec.dropped,
        top1=accuracy.top1,
        change_points=100 * change,
        half_width_points=100 * half,
        n=accuracy.n,
        cpu_s=round(cpu_s, 1),
        peak_mib=round(peak_mib),
        left_alone=alone,
    )


def _recovered(case: Case, source: Checkpoint, data: str, work: Path) -> tuple[Checkpoint, int]:
    """The network without `case.dropped`, recovered, and how many modules stayed as they were."""
    from edgeres.models.weights import checkpoint_without, save_checkpoint
    from edgeres.prune.config import RecoverConfig
    from edgeres.prune.recover.stage import recovered

    cut, alone = checkpoint_without(source, case.dropped, work / "cut.safetensors"), 0
    if case.method:
        options = {"method": case.method, "images": case.images, "seed": case.seed, "threads": 1}
        done = recovered(cut, source, RecoverConfig(data=data, **options), work / "recover")
        alone = len(done.results.get("solved", {}).get("left_alone", ()))
        cut = save_checkpoint(done.weights, cut.spec, cut.path, stage="recover", parent=cut.sha256)
    return cut, alone


def _pruned(case: Case, source: Checkpoint, data: str, work: Path) -> tuple[Checkpoint, int]:
    """What `edgeres prune --recover solve` makes, and how many modules stayed as they were."""
    from edgeres.prune.config import PruneConfig
    from edgeres.prune.stage import prune

    config = PruneConfig(drop=case.drop, data=data, images=case.images, seed=case.seed, recover=case.method)
    done = prune(source, config, work / f"prune-{case.drop}-{case.seed}")
    return done.output, len(done.report.results["recovery"].get("solved", {}).get("left_alone", ()))


def table_of(done: Lines) -> list[str]:
    """Markdown."""
    lines = [
        "| dropped, chosen by | method | images (seed) | top-1 % | against the whole | CPU s | peak MiB |",
        "|" + " --- |" * 7,
    ]
    for line in sorted(done.lines, key=_order):
        case, took = line.case, bool(line.case.method)
        change = f"{line.change_points:+.2f} ± {line.half_width_points:.2f}".replace("-", "−")
        images = f"{case.images:,} ({case.seed})" if took else ""
        peak = f"{line.peak_mib:.0f}" if took and line.peak_mib else ""
        spent = f"{line.cpu_s:.0f} | {peak}" if took else " | "
        method = ", ".join(case.method) or "nothing"
        lines.append(
            f"| {case.drop}, `{case.score}` | {method} | {images} | {100 * line.top1:.2f} | {change} | {spent} |"
        )
    about = f"{done.data} val, n = {done.lines[0].n:,}, whole network {100 * done.whole_top1:.2f} %; {done.machine}."
    about += " By `solved` the seconds are those of the whole command, choosing too; with mimic of the recovery alone."
    return [*lines, "", about]


def solve_rows(done: Lines) -> list[tuple[str, dict[tuple[str, ...], list[Line]]]]:
    """(number dropped and what chose them, method -> its lines) with the usual number of images."""
    rows: dict[str, dict[tuple[str, ...], list[Line]]] = {}
    for line in sorted(done.lines, key=_order):
        if line.case.images in (0, _IMAGES):
            row = rows.setdefault(f"{line.case.drop}, by `{line.case.score}`", {})
            row.setdefault(line.case.method, []).append(line)
    return list(rows.items())


def refined_rows(done: Lines) -> dict[int, dict[tuple[str, ...], list[Line]]]:
    """Number dropped -> method -> its lines, where the same sets were solved, and refined as well."""
    rows: dict[int, dict[tuple[str, ...], list[Line]]] = {}
    cases = [*_many(), *refined(done)]
    for line in sorted((line for line in done.lines if line.case in cases), key=_order):
        rows.setdefault(line.case.drop, {}).setdefault(line.case.method, []).append(line)
    return rows


def _order(line: Line) -> tuple[int, str, str, int, int]:
    return line.case.drop, line.case.score, "".join(line.case.method), line.case.images, line.case.seed


def _peak_mib() -> float:
    """Of this process alone: what getrusage says begins with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def _right(path: Path) -> list[bool]:
    pairs = np.load(path)
    return list(pairs[:, 0] == pairs[:, 1])


if __name__ == "__main__":
    sys.exit(main())
