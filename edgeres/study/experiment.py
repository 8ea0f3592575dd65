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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from edgeres.core.artifacts import StudyFile
from edgeres.core.config import Config, Record, record_from_json
from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.core.progress import Countdown, quiet
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.study.result import Claim, Picture, Row, Study, Value, finish
from edgeres.train.config import LoopConfig, Schedule
from edgeres.train.stage import spec_on

if TYPE_CHECKING:
    from edgeres.data import Dataset
    from edgeres.models.network import Network
    from edgeres.train.loop import Evaluate

NETWORKS = "networks"
PAPER_EPOCHS = 164  # 64k steps of 128 of CIFAR-10's 50,000 images: He et al. 2015, section 4.2
_LOOP_LOGGER = "edgeres.train.loop"  # a line an epoch of dozens of networks
_log = logging.getLogger(__name__)


class TrainingConfig(Config):
    """What can be chosen for every study that trains; `paper` holds what --full puts in place of the defaults."""

    paper: ClassVar[dict[str, Any]] = {
        "data": "cifar10",
        "epochs": PAPER_EPOCHS,
        "batch": 128,
        "schedule": "step",
    }

    data: str = Field("digits", description="data set; with --full cifar10")
    full: bool = Field(False, description="the paper's own depth, data and schedule; hours on a GPU")
    seeds: int = Field(3, ge=1, description="networks of each kind")
    epochs: int = Field(8, ge=1, description=f"passes over the training images; with --full {PAPER_EPOCHS}")
    batch: int = Field(64, ge=1, description="images a step; with --full 128")
    lr: float = Field(0.1, gt=0, description="learning rate after the warm-up")
    schedule: Schedule = Field("cosine", description="of the learning rate; with --full step")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    threads: int = Field(1, ge=1, description="CPU threads; more than 1 pays for large images only")
    download: bool = Field(False, description="fetch the data set if it is not here")

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, values: Any) -> Any:
        return {**cls.paper, **values} if isinstance(values, dict) and values.get("full") is True else values

    @property
    def setting(self) -> Literal["short", "full"]:
        """`full` only if nothing of the paper's setting was changed."""
        kept = all(getattr(self, name) == value for name, value in self.paper.items())
        return "full" if self.full and kept else "short"

    def loop(self, seed: int) -> LoopConfig:
        """The training of one network."""
        shared = self.model_dump(include={"epochs", "batch", "lr", "schedule", "warmup_epochs", "clip_norm", "threads"})
        return LoopConfig(**shared, seed=seed)


class DeepConfig(TrainingConfig):
    """For a study of one depth."""

    depth: int = Field(20, ge=8, description="of every network, 6n + 2; with --full 56")

    def check(self) -> None:
        """The networks exist."""
        check_depth(self.depth)


def check_depth(depth: int) -> None:
    """Raises InputError unless there is a network of the CIFAR kind that deep."""
    from edgeres.models import spec_from_arch

    spec_from_arch(f"resnet{depth}cifar", num_classes=2)


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
        from edgeres.data import dataset_from

        self._recorder, self._config, self._kinds, self._out_dir = Recorder(name, config, None), config, kinds, out_dir
        self.dataset = dataset_from(config.data, download=config.download)

    def rows(self, record: type[K], measure: Callable[[Job, Dataset, Path], K]) -> tuple[Row, ...]:
        """Rows of every kind and seed, in order, by what `measure(job, dataset, folder)` makes of each network.

        What was finished before is read back. Raises StageError naming the network if a loss is not finite.
        """
        from edgeres.models.weights import cost_of
        from edgeres.train.state import clear_state

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
    from edgeres.evaluate.tally import right_on
    from edgeres.models.weights import save_checkpoint

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
    from edgeres.train.batches import batches_for
    from edgeres.train.loop import Training, fit
    from edgeres.train.objectives import cross_entropy

    network = fresh(job)
    batches = batches_for(dataset.train, job.spec, job.loop)
    try:
        with quiet(_LOOP_LOGGER):
            fitted = fit(Training(network, cross_entropy(), batches, job.loop, folder, probe))
    except StageError as err:
        raise StageError(f"{job.name}: {err}") from err
    return network, fitted.final_loss


def fresh(job: Job) -> Network:
    """The network before training, its weights a function of the seed."""
    import torch

    from edgeres.models import network_from

    torch.manual_seed(job.loop.seed)
    network = network_from(job.spec)
    if job.change is not None:
        job.change(network)
    return network
