"""`edgeres study paths`: how long are the paths through a residual network, and which of them carry gradient?

n modules make 2^n paths, C(n, k) of them through k branches. For every k some paths are drawn at random and their
gradient at the images is measured; count times magnitude says what paths of that length carry together. As gradients
of different paths point different ways, that is an upper bound; beside it stands the exact figure, the part of the
network's gradient that all paths of that length together make, which needs no drawing (`path_gradients`).

Source: Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.3, figure 6. Images are of train, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeres.core.artifacts import Checkpoint, StudyFile
from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.pictures import COLOURS, whiskers
from edgeres.core.progress import track
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import RESAMPLES, resampled_interval
from edgeres.data import Dataset, dataset_for
from edgeres.models.weights import load_folded
from edgeres.study.config import PATHS_IN_FULL, PathsConfig
from edgeres.study.outcomes import Floats
from edgeres.study.path_gradients import PathGradients
from edgeres.study.result import Claim, Picture, Row, Study, finish, joined, judged, numbers

PAPER = "Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.3, figure 6"
PAPER_MODULES = 54
ALMOST_ALL = 0.95  # of the gradient
GOOD_FIT = 0.9  # R2 of a straight line through the logarithms
MINORITY = 0.5  # of the paths
ROUNDING = 64 * np.finfo(float).eps  # of logarithm, power and fit; exact exponentials leave up to 4 eps
MIN_MODULES = 9  # fewer make too few lengths for a fit


def paths(source: Checkpoint, config: PathsConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, study.csv and study.svg; raises InputError for a network without shortcuts."""
    recorder = Recorder("paths", config, source)
    source.spec.check_classes("study paths")
    dataset = dataset_for(source.spec, config.data, download=config.download)
    dataset.train.check_labelled("study paths")
    magnitudes, along = _measured(source, dataset, config)
    lengths = lengths_of(magnitudes, along, seed=config.seed)
    claims, n = claims_of(lengths), len(lengths.rows) - 1
    said = joined(claims, PAPER)
    because = f"{said.because}; the paper's network has {PAPER_MODULES} modules, this one {n}"
    study = Study(
        name="paths",
        **{**dict(said), "because": because},
        setting="full" if config.full else "short",
        data=dataset.name,
        n=min(config.images, len(dataset.train)),
        seeds=(config.seed,),
        networks=(source.spec.variant,),
        rows=tuple(
            {name: float(f"{one:.6g}") if isinstance(one, float) else one for name, one in row.items()}
            for row in lengths.rows
        ),
        summary={**lengths.model_dump(exclude={"rows"}), "claims": claims},
    )
    picture = Picture(lambda axes, study: _draw_paths(axes, lengths, study), panels=3, width_in=13.0)
    return finish(study, recorder, out_dir, picture)


def _measured(source: Checkpoint, dataset: Dataset, config: PathsConfig) -> tuple[Floats, Floats]:
    """Magnitudes of the drawn paths (n + 1, draws) and the part of the gradient that each length makes (n + 1,).

    A magnitude is relative to the whole network's gradient on the same images, so that batches can be compared.
    """
    generator = np.random.default_rng(config.seed)
    draws = PATHS_IN_FULL if config.full else config.draws
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


class Effective(Record):
    """The shortest range of lengths that holds ALMOST_ALL of the gradient, and the share of all paths it holds."""

    shortest: int
    longest: int
    share_of_gradient: float
    share_of_paths: Interval


class Lengths(Record):
    """`factor` is what one more branch multiplies the magnitude with, by a fit of its logarithm; `r2` is the fit's.

    `effective_bound` goes by count times magnitude, as in the paper; `effective` by the exact shares. A row is about
    all paths through `length` branches: `magnitude` is the mean gradient norm at the images along one of them over the
    whole network's, with its 95 % interval over paths; `share_bound` is count times magnitude, as a share of the sum
    over lengths; `share` the exact share of the network's gradient.
    """

    draws: int
    factor: Interval
    r2: Interval
    mean_length: Interval
    effective_bound: Effective
    effective: Effective
    rows: tuple[Row, ...]


def lengths_of(magnitudes: Floats, shares: Floats, *, seed: int = 0) -> Lengths:
    """From magnitudes (n + 1, draws) of single paths by length and exact shares (n + 1,)."""
    n, draws = len(magnitudes) - 1, magnitudes.shape[1]
    generator = np.random.default_rng(seed)
    places = generator.integers(draws, size=(RESAMPLES, n + 1, draws))
    again = np.take_along_axis(magnitudes[None], places, axis=2).mean(2)
    means, counts = magnitudes.mean(1), path_counts(n)
    bounds, bounds_again = _normalised(counts * means), _normalised(counts * again)
    fits, lengths = np.asarray([exponential_fit(one) for one in again]), np.arange(n + 1)
    factor, r2 = exponential_fit(means)
    return Lengths(
        draws=draws,
        factor=resampled_interval(factor, fits[:, 0]),
        r2=resampled_interval(r2, fits[:, 1]),
        mean_length=resampled_interval(float(bounds @ lengths), bounds_again @ lengths),
        effective_bound=_effective(bounds, bounds_again),
        effective=_effective(shares, shares[None]),
        rows=tuple(
            {
                "length": k,
                "paths": math.comb(n, k),
                "share_of_paths": math.comb(n, k) / 2**n,
                "magnitude": float(means[k]),
                "magnitude_low": float(np.percentile(again[:, k], 2.5)),
                "magnitude_high": float(np.percentile(again[:, k], 97.5)),
                "share_bound": float(bounds[k]),
                "share": float(shares[k]),
            }
            for k in range(n + 1)
        ),
    )


def path_counts(n: int) -> Floats:
    """C(n, k) for k = 0 ... n."""
    return np.asarray([float(math.comb(n, k)) for k in range(n + 1)])


def exponential_fit(magnitudes: Floats) -> tuple[float, float]:
    """(factor per module, R2) of a least-squares line through the logarithms of magnitudes (n + 1,), zeros left out.

    A line that leaves nothing but rounding is exact, R2 1, also where all magnitudes are equal and R2 would be 0 / 0.
    """
    lengths = np.flatnonzero(magnitudes > 0)
    if len(lengths) < 3:
        return math.nan, math.nan
    logs = np.log(magnitudes[lengths])
    slope, intercept = np.polyfit(lengths, logs, 1)
    spread = float(((logs - logs.mean()) ** 2).sum())
    rests = np.abs(logs - slope * lengths - intercept)
    exact = rests.max() <= ROUNDING * max(1.0, np.abs(logs).max())
    return float(np.exp(slope)), 1.0 if exact else max(0.0, 1 - float((rests**2).sum()) / spread)


def shortest_range(shares: Floats, wanted: float = ALMOST_ALL) -> tuple[int, int]:
    """First and last of the fewest neighbouring lengths that hold `wanted` of the sum 1; the fullest, if several."""
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    for width in range(1, len(shares) + 1):
        held = edges[width:] - edges[:-width]
        best = int(np.argmax(held))
        if held[best] >= wanted:
            return best, best + width - 1
    return 0, len(shares) - 1


def _effective(shares: Floats, again: Floats) -> Effective:
    first, last = shortest_range(shares)
    weights = path_counts(len(shares) - 1) / 2 ** (len(shares) - 1)
    held = [float(weights[a : b + 1].sum()) for a, b in map(shortest_range, again)]
    return Effective(
        shortest=first,
        longest=last,
        share_of_gradient=float(shares[first : last + 1].sum()),
        share_of_paths=resampled_interval(float(weights[first : last + 1].sum()), np.asarray(held)),
    )


def _normalised(values: Floats) -> Floats:
    result: Floats = values / values.sum(axis=-1, keepdims=True)
    return result


def claims_of(lengths: Lengths) -> tuple[Claim, ...]:
    """Exponential fall, and few short paths that carry almost everything."""
    return _falls_exponentially(lengths), _short_ones_carry(lengths)


def _falls_exponentially(lengths: Lengths) -> Claim:
    factor, r2 = lengths.factor, lengths.r2
    return Claim(
        claim="the gradient along a path falls exponentially with the number of modules it passes through",
        source=PAPER,
        verdict=judged(
            holds=factor.high < 1 and r2.low >= GOOD_FIT,
            fails=factor.low >= 1 or r2.high < GOOD_FIT,
            enough=len(lengths.rows) > MIN_MODULES,
        ),
        because=(
            f"each module more multiplies it by {factor.text()}, R2 of the exponential {r2.text()}, {lengths.draws}"
            f" paths of each of {len(lengths.rows)} lengths"
        ),
    )


def _short_ones_carry(lengths: Lengths) -> Claim:
    bound, exact, n = lengths.effective_bound, lengths.effective, len(lengths.rows) - 1
    held = bound.share_of_paths
    return Claim(
        claim="almost all of the gradient comes from few paths that are short",
        source=PAPER,
        verdict=judged(holds=held.high < MINORITY and lengths.mean_length.high < n / 2, fails=held.low >= MINORITY),
        because=(
            f"{100 * ALMOST_ALL:.0f} % of count times magnitude lies at lengths {bound.shortest} to {bound.longest},"
            f" {held.times(100).text('.3g')} % of all paths; of the gradient itself, where paths"
            f" may cancel, at {exact.shortest} to {exact.longest}, {100 * exact.share_of_paths.value:.3g} %; the paths'"
            f" mean length is {n / 2:g} and {lengths.mean_length.text('.1f')} weighted by gradient"
        ),
    )
