"""Studies that train networks of their own: kinds of networks, each from several seeds, and what their errors say.

    OUT/networks/NAME/trained.json       how far the finished network came
    OUT/networks/NAME/model.safetensors  its weights, where a spec can describe them
    OUT/networks/NAME/state.pt, log.csv  the one in training

An interrupted study goes on with the networks that are not finished yet, the first of them from its saved state.
Nothing is chosen on val: every network is trained for its number of epochs and then judged once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from edgeres.core.artifacts import StudyFile
from edgeres.core.config import Record, record_from_json
from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.core.progress import Countdown, quiet
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.data import Dataset, dataset_from
from edgeres.evaluate.sums import right_on
from edgeres.models import network_from
from edgeres.models.network import Network
from edgeres.models.weights import cost_of, save_checkpoint
from edgeres.study.config import TrainingConfig
from edgeres.study.result import Claim, Picture, Row, Study, Value, finish
from edgeres.train.batches import batches_for
from edgeres.train.config import LoopConfig
from edgeres.train.loop import Evaluate, Training, fit
from edgeres.train.objectives import cross_entropy
from edgeres.train.stage import spec_on
from edgeres.train.state import clear_state

NETWORKS = "networks"
_LOOP_LOGGER = "edgeres.train.loop"  # a line an epoch of dozens of networks
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """Networks that differ by their seed alone.

    `folder` and the seed name where one is kept; `label` is what the study calls it and `row` begins its rows in the
    table. `change` alters it in ways its spec cannot describe, `training` the options of its loop.
    """

    folder: str
    label: str
    arch: str
    row: Mapping[str, Value]
    options: Mapping[str, str | int] = field(default_factory=dict)
    change: Callable[[Network], None] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One network to train; `change` alters it after it is built, in ways its spec cannot describe."""

    name: str
    spec: ModelSpec
    loop: LoopConfig
    change: Callable[[Network], None] | None = None


class NetworkResult(Record):
    """What a study keeps of a finished network, in a `file` beside it."""

    file: ClassVar[str]

    def rows(self) -> list[Row]:
        """As rows of the study's table."""
        raise NotImplementedError


class Trained(NetworkResult):
    """How far a network came: `train_loss` is the mean over its last epoch, augmented; the rest is counted after it."""

    file: ClassVar[str] = "trained.json"

    name: str
    train_loss: float
    train_correct: int
    train_n: int
    val_correct: int
    val_n: int

    def rows(self) -> list[Row]:
        """One row; the training images are counted unaugmented."""
        return [
            {
                "train_loss": round(self.train_loss, 6),
                "train_error_percent": round(100 * (1 - self.train_correct / self.train_n), 4),
                "test_error_percent": round(100 * (1 - self.val_correct / self.val_n), 4),
            }
        ]


K = TypeVar("K", bound=NetworkResult)


class Experiment:
    """One call of a study: `rows` trains the networks of every kind, `finish` writes what they say."""

    def __init__(self, name: str, config: TrainingConfig, kinds: Sequence[Kind], out_dir: Path) -> None:
        self._recorder, self._config, self._kinds, self._out_dir = Recorder(name, config, None), config, kinds, out_dir
        self.dataset = dataset_from(config.data, download=config.download)

    def rows(self, record: type[K], measure: Callable[[Job, Dataset, Path], K]) -> tuple[Row, ...]:
        """Rows of every kind and seed, in order, by what `measure(job, dataset, folder)` makes of each network.

        What was finished before is read back. Raises StageError naming the network if a loss is not finite.
        """
        rows: list[Row] = []
        jobs = [(kind, self._job(kind, seed)) for kind in self._kinds for seed in range(self._config.seeds)]
        paths = {job.name: self._out_dir / NETWORKS / job.name / record.file for _, job in jobs}
        macs = {job.name: cost_of(job.spec).macs for _, job in jobs if not paths[job.name].exists()}
        countdown = Countdown(sum(macs.values()))
        for index, (kind, job) in enumerate(jobs, 1):
            path = paths[job.name]
            _log.info("network %d of %d: %s%s", index, len(jobs), job.name, countdown.text)
            if path.exists():
                found = record_from_json(record, path)
            else:
                found = measure(job, self.dataset, path.parent)
                write_text(path, found.model_dump_json(indent=1) + "\n")
                clear_state(path.parent)
                countdown.advance(macs[job.name])
            rows += [{**kind.row, "seed": job.loop.seed, **row} for row in found.rows()]
        return tuple(rows)

    def finish(
        self, claim: Claim, rows: tuple[Row, ...], summary: dict[str, Any], picture: Picture, *, n: int | None = None
    ) -> StageResult[StudyFile]:
        """Writes study.json, .csv and .svg; `n` images were judged on, all of val by default."""
        config = self._config
        study = Study(
            name=self._recorder.stage,
            **dict(claim),
            setting=config.setting,
            data=self.dataset.name,
            n=n or len(self.dataset.val),
            seeds=tuple(range(config.seeds)),
            networks=tuple(kind.label for kind in self._kinds),
            rows=rows,
            summary=summary,
        )
        return finish(study, self._recorder, self._out_dir, picture)

    def _job(self, kind: Kind, seed: int) -> Job:
        loop = self._config.loop(seed).model_copy(update=dict(kind.training))
        spec = spec_on(self.dataset, kind.arch, dict(kind.options))
        return Job(f"{kind.folder}-seed{seed}", spec, loop, kind.change)


def trained(job: Job, dataset: Dataset, folder: Path) -> Trained:
    """The network of the job, trained; its weights are kept in `folder` where a spec can describe them."""
    network, loss = network_trained(job, dataset, folder)
    if job.change is None:
        save_checkpoint(network.state_dict(), job.spec, folder / "model.safetensors", stage="train")
    network.eval()
    return Trained(
        name=job.name,
        train_loss=loss,
        train_correct=int(right_on(network, dataset.train, job.spec).sum()),
        train_n=len(dataset.train),
        val_correct=int(right_on(network, dataset.val, job.spec).sum()),
        val_n=len(dataset.val),
    )


def network_trained(job: Job, dataset: Dataset, folder: Path, probe: Evaluate | None = None) -> tuple[Network, float]:
    """The trained network and the training loss of its last epoch; goes on from `folder`/state.pt if it is there.

    `probe(network)` is called after every epoch with the network as it stands; what it returns goes to log.csv and
    decides nothing. Raises StageError naming the network if a loss is not finite.
    """
    network = fresh(job)
    batches = batches_for(dataset.train, job.spec, job.loop)
    try:
        with quiet(_LOOP_LOGGER):
            fitted = fit(Training(network, cross_entropy, batches, job.loop, folder, probe))
    except StageError as err:
        raise StageError(f"{job.name}: {err}") from err
    return network, fitted.final_loss


def fresh(job: Job) -> Network:
    """The network before training, its weights a function of the seed."""
    torch.manual_seed(job.loop.seed)
    network = network_from(job.spec)
    if job.change is not None:
        job.change(network)
    return network
