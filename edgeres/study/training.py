"""One network of a study: trained for its number of epochs, then judged once; nothing is chosen on val."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgeres.core.config import Record
from edgeres.core.errors import StageError
from edgeres.core.progress import quiet
from edgeres.core.spec import ModelSpec
from edgeres.study.result import Row
from edgeres.train.config import LoopConfig

if TYPE_CHECKING:
    from edgeres.data import Dataset
    from edgeres.models.network import Network
    from edgeres.train.loop import Evaluate

_LOOP_LOGGER = "edgeres.train.loop"  # a line an epoch of dozens of networks


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
    from edgeres.train.loop import Glance, fit
    from edgeres.train.objectives import cross_entropy

    network = fresh(job)
    batches = batches_for(dataset.train, job.spec, job.loop)
    try:
        with quiet(_LOOP_LOGGER):
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
