"""Keeps the tables of README.md, tools/README.md and the help pages equal to measured runs.

    python tools/readme_tables.py                          rewrites the tables from tools/results/*.json
    python tools/readme_tables.py --check                  exits with 1 if a page says something else
    python tools/readme_tables.py --keep runs/demo demo    stores a run's figures as tools/results/demo.json first
    python tools/readme_tables.py --keep-study FILE NAME   stores what a study found in tools/results/studies.json first

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import pruning_tables
import quotes

from edgeres.core.config import record_from_json
from edgeres.core.files import write_text
from edgeres.core.metrics import threads_text
from edgeres.report.summary import Row, RunSummary
from edgeres.report.wording import count, milliseconds, percent, points, size, speed

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "tools" / "README.md", *sorted((ROOT / "edgeres" / "help").glob("*.md")))
RESULTS = ROOT / "tools" / "results"
_BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = (
    "stage",
    "top-1 %",
    "against the first row",
    "parameters",
    "MACs",
    "file",
    "p50 ms",
    "against the first of its runtime",
)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--keep", nargs=2, metavar=("RUN", "NAME"))
    parser.add_argument("--keep-study", nargs=2, metavar=("FILE", "NAME"))
    options = parser.parse_args()
    if options.keep:
        keep(Path(options.keep[0]), options.keep[1])
    if options.keep_study:
        pruning_tables.keep_study(Path(options.keep_study[0]), options.keep_study[1])
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    stale = {page: new for page, text in old.items() if (new := with_tables(text)) != text}
    for page, new in stale.items():
        if options.check:
            print(f"{page} does not show tools/results: run python tools/readme_tables.py", file=sys.stderr)
        else:
            write_text(page, new)
    return int(options.check and bool(stale))


def with_tables(text: str) -> str:
    """`text` with every marked table made anew."""
    return _BLOCK.sub(lambda match: match[1] + table_of(match[2]) + match[3], text)


def keep(run: Path, name: str) -> None:
    """Stores the rows of `run` without the details of its stages."""
    summary = record_from_json(RunSummary, run / "report.json")
    slim = summary.model_copy(update={"stages": (), "recipe": None, "modules": (), "lesion": ()})
    write_text(RESULTS / f"{name}.json", slim.model_dump_json(indent=1) + "\n")


def table_of(name: str) -> str:
    """Markdown of tools/results/NAME.json, with the conditions of the figures below."""
    if (known := {**pruning_tables.TABLES, **quotes.QUOTES}.get(name)) is not None:
        return "\n".join(known()) + "\n"
    summary = record_from_json(RunSummary, RESULTS / f"{name}.json")
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    lines += ["| " + " | ".join(cells_of(row)) + " |" for row in summary.rows]
    return "\n".join([*lines, "", conditions_of(summary)]) + "\n"


def cells_of(row: Row) -> list[str]:
    """One row's text."""
    accuracy, latency, changes = row.accuracy, row.latency, row.versus_first
    dropped = f", {len(row.dropped)} dropped" if row.stage == "prune" else ""
    return [
        f"{row.stage}{dropped} ({row.precision})",
        f"{percent(accuracy.top1.value)} [{percent(accuracy.top1.low)}, {percent(accuracy.top1.high)}]"
        if accuracy
        else "not run here",
        " ".join(points(changes.points)) if changes.points else "",
        count(row.params),
        count(row.macs),
        size(row.size_bytes),
        milliseconds(latency.p50_ms.value) if latency else row.latency_missing,
        " ".join(speed(changes.latency_ratio)) if changes.latency_ratio else "",
    ]


def conditions_of(summary: RunSummary) -> str:
    """What the figures belong to."""
    judged = {f"{one.dataset} {one.split}, n = {one.n:,}" for row in summary.rows if (one := row.accuracy)}
    timed = {
        f"{figure.runtime}, batch {figure.batch}, {threads_text(figure.threads)}, {figure.machine}"
        for row in summary.rows
        if (figure := row.latency)
    }
    return (
        f"Brackets are 95 % intervals. Accuracy: {'; '.join(sorted(judged))}. Latency, interleaved in one session: "
        f"{'; '.join(sorted(timed))}. Speeds are compared within one runtime only."
    )


if __name__ == "__main__":
    sys.exit(main())
