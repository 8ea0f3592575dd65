"""What boards measured: the stage `board`, one row for each model file and board.

A board's latency is never held against this machine's; two rows are compared only if one session of one board timed
both. Where a board has measured the networks of a run, the run is judged as the board saw them, which a figure says in
its runtime: `tensorrt 10.3.0 on desk`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from edgeres.bench.tasks import label_of
from edgeres.core.metrics import Accuracy, Closeness, Energy, Interval, Latency
from edgeres.core.stage import StageReport
from edgeres.report.figures import AccuracyFigure, Change, LatencyFigure, accuracy_figure, latency_figure
from edgeres.report.folder import BOARD_STAGE, Figure, FinishedStage, RunFolder, run_folder_from, that_count
from edgeres.report.networks import (
    StageNetwork,
    answer_of,
    by_wholeness,
    engines_and_files_of,
    latency_between,
    networks_in,
    newest_timed,
    points_between,
)

UNKNOWN_VALIDITY = "the GPU's clock was not seen under load"
UNSURE = "validity unknown"
_M = TypeVar("_M", Accuracy, Closeness, Latency)
_UNSAID = "heat said neither by tegrastats nor by the kernel"


class EnergyFigure(Figure):
    """Energy of one image above the board at rest; without `is_input` or with `is_partial` less than at the wall."""

    mj_per_image: Interval
    load_w: float
    idle_w: float
    samples: int
    source: str
    is_input: bool
    is_partial: bool


class BoardFacts(Figure):
    """The board as it was; empty where it did not say."""

    name: str = ""
    host: str = ""
    model: str = ""
    jetpack: str = ""
    l4t: str = ""
    tensorrt: str = ""
    cuda: str = ""
    gpu: str = ""
    power_mode: str = ""
    clocks_locked: bool | None = None


class BoardFigure(Figure):
    """One model file on one board. `model` is the stage that made the file, or its name where that is elsewhere.

    `is_valid` is None where nothing was timed, or the GPU's clock was not seen under load. With `equal_bits` the logits
    are ONNX Runtime's, bit for bit, and there is no `sqnr_db`; `reference_top1` is its fraction. `measured` (ISO 8601)
    is one of `measurements` of this file on this board. `speed` is against the model it names.
    """

    stage: str
    board: BoardFacts
    model: str
    precision: str
    is_valid: bool | None
    problems: tuple[str, ...]
    latency: LatencyFigure | None = None
    images_per_s: float | None = None
    accuracy: AccuracyFigure | None = None
    points: Change | None = None
    same_top1: float | None = None
    sqnr_db: float | None = None
    energy: EnergyFigure | None = None
    speed: Change | None = None
    heat: str = ""
    engine_bytes: int | None = None
    build_s: float | None = None
    layers: str = ""
    command: str = ""
    equal_bits: bool | None = None
    reference_top1: float | None = None
    measured: str = ""
    measurements: int = 1
    is_newest: bool = True
    closeness: Closeness | None = None


def boards_in(folder: RunFolder) -> tuple[tuple[BoardFigure, ...], tuple[str, ...]]:
    """In order of the stages, and what could not be read; of two stages that made one file that taken is its name."""
    stages, makers = _stages_in(folder), {one.path: one for one in networks_in(folder)}
    sources = [makers.get(folder.name_of(one.report.source) or "") if one.report.source else None for one in stages]
    measured = ((one.report, measured_in(one), maker) for one, maker in zip(stages, sources, strict=True))
    pairs = list(zip(stages, _figures(measured), strict=True))
    unread = [stage.name for stage, one in pairs if one is None]
    problems = [f"{name}: what the board measured cannot be read; measure again on the board" for name in unread]
    problems += [
        f"{name} stands for {' and '.join(places)}: if these are two machines, measure each by a name of its own"
        for name, places in machines_in(folder).items()
        if len(places) > 1
    ]
    return _counted([(stage.report, one) for stage, one in pairs if one]), tuple(problems)


def machines_in(folder: RunFolder) -> dict[str, list[str]]:
    """What a board's name stood for when it measured, in order: `Jetson Orin Nano at 10.0.0.5`; one may be meant."""
    found: dict[str, dict[str, None]] = {}
    for board in (one.figure.board for one in _seen_in(folder)):
        place = " at ".join(filter(None, (board.model or board.gpu, board.host)))
        found.setdefault(board.name, {})[place] = None
    return {name: list(places) for name, places in found.items()}


def boards_from(reports: Iterable[StageReport]) -> list[BoardFigure]:
    """The same of the reports of one call, whose files need not be of a run: the measurements by their file's name."""
    return list(filter(None, _figures((one, _measured(one, file_name(one), Path()), None) for one in reports)))


def file_name(report: StageReport) -> str:
    """Of what the report is on, `03-export/model.onnx`."""
    return label_of(Path(report.source.path if report.source else "unknown file"))


def _stages_in(folder: RunFolder) -> list[FinishedStage]:
    return [one for one in folder.stages if one.report.stage == BOARD_STAGE]


def _figures(measured: Iterable[tuple[StageReport, StageNetwork, StageNetwork | None]]) -> list[BoardFigure | None]:
    """Of (report, what it measured, the network of the run it was measured of); None for what cannot be read.

    A speed is against the first network, as a run's is, of the valid ones that one session timed together with it.
    """
    read = [(_figure(*one), *one) for one in measured]
    valid = by_wholeness(
        replace(network, name=figure.model, dropped=(of or report).dropped, precision=figure.precision)
        for figure, report, network, of in read
        if figure and figure.is_valid is not False
    )
    return [figure and _with_speed(figure, network.latency, valid) for figure, _, network, _ in read]


def _with_speed(figure: BoardFigure, latency: Latency | None, valid: Sequence[StageNetwork]) -> BoardFigure:
    place = next((place for place, one in enumerate(valid) if one.latency is latency), 0)
    changes = (latency_between(one, valid[place]) for one in valid[:place])
    return figure.model_copy(update={"speed": next(filter(None, changes), None)})


def _counted(found: Sequence[tuple[StageReport, BoardFigure]]) -> tuple[BoardFigure, ...]:
    """Each with how often its file was timed (or only judged) on its board, and whether it is the last of them."""
    keys = [
        (one.source.sha256 if one.source else figure.model, figure.board.name, figure.board.host, not figure.latency)
        for one, figure in found
    ]
    last = {key: place for place, key in enumerate(keys)}
    return tuple(
        one.model_copy(update={"measurements": keys.count(key), "is_newest": last[key] == place})
        for place, (key, (_, one)) in enumerate(zip(keys, found, strict=True))
    )


def _figure(report: StageReport, measured: StageNetwork, maker: StageNetwork | None) -> BoardFigure | None:
    figures, board = report.results.get("figures"), report.results.get("board")
    if not isinstance(figures, dict) or not isinstance(board, dict):
        return None
    values = {
        "is_valid": None,
        "problems": (),
        **figures,
        **_agreement(figures.get("agreement")),
        "stage": measured.name,
        "board": _facts(board),
        "model": maker.name if maker else file_name(report),
        "precision": report.precision or (maker.precision if maker else None) or "",
        "latency": latency_figure(measured.latency),
        **({} if measured.latency else {"is_valid": None}),  # said true once
        "accuracy": accuracy_figure(measured.accuracy),
        "closeness": measured.closeness,
        "points": points_between(maker, measured) if maker else None,
        "measured": report.created,
        "energy": _energy(report.energy[0]) if report.energy else None,
        "heat": _heat(figures.get("heat")),
        "layers": _text(figures.get("layers")),
        "command": _text(figures.get("command")),
    }
    try:
        return BoardFigure.model_validate(values)
    except ValidationError:
        return None


def _agreement(found: Any) -> dict[str, Any]:
    """How far the board's logits are from ONNX Runtime's."""
    if not isinstance(found, dict):
        return {}
    n, correct = found.get("n"), found.get("reference_correct_top1")
    top1 = correct / n if isinstance(correct, int) and isinstance(n, int) and n else None
    same = {name: found.get(name) for name in ("sqnr_db", "equal_bits")}
    return {**same, "same_top1": found.get("top1"), "reference_top1": top1}


def _facts(board: dict[str, Any]) -> dict[str, Any]:
    mode = board.get("power_mode")
    named = mode.get("name") if isinstance(mode, dict) else mode
    locked = board.get("clocks_locked")
    own = ("name", "host", "model", "jetpack", "l4t", "tensorrt", "cuda", "gpu")
    texts = {name: _text(board.get(name)) for name in own}
    return {**texts, "power_mode": _text(named), "clocks_locked": locked if isinstance(locked, bool) else None}


def _energy(energy: Energy) -> EnergyFigure:
    return EnergyFigure(
        mj_per_image=Interval.around(energy.mj_per_image, energy.half_width_mj),
        samples=energy.load_samples,
        **energy.model_dump(include={"load_w", "idle_w", "source", "is_input", "is_partial"}),
    )


def _heat(heat: Any) -> str:
    """`48 to 61 °C, GPU 1,020 MHz`, as far as the board said."""
    if not isinstance(heat, dict):
        return ""
    return ", ".join(_heat_parts(heat)) or (_UNSAID if heat.get("samples") else "no samples under load")


def _heat_parts(heat: dict[str, Any]) -> Iterator[str]:
    before, highest, clock = heat.get("before_c"), heat.get("highest_c"), heat.get("gpu_mhz")
    if isinstance(highest, (int, float)):
        start = f"{before:g} to " if isinstance(before, (int, float)) else "up to "
        yield f"{start}{highest:g} °C"
    if isinstance(clock, dict) and all(isinstance(clock.get(end), (int, float)) for end in ("lowest", "highest")):
        low, high = clock["lowest"], clock["highest"]
        said_by = " (devfreq)" if heat.get("clock_source") == "devfreq" else ""
        yield (f"GPU {low:,.0f} MHz" if low == high else f"GPU {low:,.0f} to {high:,.0f} MHz") + said_by


def _text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Seen:
    """What one stage `board` measured of one file."""

    figure: BoardFigure
    sha256: str
    network: StageNetwork

    @property
    def doubt(self) -> str:
        """Why the latency does not count, if it does not."""
        why = "; ".join(self.figure.problems) or "it does not say why"
        return why if self.figure.is_valid is False else ""

    @property
    def session(self) -> str:
        """Of the latency that counts; empty for none."""
        return self.network.latency.session if self.network.latency and not self.doubt else ""


def boards_that_measured(run: Path) -> set[str]:
    """The boards by which the run in the folder `run` can be judged."""
    return {one.figure.board.name for one in _seen_in(run_folder_from(run))}


def boards_of(folder: RunFolder, sha256s: Collection[str]) -> list[str]:
    """The boards that measured one of these files; the last is who did so last."""
    named = [one.figure.board.name for one in _seen_in(folder) if one.sha256 in sha256s]
    return list(dict.fromkeys(reversed(named)))[::-1]


def boards_measuring(network: StageNetwork, networks: Sequence[StageNetwork], folder: RunFolder) -> list[str]:
    """The boards that measured the network in any of its files."""
    return boards_of(folder, {one.sha256 for one in engines_and_files_of(network, networks)})


def boards_judging(here: Sequence[StageNetwork], folder: RunFolder) -> tuple[str, list[str]]:
    """(the network that is judged anywhere, the boards that measured it): by the last the run is judged, else here."""
    views = [here, *(networks_on(board, here, folder) for board in boards_of(folder, {one.sha256 for one in here}))]
    anywhere = [max(seen, key=lambda one: (one.is_judged, bool(one.latency))) for seen in zip(*views, strict=True)]
    end = answer_of(anywhere) or newest_timed(anywhere)
    return (end.name, boards_measuring(end, here, folder)) if end else ("", [])


def networks_on(board: str, networks: Sequence[StageNetwork], folder: RunFolder) -> list[StageNetwork]:
    """The networks with the newest that the board measured of them.

    A valid latency counts before one that is not, one timed together with others before one timed alone, one known to
    be valid before others, and of several sessions the one that timed the newest network. Once the board has timed one,
    none has a latency of another machine. What it has not judged keeps its accuracy of here.
    """
    seen = [one for one in _seen_in(folder) if one.figure.board.name == board]
    judged = {one.sha256: one.network for one in seen if one.network.is_judged}
    timed, made = [one for one in seen if one.network.latency], (one.sha256 for one in reversed(networks))
    counts = that_count(timed, made, lambda one, several: (not one.doubt, several, one.figure.is_valid is True))
    found = [_timed(one, counts.get(one.sha256), board) if timed else one for one in networks]
    return [_judged(one, judged[one.sha256], board) if one.sha256 in judged else one for one in found]


def measured_in(stage: FinishedStage) -> StageNetwork:
    """The measurements of a stage `board`, by its own name."""
    return replace(_measured(stage.report, stage.name, stage.path), accuracy=next(iter(stage.accuracy), None))


def _measured(report: StageReport, name: str, folder: Path) -> StageNetwork:
    accuracy, latency = next(iter(report.accuracy), None), next(iter(report.latency), None)
    size_bytes, near = report.source.size_bytes if report.source else 0, next(iter(report.closeness), None)
    return StageNetwork(name, folder, size_bytes, accuracy, latency, closeness=near)


def _seen_in(folder: RunFolder) -> Iterator[Seen]:
    for stage in _stages_in(folder):
        network = measured_in(stage)
        figure = _figure(stage.report, network, None)
        if figure and stage.report.source:
            yield Seen(figure, stage.report.source.sha256, network)


def _timed(network: StageNetwork, counts: tuple[Seen, Seen] | None, board: str) -> StageNetwork:
    seen, last = counts or (None, None)
    if seen is None or last is None or seen.network.latency is None:
        return replace(network, latency=None, not_timed=f"not timed on {board}")
    if seen.doubt:
        return replace(network, latency=None, not_timed=f"timed on {board}, but not validly: {seen.doubt}")
    notes = [seen.network.latency.note, *([] if seen.figure.is_valid else [f"{UNSURE}: {UNKNOWN_VALIDITY}"])]
    notes += [f"{last.network.name} timed it later, {_later(last, seen)}"] if last is not seen else []
    latency = seen.network.latency.model_copy(update={"note": "; ".join(filter(None, notes))})
    return replace(network, latency=_on(board, latency), not_timed="")


def _later(last: Seen, seen: Seen) -> str:
    """What the newest measurement found, which does not count."""
    if last.doubt or last.figure.latency is None:
        return f"but not validly: {last.doubt}"
    modes = [one.figure.board.power_mode for one in (last, seen)]
    where = " in power mode {}, not {}".format(*modes) if modes[0] != modes[1] else ""
    is_unsure = seen.figure.is_valid and not last.figure.is_valid
    how = "of unknown validity" if is_unsure else "but apart from the others"
    return f"{how}: p50 {last.figure.latency.p50_ms.value:.3f} ms{where}"


def _judged(network: StageNetwork, seen: StageNetwork, board: str) -> StageNetwork:
    accuracy, near = seen.accuracy and _on(board, seen.accuracy), seen.closeness and _on(board, seen.closeness)
    here = network if network.is_judged else None
    return replace(network, folder=seen.folder, accuracy=accuracy, closeness=near, here=here)


def _on(board: str, figure: _M) -> _M:
    return figure.model_copy(update={"runtime": f"{figure.runtime} on {board}"})
