"""Studies that train their own networks: what they share.

    OUT/networks/NAME/trained.json        how far the finished network came
    OUT/networks/NAME/model.safetensors  its weights, where a spec can describe them
    OUT/networks/NAME/state.pt, log.csv  the one in training

An interrupted study goes on with the networks that are not finished yet, the first of them from its saved state.
Nothing is chosen on val: every network is trained for its number of epochs and then judged once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgeres.core.config import Config, Record, record_from_json
from edgeres.core.errors import StageError
from edgeres.core.files import write_text
from edgeres.core.spec import ModelSpec
from edgeres.train.config import LoopConfig, Schedule

if TYPE_CHECKING:
    from edgeres.data import Dataset
    from edgeres.data.split import Split
    from edgeres.models.network import Network
    from edgeres.train.loop import Evaluate

NETWORKS, TRAINED_NAME = "networks", "trained.json"
PAPER_EPOCHS = 164  # 64k steps of 128 of CIFAR-10's 50,000 images: He et al. 2015, section 4.2
_EVAL_BATCH = 500
_LOOP_LOGGER = "edgeres.train.loop"
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


@dataclass(frozen=True)
class Job:
    """One network to train; `change` alters it after it is built, in ways its spec cannot describe."""

    name: str
    spec: ModelSpec
    loop: LoopConfig
    change: Callable[[Network], None] | None = None


class Trained(Record):
    """How far a network came: `train_loss` is the mean over its last epoch, augmented; the rest is counted after it."""

    name: str
    train_loss: float
    train_correct: int
    train_n: int
    val_correct: int
    val_n: int

    @property
    def train_error_percent(self) -> float:
        """Share of the training images it gets wrong, unaugmented."""
        return 100 * (1 - self.train_correct / self.train_n)

    @property
    def test_error_percent(self) -> float:
        """Share of val it gets wrong."""
        return 100 * (1 - self.val_correct / self.val_n)

    @property
    def figures(self) -> dict[str, float]:
        """As columns of a study's table."""
        return {
            "train_loss": round(self.train_loss, 6),
            "train_error_percent": round(self.train_error_percent, 4),
            "test_error_percent": round(self.test_error_percent, 4),
        }


def spec_on(dataset: Dataset, arch: str, **options: str | int) -> ModelSpec:
    """The spec of `arch` for the images and classes of the data set; raises InputError if there is no such network."""
    from edgeres.models import spec_from_arch

    return spec_from_arch(
        arch,
        num_classes=len(dataset.classes),
        preprocess=dataset.preprocess,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        options=dict(options),
    )


def train_all(jobs: Sequence[Job], dataset: Dataset, out_dir: Path) -> list[Trained]:
    """The network of every job, in order; those finished before in `out_dir` are read back.

    Raises StageError naming the network if a loss is not finite.
    """
    found = []
    for index, job in enumerate(jobs, 1):
        announce(job, index, len(jobs))
        found.append(_trained_once(job, dataset, out_dir / NETWORKS / job.name))
    return found


def announce(job: Job, index: int, count: int) -> None:
    """Says which network it is now."""
    _log.info("network %d of %d: %s", index, count, job.name)


def network_trained(job: Job, dataset: Dataset, folder: Path, probe: Evaluate | None = None) -> tuple[Network, float]:
    """The trained network and the training loss of its last epoch; goes on from `folder`/state.pt if it is there.

    `probe(network)` is called after every epoch with the network as it stands; what it returns goes to log.csv and
    decides nothing.
    """
    from edgeres.train.batches import batches_for
    from edgeres.train.loop import Glance, fit
    from edgeres.train.objectives import cross_entropy

    network = fresh(job)
    batches = batches_for(dataset.train, job.spec, job.loop)
    try:
        with _epochs_unsaid():
            fitted = fit(network, cross_entropy(), batches, job.loop, folder, probe and Glance(probe))
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


def correct_on(network: Network, split: Split, spec: ModelSpec) -> int:
    """How many images of the split the network gets right, where it lies (CPU or GPU)."""
    import torch

    device = next(network.parameters()).device
    network.eval()
    correct = 0
    with torch.inference_mode():
        for images, labels in split.batches(spec, _EVAL_BATCH):
            guesses = network(torch.from_numpy(images).to(device)).argmax(1).cpu().numpy()
            correct += int((guesses == labels).sum())
    return correct


def _trained_once(job: Job, dataset: Dataset, folder: Path) -> Trained:
    path = folder / TRAINED_NAME
    if path.exists():
        return record_from_json(Trained, path)
    network, loss = network_trained(job, dataset, folder)
    result = Trained(
        name=job.name,
        train_loss=loss,
        train_correct=correct_on(network, dataset.train, job.spec),
        train_n=len(dataset.train),
        val_correct=correct_on(network, dataset.val, job.spec),
        val_n=len(dataset.val),
    )
    _keep(network, job, folder)
    write_text(path, result.model_dump_json(indent=1) + "\n")
    return result


def _keep(network: Network, job: Job, folder: Path) -> None:
    from edgeres.models.weights import save_checkpoint
    from edgeres.train.state import clear_state

    if job.change is None:
        save_checkpoint(network.state_dict(), job.spec, folder / "model.safetensors", stage="train")
    clear_state(folder)


@contextmanager
def _epochs_unsaid() -> Iterator[None]:
    """The loop's line per epoch is left out unless `-v` asks for everything: there are dozens of networks."""
    logger = logging.getLogger(_LOOP_LOGGER)
    before = logger.level
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
