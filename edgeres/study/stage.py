"""`edgeres lesion`: delete every module in turn and measure.

Source: Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.1. The split measured is val: a study reports, it
chooses nothing; `edgeres prune` makes its own choice on training images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgeres.core.artifacts import Checkpoint, LesionTableFile
from edgeres.core.config import Config, Record
from edgeres.core.files import write_text
from edgeres.core.metrics import Accuracy, paired_difference
from edgeres.core.progress import track
from edgeres.core.stage import Recorder, StageResult
from edgeres.models import modules_of

if TYPE_CHECKING:
    from edgeres.data import Dataset
    from edgeres.evaluate.lesions import Tally


class LesionConfig(Config):
    """How many images to judge each lesion on."""

    data: str = Field(description="digits, cifar10, folder:PATH, package.module:function")
    images: int | None = Field(None, gt=0, description="of val, stratified; default: all")
    batch: int = Field(250, gt=0, description="images at a time")
    seed: int = Field(0, ge=0, description="of the choice of images")
    download: bool = Field(False, description="fetch the data set if it is not here")


class Lesion(Record):
    """The network without one module, on the images the whole network was judged on."""

    module: str
    kind: str
    accuracy: Accuracy
    loss: float
    kl: float
    change_points: float
    half_width_points: float


class LesionTable(Record):
    """All lesions of one checkpoint; `whole` is the network as it is."""

    kind: Literal["lesions"] = "lesions"
    schema_version: int = 1
    model_sha256: str
    whole: Lesion
    table: tuple[Lesion, ...]


def lesion(source: Checkpoint, config: LesionConfig, out_dir: Path) -> StageResult[LesionTableFile]:
    """Writes out_dir/lesions.json."""
    from edgeres.data import dataset_for

    recorder = Recorder("lesion", config, source)
    dataset = dataset_for(source.spec, config.data, download=config.download)
    if config.images is not None and config.images < len(dataset.val):
        dataset = replace(dataset, val=dataset.val.sample(config.images, config.seed))
    tallies, runtime = _tallies(source, dataset, config.batch)
    table = _table(source, dataset, tallies, runtime)
    output = LesionTableFile(out_dir / "lesions.json")
    write_text(output.path, table.model_dump_json(indent=1) + "\n")
    recorder.results |= table.model_dump(mode="json", include={"whole", "table"})
    recorder.notes.append(_summary(table))
    return StageResult(output, recorder.finish(output))


def _tallies(source: Checkpoint, dataset: Dataset, batch: int) -> tuple[dict[str, Tally], str]:
    import torch

    from edgeres.evaluate.lesions import add_lesions
    from edgeres.models.fold import load_folded

    network = load_folded(source)
    tallies: dict[str, Tally] = {}
    for images, labels in track(dataset.val.batches(source.spec, batch), "lesion", -(-len(dataset.val) // batch)):
        x = torch.from_numpy(images)
        with torch.inference_mode():
            reference = network(x)
        add_lesions(tallies, network, (x, torch.from_numpy(labels), reference))
    return tallies, f"torch {torch.__version__} cpu"


def _table(source: Checkpoint, dataset: Dataset, tallies: dict[str, Tally], runtime: str) -> LesionTable:
    from edgeres.evaluate.lesions import WHOLE

    kinds: dict[str, str] = {info.name: info.kind for info in modules_of(source.spec)}

    def row(name: str) -> Lesion:
        tally, whole = tallies[name], tallies[WHOLE]
        change, half = paired_difference(_flags(whole), _flags(tally))
        return Lesion(
            module=name,
            kind=kinds.get(name, "whole"),
            accuracy=Accuracy(
                correct_top1=tally.correct_top1,
                correct_top5=tally.correct_top5,
                n=tally.n,
                dataset=dataset.name,
                split="val",
                runtime=runtime,
                artifact=source.sha256,
            ),
            loss=tally.loss,
            kl=tally.kl,
            change_points=100 * change,
            half_width_points=100 * half,
        )

    names = [info.name for info in modules_of(source.spec) if info.name in tallies]
    return LesionTable(model_sha256=source.sha256, whole=row(WHOLE), table=tuple(row(name) for name in names))


def _flags(tally: Tally) -> list[bool]:
    return [bool(flag) for batch in tally.right for flag in batch.tolist()]


def _summary(table: LesionTable) -> str:
    mild = min(table.table, key=lambda row: -row.change_points)
    hard = max(table.table, key=lambda row: -row.change_points)
    return (
        f"mildest lesion {mild.module} ({mild.change_points:+.1f} points), hardest {hard.module}"
        f" ({hard.change_points:+.1f}), n = {table.whole.accuracy.n}"
    )
