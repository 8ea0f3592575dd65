"""`edgeres study gradients`: how large the gradient is that reaches each module, at the start and in training.

    g_l = || d(mean cross-entropy) / d(x_l) ||_2     x_l: output of module l for a fixed batch, x_0: output of the stem

Four networks of one depth: plain and residual, each with batch norm and with a learned shift in its place. A gradient
vanishes if g_0 / g_L is small. The weights' own gradients would say little between layers: in a plain network of ReLUs
without norms <dE/dW, W> is the same for every layer, whatever is lost on the way (Euler).

Source: He et al. 2015, arXiv 1512.03385, section 4.1 (plain networks with batch norm have healthy gradients, so it is
not vanishing ones that make deep ones fail); He et al. 2016, arXiv 1603.05027, eq. 5 (identity shortcuts pass them on).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgeres.core.amounts import counted
from edgeres.core.artifacts import StudyFile
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageResult
from edgeres.data import Dataset
from edgeres.models.network import Network
from edgeres.study.config import GradientsConfig
from edgeres.study.experiment import Experiment, Job, Kind, NetworkResult, fresh, network_trained
from edgeres.study.result import Claim, Picture, Row, Study, by_seed, integers, joined, mean_interval, within
from edgeres.train.state import clear_state

Norms = tuple[float, ...]  # of the output of the stem and of each module
KINDS = {
    "plain": ("plain", True),
    "plain without BN": ("plain", False),
    "residual": ("resnet", True),
    "residual without BN": ("resnet", False),
}
VANISHED = 0.1  # g_0 / g_L below an order of magnitude
_SMALLEST = 1e-38  # float32's smallest normal number: a gradient of 0 is somewhere below
_LARGEST_EXPONENT = 700.0  # of e in double precision
_HE_2015 = "He et al. 2015, arXiv 1512.03385, section 4.1"
_HE_2016 = "He et al. 2016, arXiv 1603.05027, eq. 5"
CLAIMS = {
    "plain networks with batch norm do not lose the gradient on the way to the first module": (_HE_2015, ("plain",)),
    "residual networks do not lose it with batch norm or without": (_HE_2016, ("residual", "residual without BN")),
}


class Gradients(NetworkResult):
    """The gradients of one network: epoch -> per module, the stem first, that of its output."""

    file: ClassVar[str] = "gradients.json"

    norms: dict[int, Norms]
    train_loss: float

    def rows(self) -> list[Row]:
        """One row a module and epoch."""
        return [
            {"epoch": epoch, "module": module, "gradient_norm": gradient, "train_loss_at_the_end": self.train_loss}
            for epoch, norms in sorted(self.norms.items())
            for module, gradient in enumerate(norms)
        ]


def gradients(source: None, config: GradientsConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg into `out_dir`; interrupted, the same call goes on with the next network."""
    experiment = Experiment("gradients", config, [_kind(name, config.depth) for name in KINDS], out_dir)
    data, images = experiment.dataset, config.images
    if images > len(data.train):
        raise InputError(f"--images {images}: {data.name} has {len(data.train)} training images")
    rows = experiment.rows(Gradients, lambda job, dataset, folder: _measured(job, dataset, folder, images=images))
    claims, ratios = claims_of(rows)
    summary = {
        "claims": claims,
        "first_over_last_module": ratios,
        "mean_train_loss_at_the_end": {
            kind: mean_interval(by_seed(rows, "train_loss_at_the_end", network=kind, epoch=0, module=0)).value
            for kind in KINDS
        },
        "vanished_below": VANISHED,
    }
    claim, picture = joined(claims, f"{_HE_2015}; {_HE_2016}"), Picture(_draw, panels=2, width_in=8.8)
    return experiment.finish(claim, rows, summary, picture, n=images)


def _kind(name: str, depth: int) -> Kind:
    family, has_norm = KINDS[name]
    change = None if has_norm else without_norm
    return Kind(name.replace(" ", "-"), f"{name} {depth}", f"{family}{depth}cifar", {"network": name}, change=change)


def _measured(job: Job, dataset: Dataset, folder: Path, *, images: int) -> Gradients:
    """The gradients of one network on the same images of train; a training broken off begins anew."""
    clear_state(folder)
    x, labels = next(dataset.train.sample(images, seed=0).batches(job.spec, images))
    probe = Probe(torch.from_numpy(x), torch.from_numpy(labels), job.loop.epochs)
    probe(fresh(job))
    _, loss = network_trained(job, dataset, folder, probe)
    return Gradients(norms=probe.norms, train_loss=loss)


def claims_of(rows: Sequence[Row]) -> tuple[list[Claim], dict[str, dict[int, Interval]]]:
    """The claims with their verdicts, and g_0 / g_L by kind and epoch: geometric means with their 95 % intervals.

    For a claim, those of every kind it names have to lie above VANISHED at every epoch.
    """
    ratios = {kind: _ratios(rows, kind) for kind in KINDS}
    seeds = len({row["seed"] for row in rows})
    claims = [
        _judged(claim, source, {kind: ratios[kind] for kind in kinds}, seeds=seeds)
        for claim, (source, kinds) in CLAIMS.items()
    ]
    return claims, ratios


def _judged(claim: str, source: str, ratios: dict[str, dict[int, Interval]], *, seeds: int) -> Claim:
    intervals = [interval for of_epoch in ratios.values() for interval in of_epoch.values()]
    verdict = within(((interval, VANISHED, math.inf) for interval in intervals), seeds)
    parts = [
        f"{kind} {of_epoch[min(of_epoch)].value:.3g} at the start and {of_epoch[max(of_epoch)].value:.3g} at the end"
        for kind, of_epoch in ratios.items()
    ]
    lowest = min(interval.low for interval in intervals)
    because = f"first over last module's gradient {', '.join(parts)} (lowest bound {lowest:.2g}, seeds: {seeds})"
    return Claim(claim=claim, source=source, verdict=verdict, because=because)


def _ratios(rows: Sequence[Row], kind: str) -> dict[int, Interval]:
    """Epoch -> g_0 / g_L over seeds."""
    of_kind = [row for row in rows if row["network"] == kind]
    last = max(integers(of_kind, "module"))
    return {
        epoch: geometric_interval(
            by_seed(of_kind, "gradient_norm", epoch=epoch, module=0),
            by_seed(of_kind, "gradient_norm", epoch=epoch, module=last),
        )
        for epoch in integers(of_kind, "epoch")
    }


def geometric_interval(over: Sequence[float], under: Sequence[float]) -> Interval:
    """Geometric mean of the ratios with its 95 % t interval."""
    logs = [math.log(max(a, _SMALLEST)) - math.log(max(b, _SMALLEST)) for a, b in zip(over, under, strict=True)]
    bounds = {name: math.exp(min(exponent, _LARGEST_EXPONENT)) for name, exponent in mean_interval(logs)}
    return Interval(**bounds)


def _draw(axes: Any, study: Study) -> None:
    epochs = integers(study.rows, "epoch")
    for panel, epoch in zip(axes, (epochs[0], epochs[-1]), strict=True):
        for place, kind in enumerate(KINDS):
            _draw_kind(panel, study, kind, epoch=epoch, colour=f"C{place // 2}")
        panel.set(xlabel="module (0: the stem)", yscale="log")
        panel.xaxis.get_major_locator().set_params(integer=True)
        when = "at the start" if epoch == 0 else f"after {counted(epoch, 'epoch')}"
        panel.set_title(f"{when}: {study.trained}", loc="left", fontsize=10)
    axes[0].set_ylabel(f"gradient of the module's output\n(L2 norm, {study.n} images)")
    axes[0].sharey(axes[1])
    axes[1].legend(fontsize=8)


def _draw_kind(panel: Any, study: Study, kind: str, *, epoch: int, colour: str) -> None:
    """The median over seeds and all of them as a band."""
    rows = [row for row in study.rows if row["network"] == kind and row["epoch"] == epoch]
    modules = integers(rows, "module")
    values = [sorted(max(v, _SMALLEST) for v in by_seed(rows, "gradient_norm", module=module)) for module in modules]
    style = ":" if kind.endswith("without BN") else "-"
    panel.plot(modules, [each[len(each) // 2] for each in values], style, color=colour, label=kind)
    panel.fill_between(modules, [each[0] for each in values], [each[-1] for each in values], color=colour, alpha=0.2)


class Shift(nn.Module):
    """What is left of a batch norm without the norm: x + b, one b a channel: the bias of the layer it follows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return x + self.bias.view(-1, *[1] * (x.ndim - 2))


def without_norm(network: nn.Module) -> None:
    """Puts a Shift in place of every batch norm."""
    for name, child in network.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(network, name, Shift(child.num_features))
        else:
            without_norm(child)


def gradient_norms(network: Network, images: Tensor, labels: Tensor) -> Norms:
    """For the stem and each module: the L2 norm of the gradient of its output.

    The loss is the mean cross-entropy of `images`, float32 (N, C, H, W), in training mode (batch norm sees the batch);
    the network itself, its statistics and its gradients are left as they are.
    """
    network = copy.deepcopy(network).train().requires_grad_()
    x = network.stem(images)
    outputs = [x]
    for _, unit in network.units():
        x = unit(x)
        outputs.append(x)
    loss = nn.functional.cross_entropy(network.classify(network.tail(x)), labels)
    return tuple(float(gradient.norm()) for gradient in torch.autograd.grad(loss, outputs))


class Probe:
    """Takes the gradients of a network in training: called once an epoch, it keeps those of the epochs wanted."""

    def __init__(self, images: Tensor, labels: Tensor, epochs: int) -> None:
        self._images, self._labels = images, labels
        self._wanted, self._epoch = {0, 1, epochs // 2, epochs}, 0
        self.norms: dict[int, Norms] = {}

    def __call__(self, network: nn.Module) -> float:
        """Looks at the network at the end of an epoch (first of all before training); there is no accuracy to log."""
        assert isinstance(network, Network)
        if self._epoch in self._wanted:
            device = next(network.parameters()).device
            self.norms[self._epoch] = gradient_norms(network, self._images.to(device), self._labels.to(device))
        self._epoch += 1
        return math.nan
