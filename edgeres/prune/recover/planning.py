"""Where the training of a recovery starts, fixed once: weights after bn and solve, and how many steps there are.

    start.safetensors   the weights, a checkpoint
    start.json          the `Planned`, kept under everything it depends on

A resumed call finds them and so keeps the same plan, whatever time is left. The steps that fit into a budget come from
a few steps timed on a copy, data and optimiser included.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.processes import agreed, wait_for_all
from edgeres.core.records.recovery import WITHOUT_STEPS
from edgeres.core.resuming import Kept
from edgeres.data import Split, data_fingerprint
from edgeres.models import modules_of
from edgeres.models.network import Network, in_fast_layout
from edgeres.models.weights import Weights, load_folded, load_network, load_weights, save_checkpoint
from edgeres.prune.config import MOST_EPOCHS, USUAL_EPOCHS, RecoverConfig
from edgeres.prune.recover.budget import FEWEST_STEPS, LOOKS, Budget, ImageTime, pace_of
from edgeres.prune.recover.losses import (
    HeldOutScore,
    even_batches,
    modules_called,
    objective_for,
    reestimate_batch_norms,
    shared_modules,
)
from edgeres.prune.recover.solve import Material, Solved, solve
from edgeres.train.batches import Batches, accelerator_for, batches_for, slice_for
from edgeres.train.objectives import Objective, optimizer_for
from edgeres.train.schedule import weights_of

_START_NAME, _PLAN_NAME, _PLAN = "start.safetensors", "start.json", "plan"
_TRIAL_STEPS = (3, 12)  # timed, after one that is not
_TRIAL_SHARE = 0.04  # of the budget
_WARMUP_SHARE = 0.1  # of the steps, at most
_SOLVE_SHARE = 0.4  # of a budget that has to do for steps too, at most
_AT_LEAST = 0.5  # of the time that an image takes among few, it takes among many


class Planned(Record):
    """How the training goes: `refines` what was solved, or begins anew; `figures` are scores on held-out images."""

    steps: int = 0
    solved: Solved | None = None
    refines: bool = False
    warmup: int = 0
    look_every: int = 1
    figures: dict[str, float]


class _Begun(NamedTuple):
    """What there is before solving; `figures` as in `Planned`."""

    weights: Weights
    pace: ImageTime
    figures: dict[str, float]


@dataclass(frozen=True)
class Job:
    """What a recovery works with; networks are loaded when first needed.

    `begun_s`: when the budget began to run, on time.perf_counter.
    """

    source: Checkpoint
    teacher: Checkpoint | None
    config: RecoverConfig
    learn: Split
    held_out: Split | None
    begun_s: float

    @cached_property
    def teaching(self) -> Network | None:
        """The teacher, folded and frozen."""
        return None if self.teacher is None else load_folded(self.teacher).requires_grad_(False).to(self.device)

    @cached_property
    def data(self) -> Batches:
        """The images to learn from, decoded once."""
        return batches_for(self.learn, self.source.spec, self.config)

    @cached_property
    def shared(self) -> tuple[list[str], set[str]]:
        """(the leading modules that stay as they are, their names and those of what the stem calls)."""
        if self.teacher is None or self.config.scope == "all":
            return [], set()
        network, names = load_network(self.source), [info.name for info in modules_of(self.source.spec)]
        stem = modules_called(network, lambda: network.stem(self._no_image))
        leading = shared_modules(network.state_dict(), load_weights(self.teacher), names, stem)
        return leading, {*leading, *stem} if leading else set()

    def freeze_in(self, network: Network, *, refines: bool) -> None:
        """Takes out of training what is shared, the classifier if no method looks at logits, biases if it `refines`.

        Those and the batch norms' gained nothing: KL 0.0584 without, 0.0580 with them (ResNet-56, 12 dropped).
        """
        frozen = set(self.shared[1])
        if {"distill", "finetune"}.isdisjoint(self.config.method):
            image = self._no_image.to(next(network.parameters()).device)
            with torch.no_grad():
                features = network.eval().features(image)
            frozen |= modules_called(network, lambda: network.classify(features))
        for name, module in network.named_modules():
            if name in frozen:
                module.requires_grad_(False)
        if refines:
            for vector in (one for one in network.parameters() if one.ndim < 2):
                vector.requires_grad_(False)

    @cached_property
    def objective(self) -> Objective:
        """The loss, what a network shares with the teacher computed once."""
        spec = self.source.spec
        return objective_for(self.teaching, self.config, shared=self.shared[0], task=spec.task, sizes=spec.sizes)

    @cached_property
    def score(self) -> HeldOutScore | None:
        """The judge of what the network has become; None if there is nothing to judge by."""
        on = self.judged_on
        return None if on is None else HeldOutScore(on, self.source.spec, self.teaching, self.config.method)

    @property
    def judged_on(self) -> Split | None:
        """The held-out images, too few to share: all; none without labels and a teacher to compare with."""
        return (self.held_out or self.learn) if "finetune" in self.config.method or self.teacher else None

    def kept_in(self, out_dir: Path) -> Kept[Planned]:
        """The plan, under everything it depends on."""
        options = self.config.model_dump(mode="json", exclude={*self.config.incidental, "teacher"})
        files = [self.source.sha256, self.teacher.sha256 if self.teacher else None]
        key = json.dumps([files, options, data_fingerprint(self.config.data)])
        return Kept(out_dir / _PLAN_NAME, key, Planned)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        device: torch.device = accelerator_for(self.config.precision).device
        return device

    @property
    def budget(self) -> Budget:
        """The time there is; without one, the epochs asked for say how many steps."""
        epochs = self.config.epochs or (USUAL_EPOCHS if self.config.budget is None else MOST_EPOCHS)
        return Budget(self.config, self.begun_s, epochs * (len(self.learn) // self.config.batch))

    @property
    def _no_image(self) -> torch.Tensor:
        return torch.zeros(1, *self.source.spec.input_shape)


def prepared(job: Job, out_dir: Path) -> tuple[Network, Planned]:
    """The network to train and the plan in `out_dir`, made there by the main process if they are not there yet.

    Solving is for all processes. Raises InputError if the budget is too short.
    """
    start = Checkpoint(out_dir / _START_NAME)
    if job.config.threads is not None:
        torch.set_num_threads(job.config.threads)

    def begun() -> _Begun | None:
        with contextlib.suppress(InputError):  # missing or damaged
            if job.kept_in(out_dir).records and load_weights(start):
                return None
        return _begun(job)

    def kept(network: Network, planned: Planned) -> None:
        spec, parent = job.source.spec, job.source.sha256
        save_checkpoint(network.state_dict(), spec, start.path, stage="recover", parent=parent)
        job.kept_in(out_dir).keep(_PLAN, planned)

    if (so_far := agreed(begun)) is not None:
        network = in_fast_layout(load_network(job.source)).to(job.device)
        network.load_state_dict(so_far.weights)
        solved = _solved(network, job) if "solve" in job.config.method else None
        agreed(lambda: kept(network, _planned(network, job, so_far, solved)))
    network, planned = load_network(start), job.kept_in(out_dir).records[_PLAN]
    wait_for_all()  # until every process has read them
    job.freeze_in(network, refines=planned.refines)
    return network, planned


def clear_start(out_dir: Path) -> None:
    """Removes what `prepared` left there."""
    for name in (_START_NAME, _PLAN_NAME):
        (out_dir / name).unlink(missing_ok=True)


def _begun(job: Job) -> _Begun:
    """The network after bn, its pace and its figures."""
    network, pace = timed_network(job)
    figures: dict[str, float] = {}
    if job.score is not None:
        figures["held_out_first"], pace = _looked(network, job, pace)
    if "bn" in job.config.method:
        _check_time(job, pace, looks=1 + ("solve" in job.config.method))
        images = (x.to(job.device) for x in even_batches(job.learn, job.source.spec))
        reestimate_batch_norms(network, images, keep=job.shared[1])
        if job.score is not None:
            figures["held_out_bn"], pace = _looked(network, job, pace)
    if "solve" in job.config.method:
        _check_time(job, pace, looks=1)
    return _Begun(weights_of(network), pace, figures)


def _solved(network: Network, job: Job) -> Solved:
    """What became of the modules of `network`, which is refitted in place."""
    assert job.teaching is not None
    material = Material(job.learn, job.held_out, job.source.spec, job.shared[0], job.config.seed)
    until_s = None
    if job.config.budget_s is not None:
        until_s = job.begun_s + (_SOLVE_SHARE if job.config.trains else 1.0) * job.config.budget_s
    late = job.config.course.out_of_time if job.config.course else ()
    found = solve(network, job.teaching, material, until_s=until_s, late=late)
    if found.out_of_time and not (late or job.config.trains or found.refitted):
        job.budget.check_time(job.config.budget_s or 0.0)
    return found


def _planned(network: Network, job: Job, begun: _Begun, solved: Solved | None) -> Planned:
    """The plan; `network` is as it was before it was solved if that did harm on held-out images."""
    (weights, pace, figures), refines = begun, solved is not None and bool(solved.refitted)
    if solved is not None and job.score is not None:
        figures["held_out_solve"] = job.score(network)
        if figures["held_out_solve"] > figures.get("held_out_bn", figures["held_out_first"]):
            network.load_state_dict(weights)
            refines = False
    if not job.config.trains:
        return Planned(solved=solved, figures=figures)
    steps = _steps(network, job, pace, refines=refines)
    wanted = round(job.config.warmup_epochs * (len(job.learn) // job.config.batch))
    warmup = min(wanted, max(1, round(_WARMUP_SHARE * steps)))
    return Planned(
        steps=steps,
        solved=solved,
        refines=refines,
        warmup=warmup,
        look_every=max(1, round(steps / LOOKS)),
        figures=figures,
    )


def timed_network(job: Job) -> tuple[Network, ImageTime]:
    """The network as it came, and the least that images will take.

    Raises InputError if the budget is too short even for that.
    """
    network = in_fast_layout(load_network(job.source)).to(job.device)
    if job.config.budget_s is None:
        return network, ImageTime(0.0, 0.0)
    limit_s = _TRIAL_SHARE * job.config.budget_s
    found = pace_of(network, job.judged_on or job.learn, job.source.spec, limit_s=limit_s)
    pace = ImageTime(_AT_LEAST * found.read_s, _AT_LEAST * found.see_s)
    _check_time(job, pace, looks=2 + len(WITHOUT_STEPS & {*job.config.method}), unread=len(job.judged_on or ()))
    return network, pace


def _looked(network: Network, job: Job, pace: ImageTime) -> tuple[float, ImageTime]:
    """(the score on held-out images, the pace now that it is known how long they take to be seen)."""
    assert job.score is not None
    assert job.judged_on is not None
    begun_s = time.perf_counter()
    score = job.score(network)
    return score, ImageTime(pace.read_s, (time.perf_counter() - begun_s) / len(job.judged_on))


def _check_time(job: Job, pace: ImageTime, *, looks: int, unread: int = 0) -> None:
    """Raises InputError if the budget is too short for what is to come, `looks` of it before the first step.

    A step takes no less than seeing its images once; solving may take its share. `unread`: held-out images that are
    still to be read.
    """
    judged, bn = len(job.judged_on or ()), len(job.learn) if "bn" in job.config.method else 0
    read = unread + (bn or min(len(job.learn), FEWEST_STEPS * job.config.batch) * job.config.trains)
    ahead_s = (looks * judged + bn) * pace.see_s + read * pace.read_s
    solving = _SOLVE_SHARE if "solve" in job.config.method and job.config.trains else 0.0
    step_s, look_s = job.config.batch * pace.see_s, judged * pace.see_s
    job.budget.steps(step_s=step_s, look_s=look_s, ahead_s=ahead_s, solving=solving)


def _steps(network: Network, job: Job, pace: ImageTime, *, refines: bool) -> int:
    """As many as the epochs ask for or the budget has room for, whichever are fewer; a few are taken on a copy.

    None at all may be too few, but not after methods without steps: what those have made is kept.
    """
    if job.config.course is not None:
        return job.config.course.planned_steps
    if job.config.budget_s is None:
        return job.budget.most
    look_s, (fewest, most) = len(job.judged_on or ()) * pace.see_s, _TRIAL_STEPS
    fewest_steps = FEWEST_STEPS if WITHOUT_STEPS.isdisjoint(job.config.method) else 0
    durations_s: list[float] = []
    for step_s in _timed_steps(network, job, 1 + most, refines=refines):
        durations_s.append(step_s)
        if len(durations_s) > 1:
            steps = job.budget.steps(step_s=fmean(durations_s[1:]), look_s=look_s, fewest=fewest_steps)
            if not steps:
                break
        if len(durations_s) > fewest and sum(durations_s) > _TRIAL_SHARE * job.config.budget_s:
            break
    return steps


def _timed_steps(network: Network, job: Job, count: int, *, refines: bool) -> Iterator[float]:
    """Seconds of each of the first steps, on a copy; what processes tell each other is left out."""
    config, trial, accelerator = job.config, copy.deepcopy(network), accelerator_for(job.config.precision)
    job.freeze_in(trial, refines=refines)
    job.data.load()
    optimizer = optimizer_for(trial, config, refines=refines)
    last_s = time.perf_counter()
    for images, labels in job.data.from_step(0, count, slice_for(config, accelerator, is_shared=False)):
        optimizer.zero_grad()
        with accelerator.autocast():
            loss = job.objective(trial, images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())  # waits for a GPU
        yield time.perf_counter() - last_s
        last_s = time.perf_counter()
