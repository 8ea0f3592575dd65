"""What a session times: models at the batch asked for, at other batches, and from image file to class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeres.bench.config import BenchConfig
from edgeres.bench.endtoend import files_of
from edgeres.bench.worker import Job
from edgeres.core.artifacts import FUSED_PROFILE, Engine, Model, OnnxModel
from edgeres.core.environment import default_threads
from edgeres.core.errors import DeviceError
from edgeres.runtime import runtime_of

_QDQ_REASON = (
    "not timed: a Q/DQ graph placed for TensorRT says nothing of INT8 speed on a CPU; "
    "time it all the same with --include-qdq"
)
_OTHERS_REASON = (
    "not timed: INT8 of another tool counts as placed for TensorRT; if it was made for a CPU, time it with"
    " --include-qdq"
)


class Task(NamedTuple):
    """One model under one set of conditions; `name` is how messages call it."""

    model: Model
    job: Job
    name: str


class Tasks(NamedTuple):
    """Of one session: each model once in `plain`; `notes` say what is left out and why."""

    plain: tuple[Task, ...]
    batched: tuple[Task, ...]
    end_to_end: tuple[Task, ...]
    notes: tuple[str, ...]
    not_end_to_end: str = ""

    @property
    def all(self) -> tuple[Task, ...]:
        """In the order in which they are handed to a session."""
        return self.plain + self.batched + self.end_to_end


def tasks_for(models: Sequence[Model], config: BenchConfig) -> Tasks:
    """Raises InputError if `config.data` is given and cannot be read."""
    batched, left_out = _batched(models, config)
    whole_way, reason, unfit = _end_to_end(models, config)
    plain = tuple(task_of(model, config) for model in models)
    fixed = [
        f"{task.name}: its batch is fixed to {task.job.batch}, {config.batch} was asked for"
        for task in plain
        if task.job.batch != config.batch
    ]
    return Tasks(plain, tuple(batched), tuple(whole_way), (*fixed, *left_out, *unfit), reason)


def task_of(model: Model, config: BenchConfig, *, batch: int | None = None) -> Task:
    """`model` at `batch`, or at the one of `config` unless its own is fixed."""
    threads, (low, high) = config.threads or default_threads(), batches_of(model)
    size = batch or (int(high) if low == high else config.batch)
    job = Job(path=model.path, batch=size, threads=threads, seed=config.seed)
    return Task(model, job, label_of(model.path))


def batches_of(model: Model) -> tuple[int, float]:
    """The smallest and the largest batch that `model` takes."""
    if isinstance(model, Engine):
        low, _, high = model.manifest.batch
        return low, high
    if isinstance(model, OnnxModel):
        _ = model.card  # what takes no images is refused now rather than in its own process
    fixed = model.batch if isinstance(model, OnnxModel) else None
    return (1, math.inf) if fixed is None else (fixed, fixed)


def reason_to_skip(model: Model, config: BenchConfig) -> str:
    """Why `model` is not timed here, or an empty string."""
    try:
        runtime_of(model)
    except DeviceError as err:
        return f"built, not run: {err}"
    if is_for_tensorrt(model) and not config.include_qdq:
        return _QDQ_REASON if isinstance(model, OnnxModel) and model.profile else _OTHERS_REASON
    return ""


def is_for_tensorrt(model: Model) -> bool:
    """Whether `model` holds pairs that a CPU executes slowly."""
    is_graph = not isinstance(model, Engine)
    is_fused = isinstance(model, OnnxModel) and model.profile == FUSED_PROFILE
    return is_graph and "int8" in model.precision and not is_fused


def label_of(path: Path) -> str:
    """`03-export/model.onnx`: stages call their files alike, so the folder tells them apart."""
    return f"{path.parent.name}/{path.name}".lstrip("/")


def _batched(models: Sequence[Model], config: BenchConfig) -> tuple[list[Task], list[str]]:
    """Tasks for `config.batches`, those of the plain ones left out, and what a model does not take."""
    tasks, notes = [], []
    for model in models:
        low, high = batches_of(model)
        fitting = [size for size in config.batches if low <= size <= high]
        unfit = [str(size) for size in config.batches if size not in fitting]
        if unfit:
            takes = f"batch {low} only" if low == high else f"batches {low} to {high}"
            notes.append(f"{label_of(model.path)}: takes {takes}, not timed at batch {', '.join(unfit)}")
        for size in (size for size in fitting if size != (low if low == high else config.batch)):
            task = task_of(model, config, batch=size)
            least = math.ceil(config.turn.least / size)  # as many images as the plain task takes, not as many calls
            tasks.append(Task(model, task.job.model_copy(update={"least": least}), f"{task.name}, batch {size}"))
    return tasks, notes


def _end_to_end(models: Sequence[Model], config: BenchConfig) -> tuple[list[Task], str, list[str]]:
    """(tasks, why there are none, which models do not take part and why)."""
    if config.data is None:
        return [], "no images named: --data folder:PATH", []
    files = files_of(config.data)
    if isinstance(files, str):
        return [], files, []
    tasks, notes = [], []
    for model in models:
        if batches_of(model)[0] > 1:
            notes.append(f"{label_of(model.path)}: takes no single image, so it is not timed end to end")
            continue
        if not model.spec.preprocess.is_known:
            notes.append(f"{label_of(model.path)}: does not say how an image becomes its input: not timed end to end")
            continue
        task = task_of(model, config, batch=1)
        tasks.append(Task(model, task.job.model_copy(update={"files": files}), f"{task.name}, end to end"))
    return tasks, "" if tasks else "no model takes a single image and says how it becomes the input", notes
