"""Whose measurements a run is judged by: where a board has measured its networks, they are taken as the board saw them.

A figure of a board says so in its runtime: `tensorrt 10.3.0 on desk`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from edgeres.report.folder import BOARD_STAGE, FinishedStage, RunFolder
from edgeres.report.networks import Network

FOR_TENSORRT = "placed for TensorRT"  # stands in the reason why this machine did not time a file


@dataclass(frozen=True)
class Seen:
    """What one stage `board` measured of one file, and why its latency does not count if it does not."""

    board: str
    sha256: str
    network: Network
    doubt: str


def boards_of(folder: RunFolder, sha256s: Collection[str]) -> list[str]:
    """The boards that measured one of these files; the last is who did so last."""
    named = [one.board for one in _seen_in(folder) if one.sha256 in sha256s]
    return list(dict.fromkeys(reversed(named)))[::-1]


def networks_on(board: str, networks: Sequence[Network], folder: RunFolder) -> list[Network]:
    """The networks with the newest that the board measured of them.

    Once it has timed one, none has a latency of another machine. What it has not judged keeps its accuracy of here.
    """
    seen = [one for one in _seen_in(folder) if one.board == board]
    judged = {one.sha256: one for one in seen if one.network.accuracy}
    timed = {one.sha256: one for one in seen if one.network.latency}
    timed |= {one.sha256: one for one in seen if one.network.latency and not one.doubt}
    found = [_timed(one, timed.get(one.sha256), board) if timed else one for one in networks]
    return [_judged(one, judged[one.sha256]) if one.sha256 in judged else one for one in found]


def measured_in(stage: FinishedStage) -> Network:
    """The measurements of a stage `board`, by its own name."""
    report = stage.report
    accuracy, latency = next(iter(stage.accuracy), None), next(iter(report.latency), None)
    return Network(stage.name, stage.path, report.source.size_bytes if report.source else 0, accuracy, latency)


def board_in(runtime: str) -> str:
    """`desk` of `tensorrt 10.3.0 on desk`; empty for this machine's."""
    return runtime.partition(" on ")[2]


def _seen_in(folder: RunFolder) -> Iterator[Seen]:
    for stage in (one for one in folder.stages if one.report.stage == BOARD_STAGE):
        board, figures = (stage.report.results.get(name) for name in ("board", "figures"))
        if not isinstance(board, dict) or not isinstance(figures, dict) or stage.report.source is None:
            continue
        is_valid, problems = figures.get("is_valid"), figures.get("problems")
        why = "; ".join(map(str, problems)) if isinstance(problems, list) and problems else "it does not say why"
        doubt = why if is_valid is False else ""
        yield Seen(str(board.get("name") or ""), stage.report.source.sha256, measured_in(stage), doubt)


def _timed(network: Network, seen: Seen | None, board: str) -> Network:
    if seen is None or seen.network.latency is None:
        return replace(network, latency=None, not_timed=f"not timed on {board}")
    if seen.doubt:
        return replace(network, latency=None, not_timed=f"timed on {board}, but not validly: {seen.doubt}")
    latency = seen.network.latency
    return replace(
        network, latency=latency.model_copy(update={"runtime": f"{latency.runtime} on {board}"}), not_timed=""
    )


def _judged(network: Network, seen: Seen) -> Network:
    accuracy = seen.network.accuracy
    assert accuracy is not None
    accuracy = accuracy.model_copy(update={"runtime": f"{accuracy.runtime} on {seen.board}"})
    return replace(network, folder=seen.network.folder, accuracy=accuracy)
