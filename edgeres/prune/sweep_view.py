"""The sweep as text, CSV and picture."""

from __future__ import annotations

import csv
import io
from typing import Any

from edgeres.core.figures import MUTED
from edgeres.prune.sweep_record import Sweep, SweepRow


def lines_of(result: Sweep) -> list[str]:
    """The table for the terminal, a line a row."""
    lines = ["drop   top-1 %   change, points    latency p50    of whole   modules of this size"]
    for row in result.rows:
        final, latency, ratio = row.final, row.latency_ms, row.ratio
        change = f"{final.change_points:+6.2f} ± {final.half_width_points:.2f}" if row.count else ""
        time = f"{latency.value:8.3f} ms" if latency else "not timed"
        share = f"{ratio.value:.3f}" if ratio else ""
        names = ", ".join(row.dropped)
        lines.append(
            f"{row.count:4}   {100 * final.accuracy.top1:7.2f}   {change:15} {time:>13}   {share:>8}   {names}"
        )
    how = f"recovered by {', '.join(result.recover)}" if result.recover else "without recovery"
    n = result.rows[0].bare.accuracy.n
    lines.append(f"{how}; n = {n:,} of val; {result.runtime}, batch {result.batch}, {result.threads} threads")
    return lines


def draw(axes: Any, result: Sweep) -> None:
    """Top-1 against latency relative to the whole network, 95 % whiskers, the number of modules at each point."""
    series = {"without recovery": [row.bare for row in result.rows]}
    if result.recover:
        series[f"after {', '.join(result.recover)}"] = [row.final for row in result.rows]
    x = [row.ratio.value if row.ratio else 1.0 for row in result.rows]
    xerr = [
        [abs(v - (getattr(r.ratio, end) if r.ratio else v)) for r, v in zip(result.rows, x, strict=True)]
        for end in ("low", "high")
    ]
    for name, judged in series.items():
        y = [100 * one.accuracy.top1 for one in judged]
        ends = [one.accuracy.interval for one in judged]
        yerr = [
            [v - 100 * low for v, (low, _) in zip(y, ends, strict=True)],
            [100 * high - v for v, (_, high) in zip(y, ends, strict=True)],
        ]
        axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="o-", markersize=4, linewidth=1, elinewidth=0.8, label=name)
    for row, place in zip(result.rows, x, strict=True):
        axes.annotate(
            str(row.count),
            (place, 100 * row.final.accuracy.top1),
            xytext=(3, 6),
            textcoords="offset points",
            color=MUTED,
        )
    n = result.rows[0].bare.accuracy.n
    axes.set_xlabel(f"median latency over the whole network's ({result.runtime}, batch {result.batch})")
    axes.set_ylabel(f"top-1 on val, % (n = {n:,})")
    axes.legend(loc="lower right")


def csv_of(result: Sweep) -> str:
    """A line a row, plain numbers with their units in the column names."""
    text = io.StringIO()
    records = [_flat(row) for row in result.rows]
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _flat(row: SweepRow) -> dict[str, Any]:
    assert row.latency_ms is not None
    assert row.ratio is not None
    return {
        "count": row.count,
        "dropped": " ".join(row.dropped),
        "top1": row.final.accuracy.top1,
        "change_points": row.final.change_points,
        "half_width_points": row.final.half_width_points,
        "top1_without_recovery": row.bare.accuracy.top1,
        "p50_ms": row.latency_ms.value,
        "latency_ratio": row.ratio.value,
        "params": row.params,
        "macs": row.macs,
        "n": row.final.accuracy.n,
    }
