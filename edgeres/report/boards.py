"""What boards measured: the stage `board`, one row for each model file and board.

A board's latency is never held against this machine's; two rows are compared only if one session of one board timed
both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeres.core.metrics import Energy
from edgeres.core.statistics import Interval
from edgeres.report.answers import measured_in
from edgeres.report.figures import AccuracyFigure, Change, LatencyFigure, accuracy_figure, latency_figure
from edgeres.report.folder import BOARD_STAGE, Figure, FinishedStage, RunFolder, figure_from
from edgeres.report.networks import Network, latency_between, network_from, points_between

NO_SAMPLES = "no samples under load"


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

    `is_valid` is None where the GPU's clock was not seen under load. With `equal_bits` the logits are ONNX Runtime's,
    bit for bit, and there is no `sqnr_db`. `measured` (ISO 8601) is one of `measurements` of this file on this board.
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
    measured: str = ""
    measurements: int = 1
    is_newest: bool = True


def boards_in(folder: RunFolder) -> tuple[tuple[BoardFigure, ...], tuple[str, ...]]:
    """In order of the stages, and what could not be read."""
    found: list[tuple[FinishedStage, BoardFigure]] = []
    problems: list[str] = []
    timed: list[Network] = []
    for stage in (one for one in folder.stages if one.report.stage == BOARD_STAGE):
        measured = measured_in(stage)
        figure = _figure(stage, measured, folder, timed)
        if figure and figure.is_valid is not False:
            timed.append(measured)
        if figure is None:
            problems.append(f"{stage.name}: what the board measured cannot be read; measure again on the board")
        else:
            found.append((stage, figure))
    return _counted(found), tuple(problems)


def _counted(found: Sequence[tuple[FinishedStage, BoardFigure]]) -> tuple[BoardFigure, ...]:
    """Each with how often its file was timed (or only judged) on its board, and whether it is the last of them."""
    keys = [_key(stage, one) for stage, one in found]
    last = {key: place for place, key in enumerate(keys)}
    return tuple(
        one.model_copy(update={"measurements": keys.count(key), "is_newest": last[key] == place})
        for place, (key, (_, one)) in enumerate(zip(keys, found, strict=True))
    )


def _key(stage: FinishedStage, one: BoardFigure) -> tuple[str, str, bool]:
    return stage.report.source.sha256 if stage.report.source else one.model, one.board.name, one.latency is None


def _figure(
    stage: FinishedStage, measured: Network, folder: RunFolder, earlier: Sequence[Network]
) -> BoardFigure | None:
    report, figures = stage.report, stage.report.results.get("figures")
    board = report.results.get("board")
    if not isinstance(figures, dict) or not isinstance(board, dict):
        return None
    source = _maker(stage, folder)
    agreement = figures.get("agreement")
    values = {
        **figures,
        "stage": stage.name,
        "board": _facts(board),
        "model": source.name if source else _source_name(stage),
        "precision": report.precision or (source.report.precision if source else None) or "",
        "latency": latency_figure(measured.latency),
        "accuracy": accuracy_figure(measured.accuracy),
        "points": points_between(network_from(source, folder), measured) if source else None,
        "same_top1": agreement.get("top1") if isinstance(agreement, dict) else None,
        "sqnr_db": agreement.get("sqnr_db") if isinstance(agreement, dict) else None,
        "equal_bits": agreement.get("equal_bits") if isinstance(agreement, dict) else None,
        "measured": report.created,
        "energy": _energy(report.energy[0]) if report.energy else None,
        "is_valid": figures.get("is_valid"),
        "speed": _speed(measured, earlier) if figures.get("is_valid") is not False else None,
        "heat": _heat(figures.get("heat")),
        "layers": _text(figures.get("layers")),
        "command": _text(figures.get("command")),
    }
    return figure_from(BoardFigure, values)


def _speed(measured: Network, earlier: Sequence[Network]) -> Change | None:
    """Against the first valid row that one session timed together with this one."""
    return next((change for one in earlier if (change := latency_between(one, measured))), None)


def _maker(stage: FinishedStage, folder: RunFolder) -> FinishedStage | None:
    """The stage of this run whose file was measured."""
    sha256 = stage.report.source.sha256 if stage.report.source else ""
    made = (one for one in folder.networks if one.report.output and one.report.output.sha256 == sha256)
    return next(made, None)


def _source_name(stage: FinishedStage) -> str:
    return Path(stage.report.source.path).name if stage.report.source else "unknown file"


def _facts(board: dict[str, Any]) -> dict[str, Any]:
    mode = board.get("power_mode")
    named = mode.get("name") if isinstance(mode, dict) else mode
    locked = board.get("clocks_locked")
    texts = {name: _text(board.get(name)) for name in ("name", "model", "jetpack", "l4t", "tensorrt", "cuda", "gpu")}
    return {**texts, "power_mode": _text(named), "clocks_locked": locked if isinstance(locked, bool) else None}


def _energy(energy: Energy) -> EnergyFigure:
    value, half = energy.mj_per_image, energy.half_width_mj
    return EnergyFigure(
        mj_per_image=Interval(value=value, low=value - half, high=value + half),
        samples=energy.load_samples,
        **energy.model_dump(include={"load_w", "idle_w", "source", "is_input", "is_partial"}),
    )


def _heat(heat: Any) -> str:
    """`48 to 61 °C, GPU 1,020 MHz`, as far as the board said."""
    if not isinstance(heat, dict):
        return ""
    return ", ".join(_heat_parts(heat)) or (NO_SAMPLES if heat.get("samples") == 0 else "")


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
