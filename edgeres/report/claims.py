"""The run in one sentence: smaller, faster, at what cost; only what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from edgeres.core.amounts import counted
from edgeres.core.lineage import advised, line_of
from edgeres.core.names import canonical_data_name
from edgeres.core.records.frontier import Frontier, Result, goals_of
from edgeres.core.runs import Run
from edgeres.report.figures import LatencyFigure
from edgeres.report.folder import LOST, OF_REPORT, FileLine
from edgeres.report.networks import (
    ENGINE_STAGE,
    answer_of,
    answers_in,
    board_in,
    engines_and_files_of,
    has_file,
    others_in,
)
from edgeres.report.summary import Claim, Row
from edgeres.report.wording import (
    closeness_lines,
    count,
    doubt_on,
    interval_lines,
    is_same,
    lost,
    milliseconds,
    percent,
    points,
    runtime_name,
    signed,
    size,
    speed,
    times,
)

_NO_CHANGE = "change of speed that can be told"


def claims_from(rows: Sequence[Row], *, run: Run) -> tuple[Claim, ...]:
    """Size, speed, accuracy and compute of one network against the first: the newest whose accuracy is known.

    Where none is known it is the newest. Speed is the one figure that may be of a network on its way there, or of an
    engine built from it, which its claim says.
    """
    end = _end(rows)
    if end is None:
        return ()
    first = _first(rows, end)
    faster = _speed_claim(rows, end, run)
    found = (_size_claim(first, end), faster, _points_claim(rows, end), _compute_claim(first, end))
    return tuple(claim for claim in found if claim)


def headline_from(claims: Sequence[Claim], rows: Sequence[Row], *, run: Run, files: Sequence[FileLine] = ()) -> str:
    """One sentence, one for each of `files` it names that is lost, and one if the newest network is not evaluated."""
    if not rows:
        return "No model yet."
    end, newest = _end(rows), _newest(rows)
    if not claims and (len(rows) == 1 or end is newest):
        return f"One model so far: {rows[0].what or rows[0].name}."
    said = ", ".join(f"{claim.figure} {claim.what}" for claim in claims) or "no change that can be told"
    of = f" ({end.name} against {_first(rows, end).name})" if end else ""
    gone = (one for one in files if one.state in LOST and one.path.partition("/")[0] in said + of)
    told = "".join(f" {one.path}: {LOST[one.state]}, {OF_REPORT}." for one in gone)
    if newest is None or newest.is_judged or len(rows) == 1:
        return f"{said}{of}.{told}{_not_compared(_first(rows, end), end) if end else ''}"
    if not claims and end is rows[0]:
        said, of = f"{end.name} alone is evaluated here", ""
    return f"{said}{of}.{told} {newest.name}: accuracy not evaluated: {advised('edgeres eval', run)}"


def claims_of(found: Frontier) -> tuple[Claim, ...]:
    """One for each network that is handed over, the fastest last, by all its names."""
    named = {one.tried: one for one in reversed(found.results)}
    return tuple(_answer_claim(named[one], found) for one in found.named)


def headline_of(found: Frontier) -> str:
    """What `balanced` gains and costs, or the last of those handed over, and which goals were kept."""
    said = "no network that was tried is worth handing over"
    if found.results:
        one = next((one for one in found.results if one.name == "balanced"), found.results[-1])
        claim = _answer_claim(one, found)
        said = f"{claim.figure} {claim.what}{_on_val(one, found)}"
    return "; ".join((said, *(goal.verdict for goal in goals_of(found)))) + "."


def _answer_claim(one: Result, found: Frontier) -> Claim:
    faster = one.tried.ratio.inverse()
    detail = f"{found.named[one.tried]}{_on_val(one, found)}; {milliseconds(one.tried.latency_ms.value)} ms a call"
    how = f" on {found.board}" if found.board else ""
    how += found.doubt
    if faster.low <= 1 <= faster.high:
        return Claim(figure="no", what=f"{_NO_CHANGE}{how} ({one.tried.name})", detail=detail)
    what = f"{'faster' if faster.low > 1 else 'slower'}{how} ({faster.bounds(say=times)}; {one.tried.name})"
    return Claim(figure=_times(faster.value), what=what, detail=detail)


def _on_val(one: Result, found: Frontier) -> str:
    on_val = one.val_lost_points
    if on_val is None:
        return ""
    half = on_val.plus_minus().partition(" ")[2]
    return f", {lost(on_val.value, 2)}{half and f' {half}'} {found.lost_are} lost ({one.val_images}{found.judged_here})"


def _newest(rows: Sequence[Row]) -> Row | None:
    """The last network that can be evaluated anywhere, one beside the first if there is one; an engine cannot."""
    return next(reversed(answers_in(rows) or [row for row in rows if row.stage != ENGINE_STAGE]), None)


def _end(rows: Sequence[Row]) -> Row | None:
    return answer_of(rows) or _newest(rows)


def _first(rows: Sequence[Row], end: Row) -> Row:
    """What `end` is held against: the file of the first network that its size is, an engine's accuracy or time."""
    own = end.versus_first
    named = next((one.versus for one in (own.size_ratio, own.points, own.latency_ratio) if one), "")
    return next((row for row in rows if row.name == named), rows[0])


def _line_of(rows: Sequence[Row], end: Row) -> list[Row]:
    """What `end` was made from, with engines, then what it is timed as; the first row is every line's root."""
    line = {rows[0].sha256, *line_of(end.parent, {row.sha256: row.parent for row in rows})}
    before = [
        row for row in rows[: rows.index(end)] if (row.parent if row.stage == ENGINE_STAGE else row.sha256) in line
    ]
    return [*before, *reversed(engines_and_files_of(end, rows))]


def _size_claim(first: Row, end: Row) -> Claim | None:
    """None for an engine: it holds kernels for each GPU beside the weights, its size compares with no other file."""
    if ENGINE_STAGE in {first.stage, end.stage} or end is first or not end.size_bytes:
        return None
    ratio = first.size_bytes / end.size_bytes
    if is_same(ratio):
        return None
    detail = f"{size(first.size_bytes)} to {size(end.size_bytes)}, {first.name} to {end.name}"
    what = ("smaller" if ratio > 1 else "larger") + _as_precision(end)
    return Claim(figure=_times(ratio), what=what, detail=detail)


def _speed_claim(rows: Sequence[Row], end: Row, run: Run) -> Claim | None:
    """Of the last row of the line that an earlier one on its runtime can be compared with; on a board, of the last."""
    timed = [(row, row.latency, row.versus_first.latency_ratio) for row in _line_of(rows, end) if row.latency]
    files = engines_and_files_of(end, rows)
    own = [one for one in timed if one[0] in files]
    if timed and board_in(timed[-1][1].runtime) and not any(one[2] for one in own or timed[-1:]):
        first = _first(rows, end)
        lacking = "" if has_file(first, rows) else f"{advised('edgeres export', run.path / first.path)} and "
        return _time_claim(*timed[-1][:2], end, f"{lacking}{advised('edgeres bench', run)}")
    others = [*others_in(rows), end]  # the first network in another file is no gain
    compared = [one for one in timed if one[2] and (one[0] in others or one[0].stage == ENGINE_STAGE)]
    if not compared:
        return None
    last, latency, change = compared[-1]
    assert change is not None
    detail = f"{' '.join(speed(change))}, {change.versus} to {last.name}; {latency.conditions}"
    is_told = change.low is None or change.high is None or not change.low <= 1 <= change.high
    compared_by = ("faster" if change.value < 1 else "slower", "than") if is_told else (_NO_CHANGE, "against")
    against = "" if change.versus == _first(rows, end).name else f" {compared_by[1]} {change.versus}"
    what = compared_by[0] + _on_board(latency.runtime) + against
    if doubt := doubt_on(latency):
        detail = f"{latency.verdict or latency.note}; {detail}"
        what += f" in an {doubt}" if latency.verdict else f", {doubt}"
    whose = "" if last is end else f" ({last.name}: {last.precision}, {runtime_name(latency.runtime)})"
    return Claim(figure=_times(1 / change.value) if is_told else "no", what=what + whose, detail=detail)


def _not_compared(first: Row, end: Row) -> str:
    """A sentence where one accuracy is not known, or both are, of different images."""
    if first is end or end.accuracy is None or end.versus_first.points is not None:
        return ""
    if first.accuracy is None:
        return f" What it lost is not known: {first.name} is not evaluated."
    judged_on = [(canonical_data_name(one.dataset), one.split, one.n) for one in (first.accuracy, end.accuracy)]
    if judged_on[0] == judged_on[1]:
        same = f"their classes stand in another order, or the images of {end.accuracy.dataset} changed between"
        return f" Their accuracies are not compared, their labels differ: {same}."
    said = [f"{row.name} on {one.n:,} of {one.dataset} {one.split}" for row in (first, end) if (one := row.accuracy)]
    return f" Their accuracies are not compared, they are of different images: {', '.join(said)}."


def _time_claim(row: Row, latency: LatencyFigure, end: Row, how: str) -> Claim:
    """What a call takes on a board that has timed nothing else of the run together with it; `how` it does."""
    board, p50 = board_in(latency.runtime), latency.p50_ms
    return Claim(
        figure=f"{milliseconds(p50.value)} ms",
        what=f"a call on {board}" + (_as_precision(row) if row is end else f" ({row.name}: {row.precision})"),
        detail=f"{row.name}, {' '.join(interval_lines('p50', p50))}, n = {latency.samples:,}; no speed-up is told:"
        f" nothing it can be held against was timed in its session: {how} --on {board}",
    )


def _on_board(runtime: str) -> str:
    board = board_in(runtime)
    return f" on {board}" if board else ""


def _times(ratio: float) -> str:
    return f"{times(max(ratio, 1 / ratio))}×"


def _as_precision(row: Row) -> str:
    return f" ({row.precision})" if row.precision not in {None, "fp32"} else ""


def _points_claim(rows: Sequence[Row], end: Row) -> Claim | None:
    """The change of top-1; of what a board judged it names what it is against where that was judged elsewhere."""
    change, accuracy = end.versus_first.points, end.accuracy
    if end.closeness is not None and not end.closeness.is_of_itself:
        figure, *worst = closeness_lines(end.closeness)
        return Claim(
            figure=figure,
            what=f"to the network it comes from ({', '.join(worst)})",
            detail=f"{end.name} on {end.closeness.dataset} {end.closeness.split}",
        )
    if change is None or accuracy is None:
        return None
    before = percent(accuracy.top1.value - change.value / 100)
    interval = "".join(f" {line}" for line in points(change)[1:])
    whose = _on_board(accuracy.runtime) + _as_precision(end)
    apart = f" {change.apart}" if change.apart else ""
    against = f" against {change.versus}{apart}" if apart or change.versus != _first(rows, end).name else ""
    return Claim(
        figure=signed(change.value),
        what=f"points of top-1{whose}{against}{interval} (n = {accuracy.n:,})",
        detail=f"{before} % to {percent(accuracy.top1.value)} % on {accuracy.dataset} {accuracy.split},"
        f" {change.versus} to {end.name}",
    )


def _compute_claim(first: Row, end: Row) -> Claim | None:
    if not (first.macs and end.macs) or is_same(end.macs / first.macs):
        return None
    dropped = len(set(end.dropped) - set(first.dropped))
    return Claim(
        figure=f"{signed(100 * (end.macs / first.macs - 1), 0)} %",
        what="multiply-accumulates",
        detail=f"{count(first.macs)} to {count(end.macs)} an image, {counted(dropped, 'module')} dropped",
    )
