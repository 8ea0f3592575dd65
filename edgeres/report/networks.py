"""The networks of a run with their raw measurements, and two of them held against each other.

Two are compared only where they were measured under the same conditions: accuracy image by image on one split of one
data set, as one machine judged both if one did, latency within one session. What a network is held against is the
first: the least cut, of those the first in FP32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import FUSED_PROFILE, Checkpoint
from edgeres.core.errors import EdgeresError, InputError
from edgeres.core.lineage import advised, line_of
from edgeres.core.metrics import Accuracy, Closeness, Latency, OwnFigure
from edgeres.core.names import canonical_data_name
from edgeres.core.runs import Run
from edgeres.core.safe_text import typed
from edgeres.core.stage import is_cut_from
from edgeres.core.statistics import ratio_interval
from edgeres.evaluate.agreement import Comparison, Pair
from edgeres.report.figures import Change
from edgeres.report.folder import LOST, FinishedStage, RunFolder, state_of

Table = NDArray[np.uint16]
_COLUMNS = 2  # prediction and label
ENGINE_STAGE = "compile"
_USUAL_PROFILE = "tensorrt"
_ORDERS_APART = "judged with their classes in another order"
NOT_TIMED = "not timed"  # and nothing says why
FOR_TENSORRT = "placed for TensorRT"  # stands in the reason why this machine did not time a file
_Made = TypeVar("_Made", bound=Any)  # a StageNetwork, or its row in a table: they have what is asked for here
_ON_A_BOARD = f"{NOT_TIMED}: a Q/DQ graph {FOR_TENSORRT} is timed on a board only"


@dataclass(frozen=True)
class StageNetwork:
    """What one stage made; `path` is relative to the run, `not_timed` says why there is no latency.

    The predictions lie in `folder`. Of a network on a board there are only the measurements. `here` is the network as
    this machine judged it, where a board's judgement took that place; `profile` what it was quantized for; `copies`
    the paths of all stages that made the same file, where it was not changed since.
    """

    name: str
    folder: Path
    size_bytes: int
    accuracy: Accuracy | None
    latency: Latency | None
    stage: str = ""
    path: str = ""
    sha256: str = ""
    parent: str | None = None
    macs: int = 0
    params: int = 0
    precision: str | None = None
    dropped: tuple[str, ...] = ()
    not_timed: str = ""
    closeness: Closeness | None = None
    metric: OwnFigure | None = None
    here: StageNetwork | None = None
    profile: str = ""
    copies: tuple[str, ...] = ()

    @property
    def told_same(self) -> str:
        """`same file as 02-quantize`, which had made it before; empty for a file of its own."""
        return f"same file as {self.copies[0].partition('/')[0]}" if self.path in self.copies[1:] else ""

    @property
    def file(self) -> Path:
        """Where it lies, in the run in whose folder it was judged."""
        return self.folder.parent / self.path

    @cached_property
    def lost(self) -> str:
        """Why its file is not the one that its figures are of; empty where it is."""
        return LOST.get(state_of(self.file, self.sha256, self.copies), "")

    @property
    def judged_on(self) -> str:
        """The board that judged it; empty for this machine."""
        figure = self.accuracy or self.closeness
        return board_in(figure.runtime) if figure else ""

    @property
    def is_judged(self) -> bool:
        """Whether it is known how good it is."""
        return self.accuracy is not None or self.closeness is not None

    @cached_property
    def predictions(self) -> Table | None:
        """uint16 (n, 2) of prediction and label; None if absent, damaged or of other images than the accuracy."""
        if self.accuracy is None or self.accuracy.predictions is None:
            return None
        path = self.folder / Path(self.accuracy.predictions).name
        if not path.is_file():
            return None
        try:
            table: Table = np.load(path, mmap_mode="r", allow_pickle=False)  # a header's claim is not read into memory
        except (OSError, ValueError, EOFError, OverflowError, TokenError):
            return None
        is_whole = isinstance(table, np.ndarray) and table.shape == (self.accuracy.n, _COLUMNS)
        return table if is_whole and int((table[:, 0] == table[:, 1]).sum()) == self.accuracy.correct_top1 else None


def board_in(runtime: str) -> str:
    """`desk` of `tensorrt 10.3.0 on desk`; empty for this machine's."""
    return runtime.partition(" on ")[2]


def networks_in(folder: RunFolder) -> list[StageNetwork]:
    """What the stages made, in their order, and what was measured here of it: for files that are alike of any."""
    return [_network_from(stage, folder) for stage in folder.networks]


def _network_from(stage: FinishedStage, folder: RunFolder) -> StageNetwork:
    report, output = stage.report, stage.report.output
    assert output is not None
    assert report.cost is not None
    judged = next((one for one in (stage, *folder.networks) if one.has_judged(output.sha256)), stage)
    timing, profile = folder.timings.get(output.sha256), report.results.get("profile", _USUAL_PROFILE)
    latency = timing and timing[0].noting(timing[1])
    is_left_out = report.stage in {"quantize", "qat"} and profile != FUSED_PROFILE  # a Q/DQ graph, by `edgeres bench`
    return StageNetwork(
        name=stage.name,
        folder=judged.path,
        size_bytes=output.size_bytes,
        accuracy=next((one for one in judged.accuracy if one.artifact == output.sha256), None),
        closeness=next((one for one in judged.closeness if one.artifact == output.sha256), None),
        metric=judged.evaluation.metric if judged.evaluation else None,
        latency=latency,
        stage=report.stage,
        path=f"{stage.name}/{Path(output.path).name}",
        sha256=output.sha256,
        parent=report.source.sha256 if report.source else _brought_again(stage, folder),
        macs=report.cost.macs,
        params=report.cost.params,
        precision=report.precision,
        dropped=report.dropped,
        profile=str(profile),
        copies=tuple(folder.unchanged(output.sha256)),
        not_timed="" if latency else folder.skipped.get(output.sha256, _ON_A_BOARD if is_left_out else NOT_TIMED),
    )


def _brought_again(stage: FinishedStage, folder: RunFolder) -> str | None:
    """sha256 of what an import brings in again: under other class names by `--labels`, or cut and trained elsewhere."""
    config, output = stage.report.config, stage.report.output
    if stage.report.stage != "import" or output is None:
        return None
    before = folder.networks[: folder.networks.index(stage)]
    for one in before:
        if one.report.output and is_cut_from((one.path, one.report), (stage.path, stage.report)):
            return one.report.output.sha256
    if not config.get("labels"):
        return None
    for one in before:
        if one.report.output and {**one.report.config, "labels": config["labels"]} == config:
            return one.report.output.sha256
    with suppress(EdgeresError):
        return Checkpoint(stage.path / Path(output.path).name).card.parent
    return None


def by_wholeness(networks: Iterable[_Made]) -> list[_Made]:
    """The order in which they serve as the first: the least cut, FP32 before less, then the earliest."""
    return sorted(networks, key=lambda one: (len(one.dropped), one.precision not in {None, "fp32"}))


def engines_and_files_of(network: _Made, networks: Sequence[_Made]) -> list[_Made]:
    """The newest engine compiled from it first, itself, the same of its exports and of what an engine was made from."""
    made_from = [one for one in networks if network.stage == ENGINE_STAGE and one.sha256 == network.parent]
    files = (file for one in (network, *made_from) for file in files_of(one, networks))
    compiled = [one for one in reversed(networks) if one.stage == ENGINE_STAGE]
    return [one for file in files for one in (*(plan for plan in compiled if plan.parent == file.sha256), file)]


def timed_of(network: _Made, networks: Sequence[_Made]) -> _Made:
    """Whose latency is the network's: of its first engine or file that was timed with another network, or at all."""
    files = engines_and_files_of(network, networks)
    own, timed = {one.sha256 for one in files}, [one for one in files if one.latency]
    others = {(one.latency.session, one.latency.executor) for one in networks if one.latency and one.sha256 not in own}
    together = (one for one in timed if (one.latency.session, one.latency.executor) in others)
    return next(together, timed[0] if timed else network)


def base_of(judged: StageNetwork, networks: Sequence[StageNetwork]) -> StageNetwork:
    """What is held against in every figure: the first network, as its export where that alone is judged or timed.

    Judged by the same machine and timed together with this, that is: a board cannot time a checkpoint; its ONNX file
    is the same network. `judged` itself if nothing came before it, or it is that file.
    """
    before = networks[: networks.index(judged)]
    if not before:
        return judged
    timed, files = timed_of(judged, networks), files_of(by_wholeness(before)[0], networks)

    def fit(one: StageNetwork) -> tuple[bool, ...]:
        is_compared = one is not judged and points_between(one, judged) is not None
        is_in_place = is_compared and in_one_place(one, judged).judged_on == judged.judged_on
        return is_in_place, is_compared and latency_between(one, timed) is not None, one.is_judged

    return max(files, key=fit)


def held_against(judged: StageNetwork, networks: Sequence[StageNetwork]) -> list[StageNetwork]:
    """What a figure of `judged` may be held against, the best first: `base_of`, and the least cut of what was there.

    Files of the first network are there whenever they were exported, for one of them no others are.
    """
    before = networks[: networks.index(judged)]
    files = {one.sha256 for first in by_wholeness(before)[:1] for one in files_of(first, networks)}
    among = files if judged.sha256 in files else files | {one.sha256 for one in before}
    there = [one for one in networks if one.sha256 in among - {judged.sha256}]
    return [base_of(judged, networks), *by_wholeness(there)]


def in_one_place(before: StageNetwork, after: StageNetwork) -> StageNetwork:
    """`before` as the machine judged it that judged `after`, where that one did."""
    return before.here if before.here and not after.judged_on else before


def answer_of(networks: Sequence[_Made]) -> _Made | None:
    """What a run is judged by: the newest of `_made_of` those that are judged, the first network only if none is."""
    judged = [one for one in networks if one.is_judged]
    return (_made_of(judged, networks) or judged)[-1] if judged else None


def newest_timed(networks: Sequence[StageNetwork]) -> StageNetwork | None:
    """What a run is judged by where nothing is evaluated: as `answer_of`, by the clock."""
    timed = [one for one in networks if one.stage != ENGINE_STAGE and timed_of(one, networks).latency]
    return next(reversed(_made_of(timed, networks) or timed), None)


def others_in(networks: Sequence[_Made]) -> list[_Made]:
    """What can be evaluated anywhere and is not the first network in one of its files."""
    first = _first_in(networks)
    return [one for one in networks if one.stage != ENGINE_STAGE and one.sha256 not in first]


def answers_in(networks: Sequence[_Made]) -> list[_Made]:
    """Of `others_in` those that the run may be judged by."""
    return _made_of(others_in(networks), networks)


def _made_of(among: Sequence[_Made], networks: Sequence[_Made]) -> list[_Made]:
    """Those `among` the networks that are not the first; where some are cut, these: others are there beside them."""
    first = _first_in(networks)
    others = [one for one in among if one.sha256 not in first]
    least = min((len(one.dropped) for one in networks), default=0)
    return [one for one in others if len(one.dropped) > least] or others


def _first_in(networks: Sequence[_Made]) -> set[str]:
    """sha256 of the first network's files."""
    return {one.sha256 for first in by_wholeness(networks)[:1] for one in files_of(first, networks)}


def files_of(network: _Made, networks: Sequence[_Made]) -> list[_Made]:
    """The network, its exports in the same precision, itself under other class names: one network in several files."""
    files = [network]
    for one in networks:
        is_file = one.stage in {"export", "import"} and one.precision == network.precision
        if is_file and one.dropped == network.dropped and one.parent in {file.sha256 for file in files}:
            files.append(one)
    return files


def has_file(network: _Made, networks: Sequence[_Made]) -> bool:
    """Whether it is more than a checkpoint, of which boards, and ONNX Runtime here, time the export."""
    return any(not one.path.endswith(Checkpoint.suffix) for one in files_of(network, networks))


def no_second(networks: Sequence[StageNetwork], folder: RunFolder) -> str:
    """How the run gets a network beside the first."""
    whole = by_wholeness(networks)[0]
    first = next((one for one in reversed(files_of(whole, networks)) if one.stage != "export"), whole)
    ways = f"{advised('edgeres prune', folder.path / first.path)} --drop N", making_int8(first, networks, folder)
    return f"there is no second network to hold against it: {', or '.join(ways)}"


def making_int8(network: StageNetwork, networks: Sequence[StageNetwork], folder: RunFolder) -> str:
    """The commands after which the run has it in INT8."""
    file = next((one for one in files_of(network, networks) if not one.path.endswith(Checkpoint.suffix)), None)
    source = folder.path / file.path if file else Run(folder.path)
    tables = [one.report.source for one in folder.stages if one.report.stage == "calibrate"]
    is_calibrated = file is not None and file.sha256 in {one.sha256 for one in tables if one}
    lacking = [] if is_calibrated else [advised("edgeres calibrate", source)]
    exporting = [] if file else [advised("edgeres export", folder.path / network.path)]
    profiles = [one.profile for one in networks if one.stage == "quantize"][-1:]
    as_others = "".join(f" --profile {one}" for one in profiles if one != _USUAL_PROFILE)
    return " and ".join((*exporting, *lacking, f"{advised('edgeres quantize', source)}{as_others}"))


def judging_alike(a: StageNetwork, b: StageNetwork, networks: Sequence[StageNetwork], folder: RunFolder) -> str:
    """The commands after which the two are judged with the same labels; empty where they are, as far as that is known.

    Of two orders of the classes that by which fewer are right is taken for the wrong one.
    """
    apart, run = labels_apart(a, b), Run(folder.path)
    if not apart:
        return ""
    if apart != _ORDERS_APART:
        evals = (advised("edgeres eval", folder.path / one.path, on=one.judged_on) for one in (a, b))
        return " and ".join(f"{how}{'' if ' --on ' in how else ' --replace'}" for how in evals)
    if b in files_of(a, networks):
        return no_second(networks, folder)
    fewer = min((a, b), key=lambda one: one.accuracy.correct_top1 if one.accuracy else 0)
    made = {one.sha256: one for one in networks}
    line = line_of(fewer.sha256, {sha256: one.parent for sha256, one in made.items()})
    naming = f"edgeres import {typed(folder.path / made[line[-1]].path)} --run {run.typed} --labels FILE"
    return f"{naming}{'' if fewer is a else f', make {b.name} from that'} and {advised('edgeres eval', run)}"


def pair_of(a: StageNetwork, b: StageNetwork) -> Pair | str:
    """How the two compare, `a` `in_one_place` with `b`, or why that cannot be said."""
    a = in_one_place(a, b)
    judged = [one.accuracy and _images_of(one.accuracy) for one in (a, b)]
    for one, images in zip((a, b), judged, strict=True):
        if not images:
            how = "judged by how near it is to another, not by right answers" if one.closeness else "not evaluated"
            return f"{one.name} is {how}"
    if judged[0] != judged[1]:
        said = (f"{images[0]} {images[1]}, n = {images[2]:,}" for images in judged if images)
        return f"judged on different images: {'; '.join(said)}"
    first, second = a.predictions, b.predictions
    if first is None or second is None:
        return f"the predictions of {a.name if first is None else b.name} are missing or damaged"
    if apart := labels_apart(a, b):
        return apart
    compared = Comparison()
    compared.count(first[:, 0], second[:, 0], first[:, 1])
    return compared.pair


def labels_apart(a: StageNetwork, b: StageNetwork) -> str:
    """Why their accuracies are not compared though both are of so many images of one split; empty where they may be."""
    is_known = a.accuracy and b.accuracy and _images_of(a.accuracy) == _images_of(b.accuracy)
    if not is_known or a.predictions is None or b.predictions is None:
        return ""
    first, second = a.predictions[:, 1], b.predictions[:, 1]
    if np.array_equal(first, second):
        return ""
    pairs = {*zip(first.tolist(), second.tolist(), strict=True)}
    is_one_to_one = len({one for one, _ in pairs}) == len({one for _, one in pairs}) == len(pairs)
    return _ORDERS_APART if is_one_to_one else "judged on different images: their labels differ"


def points_between(before: StageNetwork, after: StageNetwork) -> Change | None:
    """Percentage points of top-1; None unless both were judged on one split of one data set, with the same labels.

    The interval is paired and needs both predictions files, on the same images in the same order.
    """
    before = in_one_place(before, after)
    a, b = before.accuracy, after.accuracy
    if a is None or b is None or _images_of(a) != _images_of(b) or labels_apart(before, after):
        return None
    pair, told = pair_of(before, after), {"versus": before.name, "apart": judged_apart(before, after)}
    if isinstance(pair, str):
        return Change(value=100 * (b.top1 - a.top1), **told)
    change, half = pair.difference
    return Change(value=100 * change, low=100 * (change - half), high=100 * (change + half), **told)


def judged_apart(before: StageNetwork, after: StageNetwork) -> str:
    """`judged on desk` or `judged here` of `before`, where another machine judged `after`; empty where the same did."""
    if before.judged_on == after.judged_on:
        return ""
    return f"judged on {before.judged_on}" if before.judged_on else "judged here"


def _images_of(accuracy: Accuracy) -> tuple[str, str, int]:
    return canonical_data_name(accuracy.dataset), accuracy.split, accuracy.n


def latency_between(before: StageNetwork, after: StageNetwork) -> Change | None:
    """Ratio of medians; None unless both were timed in one session and runtime, whose gain is not the model's.

    Nor is a measurement held against itself, as that of a file which two stages made.
    """
    if before.latency is None or after.latency is None or before.latency.executor != after.latency.executor:
        return None
    if before.latency == after.latency:
        return None
    try:
        ratio = ratio_interval(before.latency, after.latency)
    except InputError:
        return None
    return Change(**ratio.model_dump(), versus=before.name)
