"""Whether a budget is a limit on a busy machine: what commands asked for took, beside two programs that never rest.

    python tools/budget_figures.py --work work [--data folder:cifar10-jpeg --checkpoint resnet56.safetensors]

Without a checkpoint ResNet-20 is trained on the digits first, without neighbours. Each line of PLAN is one command; its
share is what counts for its budget (the whole command for optimize and recover, the recovery for prune and sweep) over
what was asked. Writes tools/results/budget.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeres.core.config import Record
from edgeres.core.environment import environment
from edgeres.core.files import write_text
from edgeres.core.progress import seconds_from

RESULTS = Path(__file__).parent / "results" / "budget.json"
NEIGHBOURS = 2
PLAN = (
    ("recover", "1m", ("recover", "{pruned}", "--budget", "1m", "--images", "2000")),
    ("prune", "1m", ("prune", "{whole}", "--drop", "3", "--recover", "mimic", "--budget", "1m")),
    ("sweep", "30s", ("prune", "{whole}", "--sweep", "1..2", "--recover", "mimic", "--budget", "30s")),
    ("optimize", "3m", ("optimize", "{whole}", "--budget", "3m")),
)


class Line(Record):
    """One command: seconds asked for, and those that counted, a network each where a budget is one network's."""

    name: str
    command: str
    asked_s: float
    took_s: tuple[float, ...]

    @property
    def share(self) -> float:
        """The most that was taken of what was asked for."""
        return max(self.took_s) / self.asked_s


class Lines(Record):
    """The file."""

    machine: str
    neighbours: int
    network: str
    data: str
    lines: tuple[Line, ...] = ()


def main() -> int:
    """Returns the exit code: 1 where a budget was passed by more than a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    whole, pruned = given.checkpoint or given.work / "whole.safetensors", given.work / "pruned.safetensors"
    if not whole.is_file():
        run(given.work, "train", "resnet20", "--data", given.data, "--image-size", "24", "--epochs", "4", "-o", whole)
    if not pruned.is_file():
        run(given.work, "prune", whole, "--drop", "2", "--data", given.data, "--images", "500", "-o", pruned)
    lines: list[Line] = []
    with busy(NEIGHBOURS):
        for name, budget, words in PLAN:
            command = [word.format(whole=whole, pruned=pruned) for word in words]
            print(f"{name}: {budget}", file=sys.stderr)
            began_s = time.perf_counter()
            report = run(given.work, *command, "--data", given.data, "--json", *placed(name, given.work, pruned, whole))
            took_s = counted(name, report, time.perf_counter() - began_s)
            shown = " ".join(words).format(whole="WHOLE", pruned="PRUNED")
            lines.append(Line(name=name, command=shown, asked_s=seconds_from(budget), took_s=took_s))
            print(f"{name}: {lines[-1].share:.2f} of the budget", file=sys.stderr)
    found = Lines(
        machine=environment().machine, neighbours=NEIGHBOURS, network=whole.stem, data=given.data, lines=tuple(lines)
    )
    write_text(RESULTS, found.model_dump_json(indent=1) + "\n")
    return int(any(line.share > 1.1 for line in lines))


def table_of(found: Lines) -> list[str]:
    """Markdown."""
    rows = [
        f"| `edgeres {line.command}` | {line.asked_s:.0f} s | {max(line.took_s):.0f} s | {line.share:.2f} |"
        for line in found.lines
    ]
    conditions = f"{found.data}, beside {found.neighbours} programs that never rest; {found.machine}."
    return ["| command | asked | took at most | share |", "|" + " --- |" * 4, *rows, "", conditions]


def run(work: Path, *words: object) -> dict:  # type: ignore[type-arg]  # a report
    """`edgeres ...` in `work`; its report where it prints one. Raises CalledProcessError."""
    command = [sys.executable, "-m", "edgeres", *map(str, words)]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=False, env=environ())
    text = done.stdout.strip()
    if not (done.returncode == 1 and text.startswith("{")):  # a goal that is missed, with its report
        done.check_returncode()
    return dict(json.loads(text)) if text.startswith("{") else {}


def environ() -> dict[str, str]:
    """One thread: two neighbours on two cores leave no second one."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def placed(name: str, work: Path, pruned: Path, whole: Path) -> list[object]:
    """Where the result goes."""
    teacher: list[object] = ["--teacher", whole] if name == "recover" else []
    out = work / f"{name}.{'json' if name == 'sweep' else 'safetensors'}"
    return ["--run", f"{name}-{time.time_ns()}"] if name == "optimize" else [*teacher, "-o", out]


def counted(name: str, report: dict, wall_s: float) -> tuple[float, ...]:  # type: ignore[type-arg]
    """The seconds a budget is about."""
    if name == "prune":
        return (float(report["results"]["recovery"]["duration_s"]),)
    if name == "sweep":
        return tuple(float(row["recovery_s"]) for row in report["results"]["rows"] if row["count"])
    return (wall_s,)


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """So many programs that compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


if __name__ == "__main__":
    raise SystemExit(main())
