"""Makes a network without some modules, in float and in INT8, judges both on held-out train images and times them.

What is made lies in NN-optimize/tried/less-08/, a stage a folder as in any run; interrupted, what is there is reused.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from edgeres.bench.config import BenchConfig
from edgeres.bench.stage import Session, measure
from edgeres.bench.validity import RUN_AGAIN
from edgeres.core.artifacts import FUSED_PROFILE, Checkpoint, Model
from edgeres.core.config import Config
from edgeres.core.distances import LOST_OF, MEASURE_OF
from edgeres.core.environment import default_threads
from edgeres.core.metrics import Interval, fixed, paired_difference
from edgeres.core.progress import quiet
from edgeres.core.records.frontier import Precision, Tried, meets, time_of
from edgeres.core.records.latency import LatencyTable
from edgeres.core.resuming import Kept
from edgeres.core.runs import Run, StageFolder
from edgeres.core.stage import REPORT_NAME
from edgeres.core.statistics import percentile_interval, ratio_interval
from edgeres.data import Dataset, Split, dataset_for
from edgeres.evaluate.closeness import lost_of, nearness_of
from edgeres.evaluate.stage import accuracy_of
from edgeres.export.stage import ExportConfig
from edgeres.models import modules_of
from edgeres.optimize.config import FEWEST_JUDGED, OptimizeConfig, calibration_of, held_out_of, refined_on
from edgeres.optimize.plan import WHOLE, Shortened
from edgeres.pipeline.eval_bench import report_with
from edgeres.pipeline.stages import execute, stage_key
from edgeres.quantize.config import CalibrateConfig, QuantizeConfig

Measure = Callable[[Sequence[Model], BenchConfig, Sequence[str]], Session]
MOST_JUDGED = 5000
EFFORT: Literal["quick"] = "quick"  # of quantize: more would learn from images that are judged on
_CHOOSING_MACS = 3e9  # a second of budget, for each module and image: few images choose one of many sets by luck
_JUDGING_SHARE = 0.01  # of the budget, to judge the whole float network
_VAL_SHARE = 0.1  # of the budget, kept to judge the results on val
_VAL_SPARE = 2  # times what judging more images takes: beside other work it took twice as long
_FEWEST_ON_VAL = 500
MOST_ANSWERS = 3
_FILES, _PAGE_S = 5, 4.0  # of a result: networks on the clock; seconds of page and pictures
_BENCH_SHARE, _SHORTEST_S, _LONGEST_S = 1 / 600, 0.5, 2.0  # of the budget, for each of them
_BENCH_TIMES = 3  # so much: warming up, calls, and the whole way from the image file
_SPARE = 1.2  # times what the end takes
_START_S = 1.0  # of a network on the clock, as long as none was seen there
_PACE_IMAGES = 16, 64, 256  # ever more of them, as beginning takes time too,
_PACE_LIMIT_S = 0.5  # until that takes as long
_TURN_S, _ROUNDS = 1.5, 10  # of each network in the session that tries one
_FAR = 0.07  # from the share foreseen: 0.541 in place of 0.495 was a disturbance, 0.676 of 0.647 was not
_SECONDS, _LAST_ROUNDS = 3.0, 20  # of the session that decides
log = logging.getLogger(__name__)


def measure_here(models: Sequence[Model], config: BenchConfig, names: Sequence[str]) -> Session:
    """On this machine; warnings name what is tried, whose files are gone by the end."""
    return measure(models, config, names=names)


@dataclass(frozen=True)
class Place:
    """Where networks are to run: `profile` says who runs the INT8 files, `measure` times files, each with its name.

    `costs` tells what each module costs by one file; without it shortened networks are timed, here. `hand_over` adds to
    the run of a result what was made and measured of its files there. `prepare` makes what `measure` needs of files and
    says how many seconds it was spared by what an earlier call had made. `session_s`: the least that timing the whole
    network in float and INT8 takes.
    """

    profile: str = FUSED_PROFILE
    measure: Measure = measure_here
    costs: Callable[[Model, Path], LatencyTable] | None = None
    hand_over: Callable[[Run], None] = lambda run: None
    prepare: Callable[[Sequence[Model]], float] = lambda models: 0.0
    session_s: float = 2 * _TURN_S

    def measure_files(self, models: Sequence[Model], config: BenchConfig) -> Session:
        """Files without names of their own."""
        return self.measure(models, config, ())

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, on which the results are evaluated and timed in any case."""
        return self.costs is None


HERE = Place()


@dataclass
class Workbench:
    """Makes networks and tries them where they are to run."""

    source: Checkpoint
    config: OptimizeConfig
    out_dir: Path
    place: Place = HERE
    last: Session = field(default=Session(()), init=False)  # on the clock
    start_s: float = field(default=_START_S, init=False)  # of a network in a session, the slowest seen
    spared_s: float = field(default=0.0, init=False)  # by what earlier calls had made
    last_pace_s: float = field(default=0.0, init=False)  # of an image of the last try's networks, the slower
    on_val: int = field(default=0, init=False)  # images that the results are judged on, once that is known

    def at(self, budget_s: float) -> Workbench:
        """The same, as far as is known of it, with another budget."""
        other = copy(self)
        other.config = self.config.model_copy(update={"budget": f"{math.ceil(budget_s)}s"})
        other.__dict__.pop("judged_on", None)
        return other

    @cached_property
    def kept(self) -> Kept[tuple[Tried, ...]]:
        """Sets of modules, in words -> what was found of them."""
        return Kept(self.out_dir / "tried.json", self.source.sha256, tuple[Tried, ...])

    @cached_property
    def dataset(self) -> Dataset:
        """The user's images."""
        return dataset_for(self.source.spec, self.config.data, download=self.config.download)

    @property
    def images(self) -> int:
        """Of train to choose and refit on: as asked for, a third of them where there are fewer."""
        return self.images_for("")

    @property
    def choose_on(self) -> int:
        """Of train to choose modules on: twice as many where the budget is long for the network."""
        work = max(self.exported().card.cost.macs, 1) * len(modules_of(self.source.spec))
        fitting = int(_CHOOSING_MACS * self.config.budget_s / work)
        return min(max(self.images, min(fitting, 2 * self.config.images)), len(self.dataset.train) // 3)

    @cached_property
    def calibration(self) -> CalibrateConfig:
        """The images that scales come from."""
        return calibration_of(self.dataset.train, self.config)

    def images_for(self, refined: str) -> int:
        """Of train to make up for what is cut, with or without training."""
        return min(refined_on(self.config) if refined else self.config.images, len(self.dataset.train) // 3)

    @cached_property
    def held_out(self) -> Split:
        """The train images to judge on, which nothing else looks at; raises InputError if they are too few."""
        return held_out_of(self.dataset.train, self.config)

    def trained_before(self, dropped: Sequence[str]) -> str:
        """The time in which an interrupted call has trained what is left without these modules; empty if it has not."""
        known = (one for tried in self.kept.records.values() for one in tried)
        return next((one.refined for one in known if one.refined and {*one.dropped} == {*dropped}), "")

    def folder(self, cut: Shortened) -> Path:
        """Where the files of the network lie."""
        which = hashlib.sha256(cut.name.encode()).hexdigest()[:4]
        return self.out_dir / "tried" / (f"less-{len(cut.dropped):02}-{which}" if cut.dropped else "whole")

    def exported(self, cut: Shortened = WHOLE) -> Model:
        """The network, refitted where it is cut, as float ONNX."""
        folder, checkpoint = self.folder(cut), self.source
        if cut.dropped:
            made = self._made(
                "prune", self.source, self.config.cut(cut.dropped, self.images_for(cut.refined), cut.refined), folder
            )
            assert isinstance(made, Checkpoint)
            checkpoint = made
        return self._made("export", checkpoint, ExportConfig(batch=self.config.batch), folder)

    def in_precision(self, precision: Precision, cut: Shortened = WHOLE) -> Model:
        """The ONNX file of the network."""
        model, folder = self.exported(cut), self.folder(cut)
        if precision == "fp32":
            return model
        self._made("calibrate", model, self.calibration, folder)
        scales = next(folder.glob("*-calibrate")) / "scales.json"
        how = QuantizeConfig(scales=scales, profile=self.place.profile, effort=EFFORT, data=self.config.data)
        return self._made("quantize", model, how, folder)

    def attempt(
        self, cut: Shortened, precisions: Sequence[Precision], told: Interval | None = None
    ) -> tuple[Tried, ...]:
        """In each precision: judged, and timed with the whole float network; once more, longer, where that is doubtful.

        `told` is the share of that network's latency which was predicted for the last precision.
        """
        if (known := self.kept.records.get(cut.name)) is not None:
            return known
        began_s, nothing, self.last_pace_s = time.perf_counter(), Interval.around(math.nan), 0.0
        asked = [
            Tried(**cut._asdict(), precision=one, lost_points=nothing, ratio=nothing, latency_ms=nothing)
            for one in precisions
        ]
        lost = [self._lost(self.in_precision(one.precision, cut)) for one in asked]
        n = len(self.judged_on)
        judged = [one.model_copy(update={"lost_points": of, "n": n}) for one, of in zip(asked, lost, strict=True)]
        tried = self.timed(judged, seconds=_TURN_S, rounds=_ROUNDS)
        if self._is_doubtful(tried[-1], told):
            log.info("%s: %.3f of the latency is doubtful, timed once more", tried[-1].name, tried[-1].ratio.value)
            tried = self.timed(tried)
        for one in tried:
            log.info(
                "%s: %.3f of the latency, %s %s lost (%.0f s)",
                *(one.name, one.ratio.value, fixed(one.lost_points.value, 2), self.lost_are),
                time.perf_counter() - began_s,
            )
        return self.kept.keep(cut.name, tuple(tried))

    def timed(self, tried: Sequence[Tried], *, seconds: float = _SECONDS, rounds: int = _LAST_ROUNDS) -> list[Tried]:
        """The same with the figures of one session, in which they and the whole float network take turns.

        Those that differ in their weights alone are one there, the last: chance would tell them apart.
        """
        whole = self.exported()
        models = {(one.dropped, one.precision): self.in_precision(one.precision, shortened_of(one)) for one in tried}
        names = {whole.sha256: "whole, fp32"} | {models[one.dropped, one.precision].sha256: one.name for one in tried}
        distinct = {one.sha256: one for one in (whole, *models.values())}
        own = {
            "batch": self.config.batch,
            "seed": self.config.seed,
            "threads": self.config.threads or default_threads(),
        }
        how = BenchConfig(seconds=seconds, rounds=rounds, samples=rounds, **own)
        self.spared_s += self.place.prepare(list(distinct.values()))
        began_s = time.perf_counter()
        held = self.place.measure(list(distinct.values()), how, [names[sha256] for sha256 in distinct])
        again = f"{RUN_AGAIN}: the same edgeres optimize with --seed {self.config.seed + 1}"  # else it shows this one
        self.last = held._replace(warnings=tuple(one.replace(RUN_AGAIN, again) for one in held.warnings))
        self.start_s = max(self.start_s, (time.perf_counter() - began_s) / len(distinct) - seconds)
        latencies, found = dict(zip(distinct, self.last.latencies, strict=True)), []
        for one in tried:
            model = models[one.dropped, one.precision]
            latency, base = latencies[model.sha256], latencies[whole.sha256]
            ratio = Interval.around(1.0) if model.sha256 == whole.sha256 else ratio_interval(base, latency)
            found.append(one.model_copy(update={"ratio": ratio, "latency_ms": percentile_interval(latency, 50)}))
        return found

    def _is_doubtful(self, one: Tried, told: Interval | None) -> bool:
        """Whether its interval holds the goal, or it was foreseen to be beyond and a disturbance may have decided."""
        aim = self.config.aim
        if aim is None:
            return False
        took, off = time_of(one, aim), told.value / one.ratio.value if told else 1.0
        is_disturbed = self.last.verdict != "steady" or abs(off - 1) > _FAR
        is_beyond = (took.value * off <= aim.value) != meets(one, aim)
        return took.low <= aim.value <= took.high or (is_beyond and is_disturbed)

    @property
    def kept_on_val(self) -> int:
        """How many val images time is kept for: all, or what takes a share of the budget."""
        fitting = int(_VAL_SHARE * self.config.budget_s / (evaluated(MOST_ANSWERS) * self._pace_now_s))
        return min(len(self.dataset.val), max(fitting, _FEWEST_ON_VAL))

    def val_within(self, left_s: float, results: Collection[Tried]) -> int:
        """How many val images there is time for, with these different networks to hand over."""
        networks = evaluated(0) + sum(2 * bool(one.dropped) + (one.precision == "int8") for one in results)
        more = (left_s - self.ending_s(len(results))) / (_VAL_SPARE * networks * self._pace_now_s)
        return min(len(self.dataset.val), self.kept_on_val + max(0, int(more)))

    def ending_s(self, answers: int = MOST_ANSWERS) -> float:
        """What so many results will take, at the pace of what was judged and timed; of a mere plan there are none."""
        if self.config.plan_only:
            return 0.0
        start_s = self.start_s if self.place.is_here else _START_S
        judging_s = evaluated(answers) * self._pace_now_s * self.kept_on_val
        return _SPARE * (judging_s + answers * _timed_s(self.bench_s, start_s))

    @property
    def judging_s(self) -> float:
        """What judging the whole network, twice and on few images, takes at least."""
        return self._pace_s * (self.calibration.images + 2 * len(self.judged_on))

    @property
    def bench_s(self) -> float:
        """For each network on the clock of a result."""
        return round(min(max(_BENCH_SHARE * self.config.budget_s, _SHORTEST_S), _LONGEST_S), 1)

    @property
    def is_labelled(self) -> bool:
        """Whether labels say what is right; otherwise the whole float network does."""
        return self.source.spec.task == "classes" and self.dataset.train.is_labelled

    @property
    def lost_are(self) -> str:
        """What a hundredth that is lost is called."""
        if (task := self.source.spec.task) == "classes":
            return "points" if self.is_labelled else "points of same guess"
        return LOST_OF[MEASURE_OF[task]]

    @cached_property
    def judged_on(self) -> Split:
        """The held-out images: as many as the budget allows, or as an interrupted call has judged on."""
        before = [one.n for tried in self.kept.records.values() for one in tried]
        fitting = before[0] if before else int(_JUDGING_SHARE * self.config.budget_s / self._pace_s)
        return self.held_out.sample(min(MOST_JUDGED, len(self.held_out), max(fitting, 2 * FEWEST_JUDGED)), 0)

    @property
    def _pace_now_s(self) -> float:
        """Seconds an image, as seen last."""
        return self.last_pace_s or self._pace_s

    @cached_property
    def _pace_s(self) -> float:
        """Seconds for the whole float network to read and judge an image."""
        whole, image_s = self.exported(), 0.0
        for count in _PACE_IMAGES:
            few, began_s = self.held_out.sample(min(count, len(self.held_out)), 0), time.perf_counter()
            nearness_of(whole, whole, self.dataset, few, threads=self.config.threads)
            took_s = time.perf_counter() - began_s
            image_s = took_s / len(few)
            if took_s > _PACE_LIMIT_S:
                break
        return image_s

    def _lost(self, model: Model) -> Interval:
        """Points lost against the whole float network on the same images; without labels hundredths of nearness."""
        if not self.is_labelled:
            whole, threads = self.exported(), self.config.threads
            near, half = nearness_of(model, whole, self.dataset, self.judged_on, threads=threads)
            return Interval.around(100 * lost_of(near), 100 * half)
        change, half = paired_difference(self._whole_right, self._right(model))
        return Interval.around(0.0 - 100 * change, 100 * half)

    @cached_property
    def _whole_right(self) -> Sequence[bool]:
        return self._right(self.exported())

    def _right(self, model: Model) -> Sequence[bool]:
        """Of each image judged on, whether the first guess is right."""
        path, dataset = self.out_dir / "guesses.npy", replace(self.dataset, train=self.judged_on)
        began_s = time.perf_counter()
        accuracy_of(model, dataset, split="train", threads=self.config.threads, out=path)
        self.last_pace_s = max(self.last_pace_s, (time.perf_counter() - began_s) / len(self.judged_on))
        guesses, labels = np.load(path, allow_pickle=False).T
        path.unlink()
        return list(guesses == labels)

    def _made(self, stage: str, source: Model, config: Config, folder: Path) -> Model:
        """What the stage makes of `source`, or made before, in `folder`/NN-stage."""
        key = stage_key(stage, source, config)
        place = next(iter(sorted(folder.glob(f"*-{stage}"))), None)
        if place is None or not report_with(place / REPORT_NAME, key):
            place = place or folder / f"{self._number(folder):02}-{stage}"
            place.mkdir(parents=True, exist_ok=True)
            with quiet("edgeres"):
                execute(stage, source, config, place, key)
        model = StageFolder(place, 0, stage).model()
        return source if model is None else model

    def _number(self, folder: Path) -> int:
        """Of the next stage in `folder`, as in the recipes of results: what brings the network, and its export."""
        first = 1 if folder == self.folder(WHOLE) else 2
        return first + sum((one / REPORT_NAME).is_file() for one in folder.glob("*-*"))


def _timed_s(bench_s: float, start_s: float) -> float:
    """The session and the page of a result; a busy machine is slow at everything."""
    return _FILES * (_BENCH_TIMES * bench_s + start_s) + _PAGE_S * max(1.0, start_s)


LEAST_ENDING_S = _SPARE * _timed_s(_SHORTEST_S, _START_S)  # of one result, whatever the network


def evaluated(answers: int) -> int:
    """Networks judged on val, at most, for so many results: whole twice, then three files each."""
    return 2 + 3 * answers


def shortened_of(one: Tried) -> Shortened:
    """What it lacks."""
    return Shortened(one.dropped, one.refined)
