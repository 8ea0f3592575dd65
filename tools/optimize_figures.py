"""What `edgeres optimize` hands over of a network and a budget, beside INT8 alone and fewer modules alone.

    python tools/optimize_figures.py --work work [--without-vnni] NAME NETWORK --data folder:photos --latency 0.5x ...

NAME stands in the table; what follows is as for `edgeres optimize`. `--without-vnni` hides VNNI and AMX from ONNX
Runtime (see without_vnni.py), so that INT8 is as on such a CPU. What is handed over is judged once more, on all of val.
Adds to tools/results/optimize.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from pruning_tables import with_minus
from without_vnni import HIDDEN, environment_without_vnni, is_hidden

import edgeres.quantize.cpu
from edgeres.cli.main import cli
from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import Record, record_from_json
from edgeres.core.environment import cpu_flags
from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval, paired_difference, threads_text
from edgeres.core.records.frontier import Frontier, Tried, on_front
from edgeres.core.runs import latest_run
from edgeres.data import dataset_for
from edgeres.evaluate.stage import accuracy_of

RESULTS = Path(__file__).parent / "results" / "optimize.json"
_AGAIN = ", seed "  # in the name of a line: the same once more, of which only what is handed over is shown
_HEAD = ("network, goal", "tried", "handed over as", "of float latency", "lost on train", "lost on val")


class Line(Record):
    """One command and what it found."""

    name: str
    words: tuple[str, ...]
    without_vnni: bool
    frontier: Frontier


class Lines(Record):
    """The file."""

    lines: tuple[Line, ...] = ()


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--without-vnni", action="store_true")
    parser.add_argument("name")
    options, words = parser.parse_known_args()
    if options.without_vnni and not is_hidden():
        os.execve(sys.executable, [sys.executable, *sys.argv], environment_without_vnni(options.work))
    if is_hidden():
        vars(edgeres.quantize.cpu)["cpu_flags"] = lambda: cpu_flags() - HIDDEN
    with suppress(StageError):  # a goal that is missed
        cli(["optimize", *words], standalone_mode=False)
    found = max(latest_run().path.glob("*-optimize/frontier.json"))  # the newest of the run
    keep(found, options.name, words, without_vnni=is_hidden())
    return 0


def keep(found: Path, name: str, words: list[str], *, without_vnni: bool) -> None:
    """Stores what was found as `name`."""
    before = record_from_json(Lines, RESULTS).lines if RESULTS.is_file() else ()
    data = words[words.index("--data") + 1]
    frontier = on_all_val(record_from_json(Frontier, found), data).model_copy(update={"dataset": data})
    line = Line(name=name, words=tuple(words), without_vnni=without_vnni, frontier=frontier)
    rest = [one for one in before if one.name != name]
    write_text(RESULTS, Lines(lines=(*rest, line)).model_dump_json(indent=1) + "\n")


def on_all_val(found: Frontier, data: str) -> Frontier:
    """With what the results lose on all val images."""

    def right(path: Path) -> list[bool]:
        model, guesses = OnnxModel(path), path.parent / "all.npy"
        accuracy_of(model, dataset_for(model.spec, data), split="val", out=guesses)
        first, label = np.load(guesses, allow_pickle=False).T
        guesses.unlink()
        return [bool(one) for one in first == label]

    results, known = [], dict[Tried, tuple[Interval, int]]()
    for one in found.results:
        if one.tried not in known:
            whole, last = (right(Path(one.folder) / name) for name in ("01-export/model.onnx", one.file))
            change, half = paired_difference(whole, last)
            known[one.tried] = Interval.around(0.0 - 100 * change, 100 * half), len(last)
        lost, n = known[one.tried]
        results.append(one.model_copy(update={"val_lost_points": lost, "val_n": n}))
    return found.model_copy(update={"results": tuple(results)})


def table_of(lines: Lines) -> list[str]:
    """Markdown, a row for each network that counts, the conditions below."""
    rows = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    rows += ["| " + " | ".join(cells) + " |" for line in lines.lines for cells in _rows(line)]
    return [*rows, "", *(f"{line.name}: {_about(line)}" for line in lines.lines)]


def _rows(line: Line) -> Iterator[tuple[str, ...]]:
    found = line.frontier
    on_val = {result.tried: result for result in found.results}
    shown = list(on_val) if _AGAIN in line.name else _that_count(found)
    for one in sorted(shown, key=lambda one: -one.ratio.value):
        val = on_val[one].val_lost_points if one in on_val else None
        yield (
            f"{line.name}, {found.latency or 'the knee'}",
            one.name,
            found.named.get(one, ""),
            one.ratio.text(".3f"),
            with_minus(one.lost_points.plus_minus()) if one is not found.tried[0] else "",
            with_minus(val.plus_minus()) if val else "",
        )


def _that_count(found: Frontier) -> list[Tried]:
    """The front, the whole in INT8, and shortened float networks."""
    whole = [one for one in found.tried if not one.dropped]
    return [*{*whole, *on_front(found.tried), *(one for one in found.tried if one.precision == "fp32")}]


def _about(line: Line) -> str:
    found = line.frontier
    on_val = ", ".join(sorted({f"n = {one.val_n:,}" for one in found.results})) or "none"
    spent = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in found.spent_s.items())
    hidden = ", VNNI and AMX hidden from ONNX Runtime" if line.without_vnni else ""
    return (
        f"`edgeres optimize {' '.join(line.words)}`; points of top-1, paired, ± 95 %, on train n = {found.n:,}, on val"
        f" {on_val}; {found.runtime}, batch {found.batch}, {threads_text(found.threads)}, {found.machine}{hidden}."
        f" Time: {spent}.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
