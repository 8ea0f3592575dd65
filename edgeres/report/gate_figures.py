"""What the rules of `edgeres gate` are judged by: one figure each, or the reason why it was not measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeres.bench.boards import HERE
from edgeres.core.artifacts import FOR_A_CPU, FUSED_PROFILE
from edgeres.core.errors import InputError
from edgeres.core.lineage import advised
from edgeres.core.metrics import Accuracy, Interval, Latency, threads_text, wilson
from edgeres.core.runs import RECIPE_NAME, Run
from edgeres.core.statistics import P99_CALLS, percentile_interval
from edgeres.evaluate.agreement import Pair
from edgeres.report.boards import UNSURE, boards_judging, boards_measuring, networks_on
from edgeres.report.findings import with_verdicts
from edgeres.report.folder import BEGUN, STRAY, RunFolder, command_of, run_folder_from
from edgeres.report.gate_rules import GateConfig
from edgeres.report.networks import (
    ENGINE_STAGE,
    FOR_TENSORRT,
    NOT_TIMED,
    StageNetwork,
    answer_of,
    answers_in,
    base_of,
    board_in,
    by_wholeness,
    has_file,
    held_against,
    in_one_place,
    judged_apart,
    judging_alike,
    latency_between,
    networks_in,
    newest_timed,
    no_second,
    pair_of,
    points_between,
    timed_of,
)
from edgeres.report.wording import closeness_text, doubt_in, size

_SPEED_UP = "min_speedup"
_BY_THE_CLOCK = {"max_p50", "max_p99", _SPEED_UP}
_HELD_AGAINST_FIRST = {"max_loss", "min_agreement", _SPEED_UP}
_ROOM = 1.1  # more seconds than the calls so far would take, so that the next run has enough


@dataclass(frozen=True)
class Subject:
    """What is judged of a run: `first` and `end` by accuracy, `timed` by latency.

    `board` is whose figures they are, empty for this machine. `asked`: the rules; where they name whose figures they
    are of no other times count. `is_seen`: it has built what is judged. `unjudged`: what is lacking where no network is
    evaluated, and `end` is the newest timed.
    """

    folder: RunFolder
    board: str
    networks: Sequence[StageNetwork]
    first: StageNetwork
    end: StageNetwork
    timed: StageNetwork
    asked: GateConfig
    is_seen: bool = True
    unjudged: str = ""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def bench(self) -> str:
        """The command that times what is missing."""
        return advised("edgeres bench", Run(self.run), on=self.board)


@dataclass(frozen=True)
class GateFigure:
    """A measured value and how it reads, with so many `places`; a mean of which no interval is kept is one number.

    `is_valid` is false for a latency of an invalid session, None where that is not known.
    """

    stage: str
    interval: Interval
    text: str
    places: int = 3
    has_interval: bool = True
    is_valid: bool | None = True


class NotMeasured(Exception):
    """Why there is no figure, and the command that measures it."""

    said = "not measured"


class NotCounted(NotMeasured):
    """What was measured and why it does not count, and the command that measures what does."""

    said = "measured, but it does not count"


def subject_in(run: Path, asked: GateConfig) -> Subject:
    """The networks of the run in the folder `run` as the board `asked.on` measured them, or this machine (HERE).

    Without one it is the one board that measured the network judged. Raises InputError if several did and the rules
    ask for more than the size, NotMeasured if no network is evaluated or timed.
    """
    on, rules, folder = asked.on, {rule.name for rule in asked.rules}, run_folder_from(run)
    is_measured = rules != {"max_size"}
    here = networks_in(folder)
    board = _only_board(here, folder, is_measured=is_measured) if on is None else "" if on == HERE else on
    networks = networks_on(board, here, folder) if board else here
    if on == board:  # without what another machine timed
        networks = [
            replace(one, latency=None, not_timed=f"{NOT_TIMED} on {board}")
            if one.latency and board_in(one.latency.runtime) != board
            else one
            for one in networks
        ]
    networks = with_verdicts(networks, folder)
    end, unjudged = answer_of(networks), ""
    if end is None:
        end = None if _handed_over(run, asked) else newest_timed(networks)
        lacking = _without_judged(folder, networks, asked, rules - (_BY_THE_CLOCK if end else set()))
        said = sorted((lacking, *folder.problems), key=lambda one: BEGUN not in one)
        unjudged = f"{run} holds no evaluated network; {'; '.join(said)}"
    if end is None:
        raise NotMeasured(unjudged)
    first, timed = base_of(end, networks), timed_of(end, networks)
    is_seen = not board or board in boards_measuring(end, networks, folder)
    return Subject(folder, board, networks, first, end, timed, asked, is_seen=is_seen, unjudged=unjudged)


def figure_of(rule: str, subject: Subject) -> GateFigure:
    """What the rule is judged by; raises NotMeasured where there is none, or it is of a file that is gone or changed.

    Of an engine that is also the file it was compiled from.
    """
    judged = subject.timed if rule in _BY_THE_CLOCK else subject.end
    source = [one for one in subject.networks if judged.stage == ENGINE_STAGE and one.sha256 == judged.parent]
    for one in (judged, *source[-1:]):
        if one.lost:
            stage = next(stage for stage in subject.folder.stages if stage.name == one.name)
            again = command_of(stage, subject.folder.stages)
            raise NotCounted(f"{one.path}: {one.lost}; make it again: {again}")
    return FIGURES[rule](subject)


def _without_judged(folder: RunFolder, networks: Sequence[StageNetwork], asked: GateConfig, rules: set[str]) -> str:
    """All that a run without an evaluated network lacks to be judged by the rules, in order."""
    run, others = folder.path, answers_in(networks)
    if not networks:
        return f"bring one in: edgeres import FILE --run {Run(run).typed}"
    judge = f"evaluate one: {advised('edgeres eval', Run(run))}"
    if (handed := _handed_over(run, asked)) or not others:
        return handed or f"{judge}; {no_second(networks, folder)}"
    first, end = by_wholeness(networks)[0], others[-1]
    board = asked.on if asked.on and asked.on != HERE else ""
    subject = Subject(folder, board, networks, first, end, end, asked)
    how = _how_to_time(subject, *([first] if rules & _HELD_AGAINST_FIRST else []), end)
    if subject.board:
        return f"evaluate one: {how}"
    also = [advised("edgeres eval", run / first.path)] if rules & _HELD_AGAINST_FIRST - {_SPEED_UP} else []
    return " and ".join((judge, *also, *([f"{how}{_where_timed(subject)}"] if rules & _BY_THE_CLOCK else [])))


def _handed_over(run: Path, asked: GateConfig) -> str:
    """What to judge instead where an optimize of the run has handed over networks; empty where none has."""
    for folder in reversed(Run(run).folders()):
        names = sorted(path.parent.name for path in folder.path.glob(f"*/{RECIPE_NAME}"))
        if names:
            usual = Run(folder.path / ("balanced" if "balanced" in names else names[0]))
            others = ", ".join(name for name in names if name != usual.name)
            beside = f" (or {others} beside it)" if others else ""
            return f"what {folder.path.name} handed over is judged by itself: {asked.again(usual, asked.on)}{beside}"
    return ""


def _only_board(here: Sequence[StageNetwork], folder: RunFolder, *, is_measured: bool) -> str:
    """The board by which the run is judged; empty for this machine."""
    end, boards = boards_judging(here, folder)
    if len(boards) > 1 and is_measured:
        raise InputError(f"{end} was measured on {' and '.join(boards)}; by which is it judged? --on {boards[-1]}")
    return boards[-1] if boards else ""


def _loss(subject: Subject) -> GateFigure:
    pair, against = _pair_in(subject)
    loss = pair.points.times(-1)
    loss = Interval(value=0.0 + loss.value, low=0.0 + loss.high, high=0.0 + loss.low)  # 0.0 + -0.0 is 0.0
    text = f"lost {loss.value:.2f} points ({loss.bounds('.2f')}){against}"
    return GateFigure(subject.end.name, loss, text, places=2)


def _agreement(subject: Subject) -> GateFigure:
    pair, against = _pair_in(subject)
    same = pair.agreement
    text = f"same top-1 on {same.value:.4f} ({same.bounds('.4f')}){against}"
    return GateFigure(subject.end.name, same, text, places=4)


def _closeness(subject: Subject) -> GateFigure:
    """The mean, 1 where the outputs are the same; raises NotMeasured if it is to another than the first network."""
    end, first, near = subject.end, subject.first, subject.end.closeness
    _check_seen(subject)
    if near is None:
        raise NotMeasured(f"{end.name} is judged by right answers: use --max-loss, --min-top1 or --min-agreement")
    if near.is_of_itself:
        raise NotMeasured(f"{end.name} is what others are held against; evaluate one that was made from it")
    kinds = [(one.name, one.dropped, one.precision) for one in subject.networks if one.sha256 == near.reference]
    name = next((name for name, *kind in kinds if kind == [first.dropped, first.precision]), None)
    if name is None:
        again = _judging(end, subject, near.dataset) + ("" if end.judged_on else " --replace")
        raise NotCounted(f"{end.name} was held against another file than {first.name}: {again}")
    is_guess = near.measure == "guess"
    value = 1 - near.mean if near.measure == "error" else near.mean
    interval = wilson(round(value * near.n), near.n) if is_guess else Interval.around(value)
    where = "" if end.judged_on else _judged_where(subject)
    text = f"{closeness_text(near)}, to {name}, {near.runtime}{where}"
    return GateFigure(end.name, interval, text, places=5, has_interval=is_guess)


def _pair_in(subject: Subject) -> tuple[Pair, str]:
    """The pair and what to say of it; raises NotMeasured, saying why there is none and what to do."""
    _right_answers(subject)
    _check_second(subject)
    first, end = in_one_place(subject.first, subject.end), subject.end
    pair = pair_of(first, end)
    if isinstance(pair, str):
        alike = judging_alike(first, end, subject.networks, subject.folder)
        raise NotMeasured(f"{pair}: {alike or _how_to_judge(first, subject)}")
    apart = f" ({told})" if (told := judged_apart(first, end)) else ""
    return pair, f" against {first.name}{apart}, n = {pair.n:,}{_judged_where(subject)}"


def _check_second(subject: Subject) -> None:
    """Raises NotMeasured where there is nothing but the first network."""
    if subject.end is subject.first:
        others = answers_in(subject.networks)
        todo = _handed_over(subject.run, subject.asked)
        if others and not todo:
            todo = subject.bench if subject.unjudged else advised("edgeres eval", subject.run / others[-1].path)
        strays = [problem for problem in subject.folder.problems if STRAY in problem]
        todo = todo or (strays or [no_second(subject.networks, subject.folder)])[-1]
        seen = "timed" if subject.unjudged else "evaluated"
        raise NotMeasured(f"only {subject.first.name} is {seen}, nothing to hold against it: {todo}")


def _right_answers(subject: Subject) -> Accuracy:
    """Raises NotMeasured where none can be counted, or the board that is named has measured nothing of the network."""
    network = subject.end
    _check_seen(subject)
    if network.accuracy is None:
        raise NotMeasured(
            f"{network.name} gives no classes or was given no labels, so no answer is right; it is judged by how near"
            " it is to the float network: --min-closeness"
        )
    return network.accuracy


def _check_seen(subject: Subject) -> None:
    if subject.unjudged:
        raise NotMeasured(subject.unjudged)
    if not subject.is_seen:
        how = _how_to_time(subject, subject.end)
        raise NotMeasured(f"nothing was measured of {subject.end.name} on {subject.board}: {how}")


def _how_to_judge(first: StageNetwork, subject: Subject) -> str:
    """The command after which the two were judged on the same images: on the larger set, where they are two."""
    end = subject.end
    if first.accuracy is None or end.accuracy is None or points_between(first, end):
        return _judging(first if first.predictions is None else end, subject)
    fewer, more = sorted((first, end), key=lambda one: one.accuracy.n if one.accuracy else 0)
    assert more.accuracy is not None
    return _judging(fewer, subject, more.accuracy.dataset) + ("" if fewer.judged_on else " --replace")


def _judging(network: StageNetwork, subject: Subject, data: str = "") -> str:
    """The command that judges it anew where it was judged, on the `data` set if one is named."""
    return advised("edgeres eval", subject.run / network.path, data=data, on=network.judged_on)


def _top1(subject: Subject) -> GateFigure:
    accuracy = _right_answers(subject)
    top1 = accuracy.interval.times(100)
    text = f"top-1 {top1.value:.2f} % ({top1.bounds('.2f')}), n = {accuracy.n:,}, {accuracy.dataset} {accuracy.split}"
    return GateFigure(subject.end.name, top1, text + _judged_where(subject), places=2)


def _p99(subject: Subject) -> GateFigure:
    latency = _latency_in(subject)
    if (calls := len(latency.samples_ms)) < P99_CALLS:
        enough_s = math.ceil(_ROOM * P99_CALLS * sum(latency.samples_ms) / calls / 1000)
        more = f"--duration-s {enough_s}" if board_in(latency.runtime) else f"--samples {P99_CALLS}"
        raise NotCounted(f"{calls} calls are too few for a p99: {subject.bench} {more}")
    return _quantile(subject, latency, 99)


def _quantile(subject: Subject, latency: Latency, q: int) -> GateFigure:
    found = percentile_interval(latency, q)
    text = f"p{q} {found.value:.3f} ms ({found.bounds()}), {_conditions(latency)}"
    return _of_a_session(subject.timed.name, found, text, latency)


def _of_a_session(stage: str, interval: Interval, text: str, latency: Latency) -> GateFigure:
    """A figure by the clock, which begins by saying so where its session is not valid."""
    doubt = doubt_in(latency)
    if not doubt or doubt == UNSURE:
        return GateFigure(stage, interval, text, is_valid=None if doubt else True)
    return GateFigure(stage, interval, f"in an INVALID session {text}", is_valid=False)


def _speedup(subject: Subject) -> GateFigure:
    if not subject.board:  # `bench --on` judges and times what is missing there in one
        _check_second(subject)
    first = subject.first
    after = _latency_in(subject, first)
    for one in (first, *held_against(subject.end, subject.networks)):
        if one is not subject.timed and one.latency and (ratio := latency_between(one, subject.timed)):
            faster = Interval.model_validate(ratio.model_dump()).inverse()
            text = f"{faster.value:.3f} times as fast ({faster.bounds()}) as {one.name}, {_conditions(after)}"
            if one.dropped != first.dropped or one.precision != first.precision:
                why = f"but {first.name}, the first network, was not timed together with it"
                raise NotCounted(f"{text}, {why}: {_how_to_time(subject, first)}")
            return _of_a_session(subject.timed.name, faster, text, after)
    why = f" ({after.note})" if after.note else ""
    raise NotMeasured(
        f"no other network was timed in its session on {after.runtime}{why}: {_how_to_time(subject, first)}"
    )


def _how_to_time(subject: Subject, *networks: StageNetwork) -> str:
    """The commands, in order, after which the networks are timed together with the others."""
    if subject.board and any(one.profile == FUSED_PROFILE for one in networks):
        return f"it was {FOR_A_CPU.format(advised('edgeres quantize', Run(subject.run)))}"
    is_torch = not subject.board and not has_file(subject.timed, [subject.timed])
    lacking = [] if is_torch else [one for one in networks if not has_file(one, subject.networks)]
    exports = dict.fromkeys(advised("edgeres export", subject.run / one.path) for one in lacking)
    return " and ".join((*exports, subject.bench))


def _file_size(subject: Subject) -> GateFigure:
    end = subject.end
    text = f"{size(end.size_bytes)} ({end.size_bytes:,} bytes), {end.path}"
    return GateFigure(end.name, Interval.around(end.size_bytes), text)


def _latency_in(subject: Subject, *beside: StageNetwork) -> Latency:
    """Of what is timed; raises NotMeasured with the commands that time it and what it is held against, `beside`."""
    name, reason, latency = subject.timed.name, subject.timed.not_timed, subject.timed.latency
    if latency is not None:
        return latency
    how = _how_to_time(subject, *beside, subject.timed)
    if subject.board:
        is_of_here = reason == NOT_TIMED or FOR_TENSORRT in reason
        reason = f"{NOT_TIMED} on {subject.board}" if is_of_here else reason
        raise (NotMeasured if NOT_TIMED in reason else NotCounted)(f"{name} was {reason}: {how}")
    if FOR_TENSORRT in reason:
        raise NotMeasured(f"{name} was {reason.partition(';')[0]}: {how}{_where_timed(subject)}")
    raise NotMeasured(f"{name} was {reason}" + (f": {how}" if reason == NOT_TIMED else ""))


def _where_timed(subject: Subject) -> str:
    """What a session of here lacks to time what is `timed`: a board, by which a gate of `here` is to judge then."""
    if FOR_TENSORRT not in subject.timed.not_timed:
        return ""
    return " --on BOARD" + (f" and {subject.asked.again(Run(subject.run), 'BOARD')}" if subject.asked.on else "")


def _conditions(latency: Latency) -> str:
    threads = f"{threads_text(latency.threads)}, " if latency.threads else ""
    text = f"n = {len(latency.samples_ms):,}, batch {latency.batch}, {threads}{latency.runtime}"
    return f"{text}; {latency.note}" if latency.note else text


def _judged_where(subject: Subject) -> str:
    """Which machine judged, where a board is judged by."""
    board = subject.end.judged_on
    return f", on {board}" if board else f", here and not on {subject.board}" if subject.board else ""


FIGURES: dict[str, Callable[[Subject], GateFigure]] = {
    "max_loss": _loss,
    "min_top1": _top1,
    "min_agreement": _agreement,
    "min_closeness": _closeness,
    "max_p50": lambda subject: _quantile(subject, _latency_in(subject), 50),
    "max_p99": _p99,
    "min_speedup": _speedup,
    "max_size": _file_size,
}
