"""The training loop: one for training from scratch and for recovering.

Step k of a run is a function of (seed, k) and the weights alone: which images, how they are augmented, the
learning rate, torch's generator. So a killed run goes on from its last saved state to the same bits (with as
many threads), and two processes see the batches one would have seen. Batch norm uses each process's part of a
batch, and the first process's running statistics are kept, as in torch's DistributedDataParallel. The steps of a plan
are not shared: sums in another order alone set weights 1e-3 apart in 56 steps, so the first process takes them.

Ctrl-C between two steps: the step is finished and the state saved; a second Ctrl-C stops at once. log.csv has a row an
epoch, always all of them, so that a resumed run leaves the usual log.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.core.processes import agreed, wait_for_all
from edgeres.core.progress import track
from edgeres.core.safe_text import csv_text
from edgeres.data import data_fingerprint
from edgeres.models.network import Network
from edgeres.train.batches import Batches, accelerator_for, slice_for, torch_seed_at
from edgeres.train.config import LoopConfig
from edgeres.train.learner import Learner, fingerprint
from edgeres.train.objectives import Objective
from edgeres.train.schedule import Course, HeldOut, Looks, Plan, rate_at, weights_of
from edgeres.train.state import Identity, load_state, put_aside, save_state

Evaluate = Callable[[nn.Module], float]
_log = logging.getLogger(__name__)
Row = dict[str, float]
LOG_NAME = "log.csv"
COLUMNS = ("epoch", "step", "lr", "loss", "images_per_s", "val_top1")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CHECK_EVERY = 20  # steps between looks at the loss on a GPU, which has to wait for each


@dataclass(frozen=True)
class Fitted:
    """What came out. `weights` are the averaged ones if asked for; `first_step` > 0 after a resume.

    With a plan that scores, `weights` are those of the best of the `looks`, and `steps` may be fewer than planned;
    `moved` says (after which step, to how many in all) where the clock moved the end.
    """

    weights: dict[str, Tensor]
    final_loss: float
    steps: int
    first_step: int
    images_per_s: float
    processes: int
    device: str
    precision: str
    looks: Looks = field(default_factory=list)
    moved: Looks = field(default_factory=list)

    def results(self, *names: str) -> dict[str, Any]:
        """Steps, loss and pace as they stand in reports, and the fields `names`."""
        figures = {"final_loss": round(self.final_loss, 6), "images_per_s": round(self.images_per_s, 1)}
        return figures | {name: getattr(self, name) for name in ("steps", "first_step", *names)}


@dataclass(frozen=True)
class Training:
    """What is trained in place, on what, how, and where its state is kept.

    `objective(network, images, labels)` is the loss; it gets the bare network, so it may use features. What
    `glance(network)` finds after every epoch is the top-1 in log.csv and decides nothing. `refines`: the network is
    good already (`objectives`), and of what learns there are matrices and filters only.
    """

    network: Network
    objective: Objective
    data: Batches
    config: LoopConfig
    state_dir: Path
    glance: Evaluate | None = None
    refines: bool = False


def fit(training: Training, plan: Plan | None = None) -> Fitted:
    """The trained network, going on from `state_dir`/state.pt if that is of the same training.

    With a `plan` it lasts as many steps as that says, not `config.epochs`, and the main process takes them all.

    Raises:
        StageError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state has been saved.
    """
    config, data, is_shared = training.config, training.data, plan is None
    plan = plan or _usual_plan(config, data)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    accelerator = accelerator_for(config.precision)
    part = slice_for(config, accelerator, is_shared=is_shared)
    learner = Learner(
        training.network, training.objective, config, accelerator, is_shared=is_shared, refines=training.refines
    )
    identity = _identity(training, plan, learner)
    run = _Run(training, plan, learner)
    first = run.resume(identity)
    if part.stop > part.start:
        data.load()
    run.course.begin()
    run.look(first)
    run.pace.start(first)
    with interruptible() as stop:
        batches = data.from_step(first, first if run.is_over else plan.steps, part)
        if accelerator.is_main_process:
            batches = track(batches, "training", total=run.course.steps - first)
        try:
            for images, labels in batches:
                run.advance(images, labels)
                run.keep(identity, stop)
                if run.is_over:
                    break
        except RuntimeError as err:
            if stop.is_set() and not accelerator.is_main_process:
                raise KeyboardInterrupt from err  # the main process has saved and left
            raise
    return run.fitted(first)


class _Run:
    """Where the training stands: the step, the loss of the epoch so far, the rows of the log."""

    def __init__(self, training: Training, plan: Plan, learner: Learner) -> None:
        self.data, self.config, self.state_dir = training.data, training.config, training.state_dir
        self.glance = training.glance
        self.learner, self.plan, self.course = learner, plan, Course(plan)
        self.held_out, self.step = HeldOut(plan, self.course), 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=learner.accelerator.device)
        self.is_main = learner.accelerator.is_main_process
        self.rows: list[Row] = []
        self.pace, self.saved_s = Pace(self.config.batch), time.perf_counter()

    def resume(self, identity: Identity) -> int:
        """Loads the saved state if there is one of this training; the step to begin with."""
        state = load_state(self.state_dir, identity)
        wait_for_all()  # until every process has read it
        if state is None:
            if self.is_main:
                put_aside(self.state_dir)
            return 0
        self.learner.restore(state)
        self.step, self.rows = state["step"], state["rows"]
        self.course.moved = [(int(step), int(steps)) for step, steps in state.get("end_moved", ())]
        self.loss_sum.fill_(state["loss_sum"])
        if self.plan.score is not None:
            self.held_out.restore(state["held_out"])
        if self.is_main:
            _log.info("going on from step %d of %d", self.step, self.course.steps)
        return self.step

    @property
    def lr(self) -> float:
        """The learning rate of the present step."""
        place, plan = self.course.place(self.step), self.plan
        return self.config.lr * rate_at(place, steps=plan.steps, warmup=plan.warmup, kind=self.config.schedule)

    def look(self, step: int) -> None:
        """Scores the weights after `step` steps if that is due and has not been done before a resume."""
        if self.course.is_due(step) and step not in dict(self.held_out.looks):
            self.held_out.look(step, self.learner.result)
            self.course.went_on(looked=True)

    def advance(self, images: Tensor, labels: Tensor) -> None:
        """One step, and the end of the epoch if it was the last."""
        process = self.learner.accelerator.process_index
        torch.manual_seed(torch_seed_at(self.step, process=process, seed=self.config.seed))
        lr = self.lr
        self.loss_sum += self.learner.learn(images, labels, lr)
        self.step += 1
        if self.plan.until_s is not None:
            float(self.loss_sum)  # waits for a GPU, whose time counts
        self.course.went_on()
        self.course.keep_in_time(self.step)
        self.look(self.step)
        ends_epoch = self.ends_epoch
        if ends_epoch or self.loss_sum.device.type == "cpu" or self.step % _CHECK_EVERY == 0:
            self._check_loss(lr)
        if ends_epoch:
            self._close_epoch(lr)

    @property
    def ends_epoch(self) -> bool:
        """Whether a row of the log is due: after an epoch, and after the last step."""
        return self.step % self.data.steps_per_epoch == 0 or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the last step has been taken."""
        return self.step >= self.course.steps or self.held_out.has_given_up

    def keep(self, identity: Identity, stop: Stop) -> None:
        """Saves the state when it is due; raises KeyboardInterrupt in the main process if asked to stop."""
        if not self.is_main:
            return
        now_s = time.perf_counter()
        if stop.is_set() or self.ends_epoch or now_s - self.saved_s >= self.config.save_every_s:
            self._check_loss(self.lr)
            here = {"step": self.step, "loss_sum": float(self.loss_sum), "rows": self.rows}
            here["end_moved"] = self.course.moved
            if self.plan.score is not None:
                here["held_out"] = self.held_out.state()
            save_state({"identity": identity, **here, **self.learner.state()}, self.state_dir)
            self.saved_s = now_s
        if stop.is_set():
            _log.warning("stopped at step %d of %d; the same command goes on from here", self.step, self.course.steps)
            raise KeyboardInterrupt(stop.number)

    def fitted(self, first_step: int) -> Fitted:
        """The result, once all steps are taken."""
        accelerator = self.learner.accelerator
        precision = accelerator.mixed_precision
        return Fitted(
            weights=agreed(lambda: self.held_out.weights or weights_of(self.learner.result)),
            final_loss=self.rows[-1]["loss"],
            steps=self.step,
            first_step=first_step,
            images_per_s=self.pace.images_per_s or self.rows[-1]["images_per_s"],  # where a resume had no step to take
            processes=self.learner.processes,
            device=accelerator.device.type,
            precision="fp32" if precision == "no" else precision,
            looks=self.held_out.looks,
            moved=[*self.course.moved],
        )

    def _close_epoch(self, lr: float) -> None:
        epoch, images_per_s = math.ceil(self.step / self.data.steps_per_epoch), self.pace.lap(self.step)
        steps = self.step - int(self.rows[-1]["step"] if self.rows else 0)
        row: Row = {"epoch": epoch, "step": self.step, "lr": lr, "images_per_s": images_per_s}
        row["loss"] = float(self.loss_sum) / steps
        self.loss_sum.zero_()
        if self.is_main:
            if self.glance is not None:
                row["val_top1"] = self.glance(self.learner.result)
            epochs = math.ceil(self.course.steps / self.data.steps_per_epoch)
            _log.info("epoch %d/%d: %s", epoch, epochs, described(row))
        self.rows.append(row)
        if self.is_main:
            texts = [{name: f"{value:.6g}" for name, value in row.items()} for row in self.rows]
            write_text(self.state_dir / LOG_NAME, csv_text(texts, COLUMNS))
        self.pace.start(self.step)

    def _check_loss(self, lr: float) -> None:
        if not math.isfinite(loss := float(self.loss_sum)):
            raise StageError(
                f"training: the loss is {loss:g} at step {self.step} (lr {lr:g}); lower --lr, lengthen"
                " --warmup-epochs or set --clip-norm"
            )


def _identity(training: Training, plan: Plan, learner: Learner) -> Identity:
    """Everything the result depends on, as text."""
    config, data = training.config, training.data
    options = config.model_dump(mode="json", exclude={*config.incidental})
    identity = {
        **{name: json.dumps(value) for name, value in options.items()},
        "network": data.spec.model_dump_json(),
        "start": fingerprint(training.network)[:12],
        "images": f"{len(data.split)}, {data_fingerprint(options['data'])[:12]}" if "data" in options else "",
        "processes": str(learner.processes),
        "mixed_precision": learner.accelerator.mixed_precision,
    }
    if training.refines:
        identity["refines"] = "orthogonal steps"
    if plan != _usual_plan(config, data):
        looks = f", a look every {plan.look_every}" if plan.score is not None else ""
        identity["plan"] = f"{plan.steps} steps, {plan.warmup} of warm-up{looks}"
    return identity


def _usual_plan(config: LoopConfig, data: Batches) -> Plan:
    return Plan(config.epochs * data.steps_per_epoch, round(config.warmup_epochs * data.steps_per_epoch))


class Stop(threading.Event):
    """A request to stop, by the signal of that number."""

    number: int = signal.SIGINT


@contextmanager
def interruptible() -> Iterator[Stop]:
    """SIGINT and SIGTERM set the event; outside the main thread signals stay as they are."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def request(number: int, _frame: FrameType | None) -> None:
        stop.number = number
        stop.set()
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in _SIGNALS:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Pace:
    """Images per second of training alone: what happens between `lap` and `start` is not counted."""

    def __init__(self, batch: int) -> None:
        self._batch, self._steps, self._duration_s = batch, 0, 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Begins to count at `step`."""
        self._first, self._begun_s = step, time.perf_counter()

    def lap(self, step: int) -> float:
        """Images per second since `start`."""
        steps, duration_s = step - self._first, time.perf_counter() - self._begun_s
        self._steps += steps
        self._duration_s += duration_s
        return steps * self._batch / duration_s

    @property
    def images_per_s(self) -> float:
        """Over all laps; 0 if there was none."""
        return self._steps * self._batch / self._duration_s if self._steps else 0.0


def described(row: Row) -> str:
    """The row as one log line."""
    text = f"loss {row['loss']:.4f}, lr {row['lr']:.4g}, {row['images_per_s']:.0f} images/s"
    return text + (f", val top-1 {row['val_top1']:.2%}" if "val_top1" in row else "")
