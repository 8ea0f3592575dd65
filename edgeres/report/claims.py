"""The run in one sentence: smaller, faster, at what cost; only what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from edgeres.report.summary import Change, Claim, Row
from edgeres.report.wording import count, is_same, percent, points, runtime_name, signed, size, speed

_ENGINE_STAGE = "compile"  # a plan holds kernels for each GPU beside the weights: its size compares with no other file


def claims_from(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Size, speed, accuracy and compute of the last model they are known of, against the first."""
    found = (_size_claim(rows), _speed_claim(rows), _points_claim(rows), _compute_claim(rows))
    return tuple(claim for claim in found if claim)


def headline_from(claims: Sequence[Claim], rows: Sequence[Row]) -> str:
    """One sentence."""
    if not rows:
        return "No model yet."
    if not claims:
        return f"One model so far: {rows[0].what or rows[0].name}."
    return ", ".join(f"{claim.figure} {claim.what}" for claim in claims) + "."


def _size_claim(rows: Sequence[Row]) -> Claim | None:
    files = [row for row in rows if row.stage != _ENGINE_STAGE]
    if len(files) < 2 or not files[-1].size_bytes:
        return None
    first, last = files[0], files[-1]
    ratio = first.size_bytes / last.size_bytes
    if is_same(ratio):
        return None
    detail = f"{size(first.size_bytes)} to {size(last.size_bytes)}, {first.name} to {last.name}"
    what = ("smaller" if ratio > 1 else "larger") + _as_precision(last)
    return Claim(figure=_times(ratio), what=what, detail=detail)


def _speed_claim(rows: Sequence[Row]) -> Claim | None:
    """Of the last row that an earlier one on its runtime can be compared with."""
    compared = [row for row in rows if row.versus_first.latency_ratio]
    if not compared:
        return None
    change = compared[-1].versus_first.latency_ratio
    assert change is not None
    detail = _conditions(compared[-1], change)
    if change.low is not None and change.high is not None and change.low <= 1 <= change.high:
        return Claim(figure="no", what="change of speed that can be told", detail=detail)
    factor = 1 / change.value
    what = "faster" if factor > 1 else "slower"
    whose = "" if compared[-1] is rows[-1] else f" ({compared[-1].precision}, {_runtime(compared[-1])})"
    return Claim(figure=_times(factor), what=what + whose, detail=detail)


def _times(ratio: float) -> str:
    factor = max(ratio, 1 / ratio)
    return f"{factor:.2f}×" if factor < 2 else f"{factor:.1f}×"


def _as_precision(row: Row) -> str:
    return f" ({row.precision})" if row.precision not in {None, "fp32"} else ""


def _runtime(row: Row) -> str:
    return runtime_name(row.latency.runtime) if row.latency else ""


def _conditions(row: Row, change: Change) -> str:
    assert row.latency is not None
    latency = row.latency
    threads = f"{latency.threads} thread{'' if latency.threads == 1 else 's'}"
    return (
        f"{' '.join(speed(change))}, {change.versus} to {row.name};"
        f" {latency.runtime}, batch {latency.batch}, {threads}, {latency.machine}"
    )


def _points_claim(rows: Sequence[Row]) -> Claim | None:
    judged = [row for row in rows if row.accuracy and row.versus_first.points]
    if not judged:
        return None
    last = judged[-1]
    change, accuracy = last.versus_first.points, last.accuracy
    assert change is not None
    assert accuracy is not None
    before = percent(accuracy.top1.value - change.value / 100)
    interval = "".join(f" {line}" for line in points(change)[1:])
    return Claim(
        figure=signed(change.value),
        what=f"points of top-1{_as_precision(last)}{interval} (n = {accuracy.n:,})",
        detail=f"{before} % to {percent(accuracy.top1.value)} % on {accuracy.dataset} {accuracy.split},"
        f" {change.versus} to {last.name}",
    )


def _compute_claim(rows: Sequence[Row]) -> Claim | None:
    if not rows or not rows[0].macs or is_same(rows[-1].macs / rows[0].macs):
        return None
    first, last = rows[0], rows[-1]
    dropped = len(set(last.dropped) - set(first.dropped))
    return Claim(
        figure=f"{signed(100 * (last.macs / first.macs - 1), 0)} %",
        what="multiply-accumulates",
        detail=f"{count(first.macs)} to {count(last.macs)} an image, {dropped} modules dropped",
    )
