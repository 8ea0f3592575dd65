"""A module as layers with their batch norms folded in, fit for being given other weights, and those written back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeres.models.network import Parts, Unit
from edgeres.refit.ridge import Affine, Refit, Rows, Total, as_it_is, fitted, joined

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Conv2d, nn.Linear)


class FoldedLayer:
    """A convolution or linear layer and the batch norm that follows it as one, y = W x + b, behind what leads to it."""

    def __init__(self, lead: list[nn.Module], layer: nn.Conv2d | nn.Linear, norm: nn.Module | None) -> None:
        self.lead, self.layer = lead, layer
        self._norm = norm if isinstance(norm, _NORMS) else None
        self._groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        weight = layer.weight.double().movedim(1, -1).flatten(1)  # of each pixel seen all channels together
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
        if self._norm is not None:
            (mean, variance), norm = _statistics(self._norm), self._norm
            scale = norm.weight / (variance.double() + norm.eps).sqrt()
            weight, bias = weight * scale[:, None], (bias - mean) * scale + norm.bias
        self.set(weight, bias)

    def set(self, weight: Tensor, bias: Tensor) -> None:
        """weight: (outputs, columns), bias: (outputs,), double."""
        self._weight, self._bias = weight, bias
        self._applied = self._as_stored(weight).float(), bias.float()

    def take(self, fit: Refit) -> None:
        """The weight and bias of `fit`."""
        self.set(fit.layer.weight.mT.flatten(0, 1), fit.layer.bias.flatten())

    @property
    def present(self) -> Affine:
        """Weight and bias by group."""
        grouped = self._weight.view(self._groups, -1, self._weight.shape[1])
        return Affine(grouped.mT, self._bias.view(self._groups, 1, -1))

    @property
    def columns(self) -> int:
        """Of all groups."""
        return self._weight.shape[1] * self._groups

    @property
    def size_bytes(self) -> int:
        """Of the weights that are kept here."""
        return self._weight.numel() * (self._weight.element_size() + self._applied[0].element_size())

    @property
    def has_bias(self) -> bool:
        """Whether there is room for one."""
        return self._norm is not None or self.layer.bias is not None

    def __call__(self, x: Tensor) -> Tensor:
        """What stands behind the batch norm gets this."""
        layer, x = self.layer, run(self.lead, x)
        if isinstance(layer, nn.Linear):
            return F.linear(x, *self._applied)
        return F.conv2d(x, *self._applied, layer.stride, layer.padding, layer.dilation, layer.groups)

    def inputs(self, x: Tensor, positions: Tensor) -> Tensor:
        """What the layer sees at some of its output's positions: (groups, images * positions, columns)."""
        layer, x = self.layer, run(self.lead, x)
        if isinstance(layer, nn.Linear):
            return x[None]
        x = F.pad(x, layer._reversed_padding_repeated_twice)
        reach = [d * torch.arange(k, device=x.device) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        across = (x.shape[3] - 1 - int(reach[1][-1])) // layer.stride[1] + 1
        row, column = positions // across * layer.stride[0], positions % across * layer.stride[1]
        seen = (row[:, None] + reach[0])[:, :, None] * x.shape[3] + (column[:, None] + reach[1])[:, None]
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)[:, seen.flatten()]
        by_group = pixels.view(len(x) * len(positions), seen[0].numel(), self._groups, -1).permute(2, 0, 1, 3)
        return by_group.flatten(2)

    def outputs(self, y: Tensor, positions: Tensor) -> Tensor:
        """Of a map like the layer's output, what is at some positions: (groups, images * positions, outputs)."""
        if y.ndim > 2:
            y = y.permute(0, 2, 3, 1).flatten(1, 2)[:, positions].flatten(0, 1)
        return y.view(len(y), self._groups, -1).transpose(0, 1)

    def write_back(self, fit: Refit, carrier: nn.Module | None) -> None:
        """`fit` into layer and norm; a bias that neither has room for is taken off the mean of `carrier`.

        Filters stay as large as they were, and the norm gets the statistics of what the layer now gives.
        """
        layer, norm, scale = self.layer, self._norm, torch.ones_like(self._bias)
        if norm is not None:
            before, now = layer.weight.double().flatten(1).norm(dim=1), self._weight.norm(dim=1)
            scale = torch.where((before > 0) & (now > 0), before / now, scale)
            mean, variance = fit.mean.flatten(), scale.square() * fit.variance.flatten()
            running_mean, running_var = _statistics(norm)
            running_mean.copy_(scale * mean + (0 if layer.bias is None else layer.bias))
            running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt() / scale)
            norm.bias.copy_(self._bias + mean)
        elif layer.bias is not None:
            layer.bias.copy_(self._bias)
        elif isinstance(carrier, _NORMS):
            _statistics(carrier)[0].sub_(self._bias)
        layer.weight.copy_(self._as_stored(scale[:, None] * self._weight))

    def _as_stored(self, weight: Tensor) -> Tensor:
        """(outputs, columns) in the layer's own order."""
        if isinstance(self.layer, nn.Linear):
            return weight
        by_pixel = weight.view(len(weight), *self.layer.kernel_size, -1)
        return by_pixel.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


class Look(NamedTuple):
    """What a module gets, the positions looked at and what a layer is to give there: (groups, rows, outputs)."""

    x: Tensor
    positions: Tensor
    targets: Tensor


@dataclass(frozen=True)
class FoldedModule:
    """`layers`, what follows the last of them inside F, and h and f; x is all that is live before the module."""

    layers: list[FoldedLayer]
    trailing: list[nn.Module]
    parts: Parts

    def inner(self, x: Tensor) -> list[Tensor]:
        """What each layer gives."""
        found = [self.parts.enter(x)]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return found[1:]

    def total(self, x: Tensor, last: Tensor) -> Tensor:
        """h(x) + F(x), F from what its last layer gives."""
        y = run(self.trailing, last)
        return y if self.parts.skip is None else self.parts.skip(self.parts.enter(x)) + y

    def after(self, y: Tensor) -> Tensor:
        """f(y)."""
        return run(self.parts.after, y)

    def __call__(self, x: Tensor) -> Tensor:
        """f(h(x) + F(x)), and what is live beside it."""
        return self.parts.leave(x, self.end(x))  # type: ignore[no-any-return]

    def end(self, x: Tensor) -> Tensor:
        """f(h(x) + F(x)) alone."""
        return self.after(self.total(x, self.inner(x)[-1]))

    @property
    def is_open(self) -> bool:
        """Whether the last layer can be aimed at the sum: at most a ReLU stands between."""
        return all(isinstance(module, nn.ReLU) for module in self.trailing)

    def goals(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(what a module in this one's place aims each of its layers at, h(x) + F(x)); `x` is what this module gets.

        The last aims at the sum where it can.
        """
        inner = self.inner(x)
        total = self.total(x, inner[-1])
        return [*inner[:-1], total if self.is_open else inner[-1]], total

    def rows(self, number: int, looks: Iterable[Look], n: int) -> Rows:
        """All `n` of layer `number`, those before it as they are by now; one look after the other is taken."""
        return joined((self._rows(number, *look) for look in looks), n)

    def _rows(self, number: int, x: Tensor, positions: Tensor, targets: Tensor) -> Rows:
        layer, seen = self.layers[number], self.parts.enter(x)
        for before in self.layers[:number]:
            seen = before(seen)
        inputs = layer.inputs(seen, positions)
        if number < len(self.layers) - 1 or not self.is_open or self.parts.skip is None:
            return Rows(inputs, targets)
        brought = layer.outputs(self.parts.skip(self.parts.enter(x)), positions)
        if self.trailing:  # a ReLU stands before the skip is added
            return Rows(inputs, targets - brought)
        return Rows(inputs, targets, brought)

    def refitted(self, number: int, learn: Rows, held_out: Rows, total: Total = as_it_is) -> Refit:
        """What layer `number` should be; a ReLU may follow it, or the sum it is added to. `total` as in `fitted`.

        There is room for its bias in itself, in its batch norm, or, if it is the last, in that behind the sum.
        """
        layer, is_last = self.layers[number], number == len(self.layers) - 1
        behind = [*self.trailing, *self.parts.after] if is_last else self.layers[number + 1].lead
        rectified = bool(behind) and isinstance(behind[0], nn.ReLU)
        has_bias = layer.has_bias or (is_last and self.carrier is not None)
        return fitted(learn, held_out, layer.present, rectified=rectified, has_bias=has_bias, total=total)

    @property
    def carrier(self) -> nn.Module | None:
        """The batch norm that follows the sum, if one does."""
        behind = [*self.trailing, *self.parts.after]
        return behind[0] if behind and isinstance(behind[0], _NORMS) else None


def folded_module(unit: Unit) -> FoldedModule:
    """`unit`, whose own weights stay as they are."""
    parts, layers, lead = unit.parts(), list[FoldedLayer](), list[nn.Module]()
    branch = [module for module in parts.branch if not isinstance(module, nn.Identity)]
    for place, module in enumerate(branch):
        behind = branch[place + 1] if place + 1 < len(branch) else None
        if isinstance(module, _LAYERS):
            layers.append(FoldedLayer(lead, module, behind))
            lead = []
        elif not (isinstance(module, _NORMS) and place and isinstance(branch[place - 1], _LAYERS)):
            lead.append(module)
    return FoldedModule(layers, lead, parts)


def drawn(y: Tensor, most: int, seed: int) -> Tensor:
    """At most `most` of the positions of a map, at least one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(y.shape[2:].numel(), generator=generator)[: max(1, most)].to(y.device)


def run(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """`x` through all of them."""
    for module in modules:
        x = module(x)
    return x


def _statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The running mean and variance themselves."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
