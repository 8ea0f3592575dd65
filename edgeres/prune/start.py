"""Where the training of a recovery starts, fixed once: weights after bn, and how many steps there are.

    start.safetensors   the weights; metadata {"identity", "plan": {steps, warmup, look_every, figures}}

A resumed call finds the file and so keeps the same plan, whatever time is left; with another identity it is made
anew. The steps that fit into a budget come from a few steps timed on a copy, data and optimiser included.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch
from safetensors import safe_open
from safetensors.torch import save

from edgeres.core.artifacts import Checkpoint
from edgeres.core.durations import text_from
from edgeres.core.errors import InputError
from edgeres.core.files import write_bytes
from edgeres.data import Split, data_fingerprint
from edgeres.models import modules_of
from edgeres.models.fold import load_folded
from edgeres.models.network import Network
from edgeres.models.weights import load_network, load_weights
from edgeres.prune.config import MOST_EPOCHS, USUAL_EPOCHS, RecoverConfig
from edgeres.prune.methods import (
    HeldOutScore,
    even_batches,
    objective_for,
    reestimate_batch_norms,
)
from edgeres.prune.shared import classifier_modules, freeze, shared_count, stem_modules
from edgeres.train.batches import batches_for
from edgeres.train.objectives import Objective, decay_groups
from edgeres.train.processes import accelerator_for, agreed_text, slice_for

START_NAME = "start.safetensors"
LOOKS = 10
_FEWEST_STEPS = 10
_TRIAL_STEPS = (3, 12)  # timed, after one that is not
_TRIAL_SHARE = 0.04  # of the budget
_WARMUP_SHARE = 0.1  # of the steps, at most
_SPARE_SHARE = 0.03  # of the budget, for saving and for steps slower than the timed ones


@dataclass(frozen=True)
class Job:
    """What a recovery works with; networks are loaded when first needed."""

    source: Checkpoint
    teacher: Checkpoint | None
    config: RecoverConfig
    learn: Split
    held_out: Split | None

    @property
    def seen(self) -> tuple[int, int]:
        """Images learnt from, images held out."""
        return len(self.learn), len(self.held_out) if self.held_out is not None else 0

    @cached_property
    def teaching(self) -> Network | None:
        """The teacher, folded and frozen."""
        return None if self.teacher is None else load_folded(self.teacher).requires_grad_(False)

    @cached_property
    def names(self) -> list[str]:
        """The original modules in order of execution."""
        return [info.name for info in modules_of(self.source.spec)]

    def shared_in(self, network: Network) -> tuple[int, set[str]]:
        """(how many leading modules of `network` are left as they are, the names of these and of the stem's)."""
        if self.teacher is None or self.config.scope == "all":
            return 0, set()
        stem = stem_modules(network, self.source.spec.input_shape)
        count = shared_count(network, load_weights(self.teacher), self.names, stem)
        return count, {*self.names[:count], *stem} if count else set()

    def freeze_in(self, network: Network) -> None:
        """Takes out of training what is shared, and the classifier if no method looks at logits."""
        freeze(network, self.shared_in(network)[1])
        if {"distill", "finetune"}.isdisjoint(self.config.method):
            freeze(network, classifier_modules(network, self.source.spec.input_shape))

    def objective_on(self, network: Network) -> Objective:
        """The loss for `network`, what it shares with the teacher computed once."""
        return objective_for(self.teaching, self.source.spec, self.config, shared=self.shared_in(network)[0])

    @cached_property
    def score(self) -> HeldOutScore | None:
        """The judge on held-out images; None if there are none, or neither labels nor a teacher to compare with."""
        if self.held_out is None or not ("finetune" in self.config.method or self.teacher):
            return None
        return HeldOutScore(self.held_out, self.source.spec, self.teaching, self.config.method)

    @cached_property
    def identity(self) -> str:
        """Everything the start depends on, as JSON."""
        options = self.config.model_dump(mode="json", exclude={*self.config.incidental, "teacher"})
        files = [self.source.sha256, self.teacher.sha256 if self.teacher else None]
        return json.dumps([files, options, data_fingerprint(self.config.data)])


@dataclass(frozen=True)
class Start:
    """The network to train and the plan; `figures` are scores on held-out images so far, and `planned_steps`."""

    network: Network
    steps: int
    warmup: int
    look_every: int
    figures: dict[str, float]


def started(job: Job, out_dir: Path, *, begun_s: float) -> Start:
    """The start in `out_dir`, made there by the main process if it is not there yet.

    `begun_s`: when the budget began to run, on time.perf_counter. Raises InputError if the budget is too short.
    """

    def make() -> str:
        if _plan_in(out_dir, job) is None:
            _make(job, out_dir, begun_s)
        return "made"

    if job.config.threads is not None:
        torch.set_num_threads(job.config.threads)
    agreed_text(make)
    network = load_network(job.source)
    with safe_open(out_dir / START_NAME, "pt") as file:
        network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        plan = json.loads(file.metadata()["plan"])
    job.freeze_in(network)
    return Start(network, **plan)


def _plan_in(out_dir: Path, job: Job) -> str | None:
    path = out_dir / START_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except Exception as err:  # safetensors raises its own SafetensorError, a bare Exception
        raise InputError(f"{path} is damaged; remove it to start over") from err
    return metadata.get("plan") if metadata.get("identity") == job.identity else None


def _make(job: Job, out_dir: Path, begun_s: float) -> None:
    network = load_network(job.source).to(memory_format=torch.channels_last)
    device = accelerator_for(job.config.precision).device
    network.to(device)
    if job.teaching is not None:
        job.teaching.to(device)
    figures = _prepare(network, job)
    plan: dict[str, object] = {"steps": 0, "warmup": 0, "look_every": 1}
    if job.config.trains:
        steps = _steps(network, job, begun_s)
        plan = {"steps": steps, "warmup": _warmup(job, steps), "look_every": max(1, round(steps / LOOKS))}
        figures["planned_steps"] = steps
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    metadata = {"identity": job.identity, "plan": json.dumps(plan | {"figures": figures})}
    write_bytes(out_dir / START_NAME, save(weights, metadata))


def _prepare(network: Network, job: Job) -> dict[str, float]:
    """Batch norms, in place; the scores before and after."""
    figures: dict[str, float] = {}

    def note(name: str) -> None:
        if job.score is not None:
            figures[name] = job.score(network)

    note("held_out_first")
    if "bn" in job.config.method:
        device, (_, kept) = next(network.parameters()).device, job.shared_in(network)
        images = (x.to(device) for x in even_batches(job.learn, job.source.spec))
        reestimate_batch_norms(network, images, keep=kept)
        note("held_out_bn")
    return figures


def _steps(network: Network, job: Job, begun_s: float) -> int:
    """As many as the epochs ask for or the budget has room for, whichever are fewer."""
    config = job.config
    a_pass = len(job.learn) // config.batch
    epochs = config.epochs or (USUAL_EPOCHS if config.budget is None else MOST_EPOCHS)
    if config.budget_s is None:
        return epochs * a_pass
    step_s, look_s = _timed(network, job, config.budget_s)
    looks_s = (LOOKS + 1) * look_s
    used_s = time.perf_counter() - begun_s
    left_s = config.budget_s * (1 - _SPARE_SHARE) - used_s - looks_s
    fitting = int(left_s / step_s)
    if fitting < min(_FEWEST_STEPS, epochs * a_pass):
        needed_s = (used_s + looks_s + _FEWEST_STEPS * step_s) / (1 - _SPARE_SHARE)
        raise InputError(
            f"--budget {config.budget} is too short: {max(0, fitting)} steps of {config.batch} images fit"
            f" ({step_s:.2g} s each) beside {text_from(used_s + looks_s)} that any budget pays (loading, timing a few"
            f" steps, {LOOKS + 1} looks at held-out images); {_FEWEST_STEPS} steps need {text_from(needed_s + 1)}"
        )
    return min(fitting, epochs * a_pass)


def _timed(network: Network, job: Job, budget_s: float) -> tuple[float, float]:
    """(seconds a step takes, seconds a look takes), measured on a copy; what processes tell each other is left out."""
    config, trial = job.config, copy.deepcopy(network)
    objective = job.objective_on(trial)
    job.freeze_in(trial)
    trial.train()
    accelerator = accelerator_for(config.precision)
    data = batches_for(job.learn, job.source.spec, config)
    data.load()
    optimizer = torch.optim.SGD(decay_groups(trial, config.weight_decay), config.lr, config.momentum)
    fewest, most = _TRIAL_STEPS
    durations_s: list[float] = []
    last_s = time.perf_counter()
    for images, labels in data.from_step(0, 1 + most, slice_for(config, accelerator)):
        optimizer.zero_grad()
        with accelerator.autocast():
            loss = objective(trial, images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())  # waits for a GPU
        durations_s.append(time.perf_counter() - last_s)
        last_s = time.perf_counter()
        if len(durations_s) > fewest and sum(durations_s) > _TRIAL_SHARE * budget_s:
            break
    return fmean(durations_s[1:]), _look_s(trial, job)


def _look_s(network: Network, job: Job) -> float:
    begun_s = time.perf_counter()
    if job.score is not None:
        job.score(network)
    return time.perf_counter() - begun_s


def _warmup(job: Job, steps: int) -> int:
    wanted = round(job.config.warmup_epochs * (len(job.learn) // job.config.batch))
    return min(wanted, max(1, round(_WARMUP_SHARE * steps)))
