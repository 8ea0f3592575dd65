"""How much is lost without some modules: scores of sets, measured, and published criteria for single modules.

SCORES      score(S) of a measured set, lower is better; what a search minimises
CRITERIA    criterion(module), lower goes first; computed once for the network as it is, each module by itself

    kl          mean over images of KL(p_whole || p_without S), nats; needs no labels
    adaptive    kl with batch norms that use the statistics of the batch at hand: what a recovery will make of it.
                Adaptive batch norm of Li et al. 2020 (EagleEye), arXiv 2007.02491. Over 14 sets of 4 of the milder
                modules of ResNet-56 the rank correlation with the KL after 56 steps of recovery was 0.84 for this
                score and -0.16 for kl (1,000 images to choose on, 2,000 other train images to judge on:
                tools/score_figures.py)
    solved      kl once the modules right behind the gaps have been refitted (see repairs): what a solve will make of it
    loss        mean cross-entropy without S
    accuracy    share of wrong first guesses; among equals the lower loss
    feature     |f_without S - f_whole|^2 / |f_whole|^2, f the map before pooling; needs no labels

    block-influence   1 - mean cos(bypass(x), module(x)) over images; Men et al. 2024, arXiv 2403.03853 (for a
                      residual module without projection bypass(x) = x, their x_in)
    l1                mean |w| over the weights of the module's layers, shortcut excluded; Li et al. 2017,
                      arXiv 1608.08710, averaged over the module as in Elkerdawy et al. 2020, arXiv 2007.05667
    taylor            mean over images of |dL/da| at a = 1 in y = bypass(x) + a (module(x) - bypass(x)), L the
                      cross-entropy; Molchanov et al. 2019, arXiv 1906.10771, eq. 8 with a gate, absolute value
    random            a seeded order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeres.core.names import lookup
from edgeres.evaluate.tally import Batch, Tally
from edgeres.models.network import Network, live_in, rows_of

Score = Callable[[Tally], float]
Criterion = Callable[[Network, Sequence[Batch], Sequence[str], int], dict[str, float]]
_CHUNK = 50  # images whose activations are kept for one backward pass


def score_named(name: str) -> Score:
    """The score; raises InputError if unknown."""
    return lookup(SCORES, name, "score")


def _accuracy(tally: Tally) -> float:
    """Wrong guesses plus a loss squeezed into (0, 1), per image: the loss never outweighs one image."""
    return (tally.n - tally.correct_top1 + tally.loss / (1 + tally.loss)) / tally.n


@torch.inference_mode()
def block_influence(
    network: Network, batches: Sequence[Batch], candidates: Sequence[str], seed: int
) -> dict[str, float]:
    """1 - cosine of what enters and what leaves."""
    del seed
    sums, images = dict.fromkeys(candidates, 0.0), 0
    for batch in batches:
        x = network.stem(batch.images)
        for name, unit in network.units():
            y = unit(x)
            if name in sums:
                cosines = F.cosine_similarity(rows_of(unit.bypass(x)), rows_of(y))
                sums[name] += float(cosines.sum(dtype=torch.float64))
            x = y
        images += len(batch.images)
    return {name: 1 - total / images for name, total in sums.items()}


def l1(network: Network, batches: Sequence[Batch], candidates: Sequence[str], seed: int) -> dict[str, float]:
    """Mean |w|; of the network as given, so fold nothing where the published criterion is meant."""
    del batches, seed
    units = dict(network.units())
    return {name: _mean_magnitude(dict(units[name].named_parameters())) for name in candidates}


def taylor(network: Network, batches: Sequence[Batch], candidates: Sequence[str], seed: int) -> dict[str, float]:
    """First-order change of the loss when the module's contribution is taken away."""
    del seed
    sums, images = dict.fromkeys(candidates, 0.0), 0
    for batch in batches:
        for x, labels in zip(torch.split(batch.images, _CHUNK), torch.split(batch.labels, _CHUNK), strict=True):
            for name, total in _gate_gradients(network, x, labels, candidates).items():
                sums[name] += total
            images += len(labels)
    return {name: total / images for name, total in sums.items()}


def random_order(network: Network, batches: Sequence[Batch], candidates: Sequence[str], seed: int) -> dict[str, float]:
    """Uniform in [0, 1)."""
    del network, batches
    drawn = torch.rand(len(candidates), generator=torch.Generator().manual_seed(seed))
    return dict(zip(candidates, drawn.tolist(), strict=True))


def with_batch_statistics(network: Network) -> Network:
    """`network`, its batch norms changed in place to normalise with the batch they see and to remember nothing."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = module.running_var = None
    return network


SCORES: dict[str, Score] = {
    "kl": lambda tally: tally.kl,
    "adaptive": lambda tally: tally.kl,
    "solved": lambda tally: tally.kl,
    "loss": lambda tally: tally.loss,
    "accuracy": _accuracy,
    "feature": lambda tally: tally.feature,
}
CRITERIA: dict[str, Criterion] = {
    "block-influence": block_influence,
    "l1": l1,
    "taylor": taylor,
    "random": random_order,
}


def _mean_magnitude(parameters: dict[str, torch.nn.Parameter]) -> float:
    weights = [p for name, p in parameters.items() if p.ndim > 1 and not name.startswith("downsample.")]
    return float(sum(w.detach().abs().sum() for w in weights)) / sum(w.numel() for w in weights)


@torch.enable_grad()
def _gate_gradients(network: Network, images: Tensor, labels: Tensor, candidates: Sequence[str]) -> dict[str, float]:
    """Per module the sum over images of |dL/dy . (module(x) - bypass(x))|."""
    x = _leaves(network.stem(images))
    outputs, differences = list[tuple[Tensor, ...]](), []
    for name, unit in network.units():
        y = unit(x)
        if name in candidates:
            outputs.append(live_in(y))
            pairs = zip(live_in(y), live_in(unit.bypass(x)), strict=True)
            differences.append([(after - before).detach() for after, before in pairs])
        x = y
    loss = F.cross_entropy(network.classify(network.tail(x)), labels, reduction="sum")
    gradients = iter(torch.autograd.grad(loss, [one for live in outputs for one in live]))
    totals = [
        torch.stack([(next(gradients) * one).flatten(1).sum(1) for one in moved]).sum(0).abs().sum()
        for moved in differences
    ]
    names = [name for name, _ in network.units() if name in candidates]
    return {name: float(total) for name, total in zip(names, totals, strict=True)}


def _leaves(x: Tensor) -> Any:
    """What gradients begin at."""
    cut = tuple(one.detach().requires_grad_() for one in live_in(x))
    return cut if len(cut) > 1 else cut[0]
