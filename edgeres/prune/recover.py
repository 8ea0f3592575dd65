"""`edgeres recover`: a pruned network learns to imitate the one it was cut from. No label is used.

    L = mimic MSE(f_s, f_t) / mean(f_t^2) + distill T^2 KL(p_t^T || p_s^T)

f is the feature map before global pooling, p^T the softmax of the logits over T; s is the pruned network, t the one
before pruning. The first term is the feature mimicking of Wang & Wu 2023 (PRACTISE, arXiv 2303.15254), divided by the
teacher's own power so that one weight fits all networks; the second is Hinton et al. 2015, arXiv 1503.02531.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.core.stage import Recorder, StageResult
from edgeres.train.config import LoopConfig

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.data import Split
    from edgeres.models.network import Network
    from edgeres.train.objectives import Objective


class RecoverConfig(LoopConfig):
    """How long to imitate, and what; the last weights are taken, nothing is selected on val."""

    data: str = Field(description="digits, cifar10, folder:PATH, package.module:function")
    teacher: Path | None = Field(None, description="checkpoint before pruning; default: the pruned one's source")
    images: int = Field(2000, gt=0, description="of train, without their labels; all if there are fewer")
    mimic: float = Field(1.0, ge=0, description="weight of the features before pooling")
    distill: float = Field(1.0, ge=0, description="weight of the logits")
    temperature: float = Field(2.0, gt=0, description="softening of the logits")
    epochs: int = Field(10, ge=1, description="passes over the images")
    batch: int = Field(64, ge=1, description="images per step, over all processes")
    lr: float = Field(0.02, gt=0, description="learning rate after the warm-up")
    warmup_epochs: float = Field(0.5, ge=0, description="epochs of linear warm-up")
    download: bool = Field(False, description="fetch the data set if it is not here")
    val_every: int = Field(0, ge=0, le=0, description="always 0: val is not looked at")


def recover(source: Checkpoint, config: RecoverConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes out_dir/model.safetensors; raises InputError if the teacher is not the same network, less pruned."""
    from edgeres.models.weights import load_network, save_checkpoint
    from edgeres.train.batches import batches_for
    from edgeres.train.loop import fit
    from edgeres.train.processes import is_main, wait_for_all
    from edgeres.train.state import clear_state

    recorder = Recorder("recover", config, source)
    teacher = _teacher(source, config)
    images = _images(source, config)
    student = load_network(source)
    objective = imitation(load_network(teacher), config)
    config = config.model_copy(update={"batch": min(config.batch, len(images))})
    fitted = fit(student, objective, batches_for(images, source.spec, config), config, out_dir)
    output = Checkpoint(out_dir / "model.safetensors")
    if is_main():
        save_checkpoint(fitted.weights, source.spec, output.path, stage="recover", parent=source.sha256)
        clear_state(out_dir)
    wait_for_all()
    recorder.results |= {
        "teacher_sha256": teacher.sha256,
        "images": len(images),
        "steps": fitted.steps,
        "final_loss": fitted.final_loss,
        "images_per_s": fitted.images_per_s,
    }
    return StageResult(output, recorder.finish(output))


def imitation(teacher: Network, config: RecoverConfig) -> Objective:
    """The loss above as a function of (student, images, labels); labels are ignored."""
    import torch

    from edgeres.train.objectives import soft_divergence

    teacher = teacher.eval().requires_grad_(False)

    def objective(student: Network, images: Tensor, labels: Tensor) -> Tensor:
        del labels
        teacher.to(images.device)
        with torch.no_grad():
            goal = teacher.features(images)
            goal_logits = teacher.classify(goal)
        features = student.features(images)
        error = (features - goal).square().mean() / goal.square().mean()
        divergence = soft_divergence(student.classify(features), goal_logits, config.temperature)
        return config.mimic * error + config.distill * divergence

    return objective


def _teacher(source: Checkpoint, config: RecoverConfig) -> Checkpoint:
    if config.teacher is None:
        raise InputError(f"say which network {source.path} was cut from: --teacher FILE")
    teacher = Checkpoint(config.teacher)
    same = teacher.spec.model_copy(update={"dropped": source.spec.dropped}) == source.spec
    if not same or not set(teacher.spec.dropped) <= set(source.spec.dropped):
        raise InputError(
            f"{teacher.path} ({teacher.spec.variant}, {len(teacher.spec.dropped)} dropped) is not what {source.path}"
            f" ({source.spec.variant}, {len(source.spec.dropped)} dropped) was cut from"
        )
    if config.mimic == config.distill == 0:
        raise InputError("--mimic 0 and --distill 0 leave nothing to learn from")
    return teacher


def _images(source: Checkpoint, config: RecoverConfig) -> Split:
    from edgeres.data import dataset_for

    train = dataset_for(source.spec, config.data, download=config.download).train
    return train.sample(min(config.images, len(train)), config.seed)
