"""`edgeres study paths`: how long are the paths through a residual network, and which of them carry gradient?

n modules make 2^n paths, C(n, k) of them through k branches. For every k some paths are drawn at random and their
gradient at the images is measured; count times magnitude says what paths of that length carry together. As gradients
of different paths point different ways, that is an upper bound; beside it stands the exact figure, the part of the
network's gradient that all paths of that length together make, which needs no drawing (`path_gradients`).

Source: Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.3, figure 6. Images are of train, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from edgeres.core.artifacts import Checkpoint, StudyFile
from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.figures import COLOURS, whiskers
from edgeres.core.progress import track
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import Interval
from edgeres.study.outcomes import Floats
from edgeres.study.path_claims import PAPER, PAPER_MODULES, Lengths, claims_of, lengths_of
from edgeres.study.result import Picture, Row, Study, finish, joined, numbers

if TYPE_CHECKING:
    from edgeres.data import Dataset
    from edgeres.study.path_gradients import PathGradients

_FULL_DRAWS = 1000  # measurements for each length in the paper


class PathsConfig(Config):
    """How many images and how many paths of each length."""

    data: str = Field(description="digits, cifar10, folder:PATH, package.module:function")
    images: int = Field(default=128, gt=0, description="of train, stratified")
    batch: int = Field(default=32, gt=0, description="images whose gradients are measured along one drawn path")
    seed: int = Field(default=0, ge=0, description="of the choice of images and paths")
    draws: int = Field(default=20, ge=2, description="random paths of each length")
    full: bool = Field(default=False, description=f"{_FULL_DRAWS} random paths of each length, as in the paper")
    download: bool = Field(default=False, description="fetch the data set if it is not here")


def paths(source: Checkpoint, config: PathsConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, study.csv and study.svg; raises InputError for a network without shortcuts."""
    from edgeres.data import dataset_for

    recorder = Recorder("paths", config, source)
    dataset = dataset_for(source.spec, config.data, download=config.download)
    magnitudes, along = _measured(source, dataset, config)
    lengths = lengths_of(magnitudes, along, seed=config.seed)
    claims, n = claims_of(lengths), len(lengths.rows) - 1
    said = joined(claims, PAPER)
    study = Study(
        name="paths",
        claim=said.claim,
        source=PAPER,
        verdict=said.verdict,
        because=f"{said.because}; the paper's network has {PAPER_MODULES} modules, this one {n}",
        setting="full" if config.full else "short",
        data=dataset.name,
        n=min(config.images, len(dataset.train)),
        seeds=(config.seed,),
        networks=(source.spec.variant,),
        rows=tuple(map(_rounded, lengths.rows)),
        summary={**lengths.model_dump(exclude={"rows"}), "claims": claims},
    )
    picture = Picture(lambda axes, study: _draw_paths(axes, lengths, study), panels=3, width_in=13.0)
    return finish(study, recorder, out_dir, picture)


def _measured(source: Checkpoint, dataset: Dataset, config: PathsConfig) -> tuple[Floats, Floats]:
    """Magnitudes of the drawn paths (n + 1, draws) and the part of the gradient that each length makes (n + 1,).

    A magnitude is relative to the whole network's gradient on the same images, so that batches can be compared.
    """
    generator = np.random.default_rng(config.seed)
    draws = _FULL_DRAWS if config.full else config.draws
    batches = _batches(source, dataset, config)
    total = min(config.images, len(dataset.train))
    projected, norms, columns = [], [], []
    parts = -(-total // config.batch)
    for number, gradients in enumerate(track(batches, "paths", parts)):
        along, norm = along_gradient(gradients)
        projected.append(along.sum(1))
        norms.append(float(norm.sum()))
        wanted = draws // parts + (number < draws % parts)
        columns += [_one_of_each_length(gradients, generator) / float(norm.mean()) for _ in range(wanted)]
    return np.stack(columns, axis=1), np.sum(projected, axis=0) / sum(norms)


def _batches(source: Checkpoint, dataset: Dataset, config: PathsConfig) -> Iterator[PathGradients]:
    import torch

    from edgeres.models.fold import load_folded
    from edgeres.study.path_gradients import PathGradients

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_folded(source).to(device).requires_grad_(False)
    images = dataset.train.sample(min(config.images, len(dataset.train)), config.seed)
    for x, labels in images.batches(source.spec, config.batch):
        try:
            gradients = PathGradients(network, torch.from_numpy(x).to(device), torch.from_numpy(labels).to(device))
        except TypeError as err:
            raise InputError(f"{source.spec.variant}: {err}; this study needs a residual network") from err
        if gradients.modules == 0:
            raise InputError(f"{source.path}: no module is left to pass through")
        yield gradients


def along_gradient(gradients: PathGradients) -> tuple[Floats, Floats]:
    """Each length's gradient projected on the whole one (n + 1, N), and the whole one's norm (N,), for N images."""
    import torch

    by_length = torch.stack([gradient.flatten(1).double() for gradient in gradients.by_length()])
    whole = by_length.sum(0)
    norms = whole.norm(dim=1)
    direction = whole / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    return (by_length * direction).sum(dim=2).cpu().numpy(), norms.cpu().numpy()


def _one_of_each_length(gradients: PathGradients, generator: np.random.Generator) -> Floats:
    """Mean over images of the gradient's norm (n + 1,), a random path for each length."""
    n = gradients.modules
    chosen = [set(generator.choice(n, k, replace=False).tolist()) for k in range(n + 1)]
    return np.asarray([float(gradients.along(path).flatten(1).norm(dim=1).mean()) for path in chosen])


def _rounded(row: Row) -> Row:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def _draw_paths(axes: Sequence[Any], lengths: Lengths, study: Study) -> None:
    """As figure 6 of the paper: how many, how strong, and both together, over the path's length."""
    n = len(lengths.rows) - 1
    ks = np.arange(n + 1.0)
    axes[0].bar(ks, _percent(lengths, "share_of_paths"), color=COLOURS[0])
    axes[0].set_ylabel("share of all paths, %")
    axes[0].set_title(f"{study.networks[0]}: 2^{n} paths", fontsize=10)
    _draw_magnitudes(axes[1], lengths, ks)
    axes[1].set_title(f"{lengths.draws} paths a length, n = {study.n:,} train images", fontsize=10)
    _draw_shares(axes[2], lengths, ks)
    for panel in axes:
        panel.set_xlabel("modules on the path")
        panel.set_xlim(-0.6, n + 0.6)


def _percent(lengths: Lengths, column: str) -> Floats:
    return 100 * np.asarray(numbers(lengths.rows, column))


def _draw_magnitudes(panel: Any, lengths: Lengths, ks: Floats) -> None:
    columns = (numbers(lengths.rows, name) for name in ("magnitude", "magnitude_low", "magnitude_high"))
    means, reach = whiskers(
        [Interval(value=mean, low=low, high=high) for mean, low, high in zip(*columns, strict=True)]
    )
    panel.errorbar(ks, means, reach, fmt="o", markersize=3, capsize=2, label="mean, 95 % interval")
    if min(means) > 0:
        slope, intercept = np.polyfit(ks, np.log(means), 1)
        label = f"× {np.exp(slope):.2f} per module, R² {lengths.r2.value:.2f}"
        panel.plot(ks, np.exp(slope * ks + intercept), color=COLOURS[1], linewidth=1, label=label)
    panel.set_yscale("log")
    panel.set_ylabel("gradient of one path / whole gradient")
    panel.legend(fontsize=8)


def _draw_shares(panel: Any, lengths: Lengths, ks: Floats) -> None:
    effective = lengths.effective_bound
    panel.axvspan(effective.shortest - 0.5, effective.longest + 0.5, color=COLOURS[0], alpha=0.12, linewidth=0)
    panel.bar(ks, _percent(lengths, "share_bound"), color=COLOURS[0], label="count × magnitude")
    panel.plot(ks, _percent(lengths, "share"), "o-", color=COLOURS[1], markersize=3, label="exact")
    panel.set_ylabel("share of the gradient, %")
    share = 100 * effective.share_of_paths.value
    panel.set_title(f"95 % in {effective.shortest} to {effective.longest}: {share:.2g} % of paths", fontsize=10)
    panel.legend(fontsize=8)
