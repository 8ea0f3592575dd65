"""`edgeres prune`: whole residual modules go; what remains keeps its original names and weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.models import check_module_names, modules_of

if TYPE_CHECKING:
    from edgeres.prune.choose import Step


class PruneConfig(Config):
    """How many modules go, or which; chosen on training images only."""

    drop: int | None = Field(None, gt=0, description="number of modules to drop")
    modules: tuple[str, ...] = Field((), description="drop exactly these, by name")
    keep: tuple[str, ...] = Field((), description="never drop these")
    data: str | None = Field(None, description="digits, cifar10, folder:PATH, package.module:function")
    images: int = Field(1000, gt=0, description="of train, to choose on")
    score: Literal["kl", "loss"] = Field("kl", description="kl needs no labels")
    search: Literal["lazy", "full"] = Field("lazy", description="full measures every module at every step")
    batch: int = Field(250, gt=0, description="images at a time")
    seed: int = Field(0, ge=0, description="of the choice of images")
    download: bool = Field(False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """One goal, and images to choose on if a choice is left."""
        if (self.drop is None) == (not self.modules):
            raise InputError("say either --drop K or --modules layer2.1,layer3.4 (one of them)")
        if len(set(self.modules)) < len(self.modules):
            raise InputError(f"--modules names one twice: {', '.join(self.modules)}")
        if self.drop is not None and self.data is None:
            raise InputError("choosing modules needs images: --data folder:PATH (its train split is used)")


def prune(source: Checkpoint, config: PruneConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes out_dir/model.safetensors; raises InputError for unknown names or more drops than modules."""
    from edgeres.models.weights import load_weights, save_checkpoint, weights_without

    recorder = Recorder("prune", config, source)
    config.check()
    chosen = config.modules or _choose(source, config, recorder)
    check_module_names(source.spec, chosen)
    spec = source.spec.without(chosen)
    weights = weights_without(load_weights(source), spec)
    output = save_checkpoint(weights, spec, out_dir / "model.safetensors", stage="prune", parent=source.sha256)
    recorder.results["chosen"] = list(chosen)
    recorder.notes += _notes(source.spec, chosen)
    return StageResult(output, recorder.finish(output))


def _choose(source: Checkpoint, config: PruneConfig, recorder: Recorder) -> tuple[str, ...]:
    candidates = _candidates(source.spec, config)
    count = config.drop or 0
    if count > len(candidates):
        raise InputError(
            f"cannot drop {count} modules: {source.spec.variant} has {len(candidates)} that may be dropped"
        )
    steps = _search(source, config, candidates, count)
    recorder.results["steps"] = [_step_record(step) for step in steps]
    return tuple(step.chosen for step in steps)


def _candidates(spec: ModelSpec, config: PruneConfig) -> list[str]:
    check_module_names(spec, config.keep)
    return [info.name for info in modules_of(spec) if info.name not in spec.dropped and info.name not in config.keep]


def _search(source: Checkpoint, config: PruneConfig, candidates: list[str], count: int) -> list[Step]:
    import torch

    from edgeres.data import dataset_for
    from edgeres.models.fold import load_folded
    from edgeres.prune.choose import greedy, reference_batches

    train = dataset_for(source.spec, config.data or "", download=config.download).train
    sample = train.sample(min(config.images, len(train)), config.seed)
    network = load_folded(source)
    pairs = [
        (torch.from_numpy(images), torch.from_numpy(labels))
        for images, labels in sample.batches(source.spec, config.batch)
    ]
    batches = reference_batches(network, pairs)
    return greedy(
        network, batches, count=count, candidates=candidates, score=config.score, lazy=config.search == "lazy"
    )


def _step_record(step: Step) -> dict[str, Any]:
    scores = {name: round(value, 6) for name, value in step.scores.items()}
    return {"chosen": step.chosen, "score": scores[step.chosen], "images": step.images, "scores": scores}


def _notes(spec: ModelSpec, chosen: tuple[str, ...]) -> list[str]:
    kinds = {info.name: info.kind for info in modules_of(spec)}
    notes = [
        f"dropped {', '.join(chosen)}; {len(kinds) - len(spec.dropped) - len(chosen)} of {len(kinds)} modules left"
    ]
    if projections := [name for name in chosen if kinds[name] == "projection"]:
        notes.append(f"of {', '.join(projections)} the shortcut and the final activation stay (shapes change there)")
    return notes
