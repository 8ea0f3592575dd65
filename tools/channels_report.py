"""What `channels_figures.py` stores, its table and its picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.core.config import Config, Record
from edgeres.core.environment import available_cores
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, paired_difference, threads_text
from edgeres.core.pictures import MUTED, figure_file

Bits = NDArray[np.bool_]

Side = Literal["modules", "channels"]
SIDES: tuple[Side, ...] = ("modules", "channels")
_LABELS = {"modules": "modules dropped (edgeres)", "channels": "channels pruned (Torch-Pruning, group L2)"}
_MARKERS = {"modules": "o", "channels": "s"}
_HEAD = ("target", "side", "network", "latency", "params", "before %", "after %", "against whole", "CPU s", "seeds")


class Settings(Config):
    """What the figures depend on; every field is an option of this script."""

    data: str = Field("folder:cifar10-jpeg", description="folder:PATH (relative: it is stored), cifar10")
    targets: tuple[float, ...] = Field((0.85, 0.7, 0.55), description="shares of the whole network's latency")
    variants: tuple[str, ...] = Field(
        ("inner-global-8", "inner-global-16", "inner-uniform-8", "stages-global-16"),
        description="of channel pruning: scope-ranking-multiple",
    )
    shortcut: Literal["conv", "pad"] = Field("conv", description="option A as a convolution or as padding")
    most: int = Field(15, ge=1, description="modules dropped at most")
    tolerance: float = Field(0.02, gt=0, description="between the sides' shares of the latency")
    trial_images: int = Field(2000, ge=0, description="of train, for the choice of a variant; 0: the nearest")
    judge_images: int = Field(2000, ge=1, description="of train, other ones, to judge the variants on")
    images: int = Field(2000, ge=1, description="of train, to choose modules and to recover both sides on")
    val_images: int = Field(5000, ge=1, description="of val; all if there are fewer")
    epochs: int = Field(10, ge=1, description="of the recovery's gradient steps")
    seeds: tuple[int, ...] = Field((0,), description="of images, order and augmentation, one recovery each")
    threads: int = Field(available_cores(), ge=1, description="of ONNX Runtime")
    rounds: int = Field(12, ge=1, description="turns of each model in a survey; four times as many in the last session")
    turn_s: float = Field(0.1, gt=0, description="length of a turn")


class Candidate(Record):
    """A pruned network; `file` is its state dict in the work folder, `ratio` its latency over the whole network's."""

    name: str
    side: Side
    file: str
    dropped: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    params: int
    ratio: Interval


class Trial(Record):
    """A variant after the short recovery, judged on training images it was not recovered on."""

    target: float
    name: str
    top1: float
    n: int


class Pick(Record):
    """Who stands for a side at a target; `ratio` is of the last session, in which all picks were timed."""

    target: float
    side: Side
    candidate: Candidate


class Cell(Record):
    """One recovery. `before` and `after` hold a bit for each val image, set where the guess was right, as hex.

    cpu_s: of the recovery, and of choosing the modules where that was asked for with it. `refitted` is False where
    channels learnt by gradients alone.
    """

    target: float
    side: Side
    seed: int
    name: str
    images: int
    steps: int
    cpu_s: float
    refitted: bool = True
    before: str
    after: str


class Results(Record):
    """tools/results/channels.json; `busy_cores` is what other programs used before the last session."""

    schema_version: int = 1
    settings: dict[str, object]
    whole_sha256: str
    machine: str
    packages: dict[str, str]
    n: int
    whole: str
    whole_ms: float = 0.0
    busy_cores: float | None = None
    survey: tuple[Candidate, ...] = ()
    trials: tuple[Trial, ...] = ()
    picks: tuple[Pick, ...] = ()
    cells: tuple[Cell, ...] = ()


def check_variants(settings: Settings) -> None:
    """Raises InputError for a variant that cannot be."""
    for variant in settings.variants:
        if not re.fullmatch(r"(inner|stages)-(uniform|global)-[1-9]\d*", variant):
            raise InputError(
                f"unknown variant {variant!r}: inner|stages - uniform|global - multiple, e.g. inner-global-8"
            )
        if variant.startswith("stages") and settings.shortcut == "pad":
            raise InputError(f"{variant}: Torch-Pruning does not follow padded channels; use --shortcut conv")


def hex_of(bits: Bits) -> str:
    """A bit for each image, as hex."""
    return np.packbits(bits).tobytes().hex()


def bits_of(text: str, n: int) -> Bits:
    """Whether each of `n` images was right."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool)


class Row(Record):
    """One side at one target, over its seeds; differences in points with the half-width of their 95 % interval.

    With several seeds both are means: the mean half-width is an upper bound of that of the mean difference.
    """

    target: float
    side: Side
    candidate: Candidate
    before: float
    after: float
    against_whole: tuple[float, float]
    refitted: bool
    ahead: tuple[float, float] | None
    cpu_s: float
    seeds: tuple[int, ...]


def rows_of(results: Results) -> Iterator[Row]:
    """A row a pick and way of recovery; `ahead` of channels is the lead of the modules over them."""
    for pick in results.picks:
        for refitted in (True, False):
            cells = _cells_at(results, pick.target, pick.side, refitted=refitted)
            modules = _cells_at(results, pick.target, "modules") if pick.side == "channels" else {}
            both = sorted(cells.keys() & modules.keys())
            if cells:
                yield Row(
                    target=pick.target,
                    side=pick.side,
                    candidate=pick.candidate,
                    before=_percent([cell.before for cell in cells.values()], results.n),
                    after=_percent([cell.after for cell in cells.values()], results.n),
                    against_whole=_points([(results.whole, cell.after) for cell in cells.values()], results.n),
                    refitted=refitted,
                    ahead=_points([(cells[i].after, modules[i].after) for i in both], results.n) if both else None,
                    cpu_s=float(np.mean([cell.cpu_s for cell in cells.values()])),
                    seeds=tuple(sorted(cells)),
                )


def _cells_at(results: Results, target: float, side: Side, *, refitted: bool = True) -> dict[int, Cell]:
    """The recoveries of one side at one target by their seeds."""
    wanted = target, side, refitted
    return {cell.seed: cell for cell in results.cells if (cell.target, cell.side, cell.refitted) == wanted}


def table_of(results: Results) -> list[str]:
    """Markdown, the leads below."""
    rows = list(rows_of(results))
    whole = _percent([results.whole], results.n)
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    lines += ["| " + " | ".join(_cells_of(row)) + " |" for row in rows]
    lines += ["", f"Whole network: {whole:.2f} % (n = {results.n:,}), {results.whole_ms:.3f} ms on {results.machine}."]
    lines += [
        f"At {row.target:g}, modules minus {_label(row)}: {_signed(row.ahead)} points." for row in rows if row.ahead
    ]
    return lines


def draw(results: Results, path: Path) -> None:
    """Top-1 against the share of the latency, both sides."""
    rows = list(rows_of(results))
    threads = threads_text(Settings.model_validate(results.settings).threads)
    with figure_file(path) as axes:
        whole = _percent([results.whole], results.n)
        axes.axhline(whole, color=MUTED, linewidth=1, linestyle="--")
        axes.annotate(f"  whole network, {whole:.1f} %", (0, whole), xycoords=("axes fraction", "data"), va="top")
        for side in SIDES:
            _draw_side(axes, side, [row for row in rows if row.side == side and row.refitted])
        axes.set_xlabel(f"batch-1 latency, share of the whole network's {results.whole_ms:.2f} ms ({threads})")
        axes.set_ylabel(f"top-1 after recovery, % (n = {results.n:,})")
        axes.legend(loc="lower right")


def _draw_side(axes: Any, side: Side, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.candidate.ratio.value)
    if not rows:
        return
    ratios = [row.candidate.ratio for row in rows]
    axes.errorbar(
        [ratio.value for ratio in ratios],
        [row.after for row in rows],
        xerr=[[ratio.value - ratio.low for ratio in ratios], [ratio.high - ratio.value for ratio in ratios]],
        yerr=[row.against_whole[1] for row in rows],
        marker=_MARKERS[side],
        capsize=2,
        label=_LABELS[side],
    )


def _cells_of(row: Row) -> list[str]:
    one = row.candidate
    what = f"{len(one.dropped)} dropped" if one.side == "modules" else one.name
    share = f"{one.ratio.value:.3f} [{one.ratio.low:.3f}, {one.ratio.high:.3f}]"
    after = [f"{row.before:.2f}", f"{row.after:.2f}", _signed(row.against_whole)]
    return [
        f"{row.target:g}",
        _label(row),
        what,
        share,
        f"{one.params:,}",
        *after,
        f"{row.cpu_s:.0f}",
        str(len(row.seeds)),
    ]


def _label(row: Row) -> str:
    return row.side if row.refitted else f"{row.side} by gradients alone"


def _percent(texts: list[str], n: int) -> float:
    return 100 * float(np.mean([bits_of(text, n).mean() for text in texts]))


def _points(pairs: list[tuple[str, str]], n: int) -> tuple[float, float]:
    """Mean change from the first to the second of each pair, and mean half-width."""
    found = [paired_difference(bits_of(a, n).tolist(), bits_of(b, n).tolist()) for a, b in pairs]
    difference, half = np.mean(found, axis=0)
    return 100 * float(difference), 100 * float(half)


def _signed(change: tuple[float, float]) -> str:
    return f"{change[0]:+.2f} ± {change[1]:.2f}"
