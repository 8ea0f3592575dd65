"""One layer fitted by ridge least squares around the weights it has, aware of a ReLU behind it.

    dW = (C + lambda m I)^-1 cov(A, R),   db = mean(R) - mean(A) dW,   C = cov(A),   m = mean(diag(C))

A: inputs of the layer, a row for every position seen. R = T - (A W + b): what its output lacks of the target T. The
products of a few rows are summed in double precision; one factorisation serves all outputs. Without a bias nothing is
centred. lambda is the one of a few that does best on rows held out, which may also say that nothing should be done.

Where a ReLU follows, only relu(y) has to agree with relu(T), y = A W + b (plus what a skip adds). So T becomes
max(T, 0) where T > 0 or y > 0, and y itself elsewhere, again and again: majorise-minimise, convex, never further off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

_RIDGES = (0.003, 0.03, 0.3, 3.0)
_ROUNDS = 4  # more gain a little more
_ROWS_AT_ONCE = 2048  # summed in single precision
_SMALLEST = 1e-12  # of m: inputs that are always zero


class Affine(NamedTuple):
    """Weight (groups, columns, outputs) and bias (groups, 1, outputs), double; the bias is zero where there is none."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Rows:
    """`inputs`: (groups, rows, columns); `targets` and what is `added` to the output: (groups, rows, outputs)."""

    inputs: Tensor
    targets: Tensor
    added: Tensor | None = None

    def predicted(self, layer: Affine) -> Tensor:
        """Outputs, what is added included."""
        found = torch.baddbmm(layer.bias.float(), self.inputs, layer.weight.float())
        return found if self.added is None else found.add_(self.added)

    def error(self, layer: Affine, *, rectified: bool) -> float:
        """Mean square of what the outputs are off, behind a ReLU if `rectified`."""
        found, wanted = self.predicted(layer), self.targets
        if rectified:
            found, wanted = found.relu_(), wanted.relu()
        return float((found - wanted).square().mean())

    def less(self, brought: Tensor, *, inside: bool) -> Rows:
        """The same, where a skip has `brought` some of the targets; `inside`: a ReLU stands before it is added."""
        return replace(self, targets=self.targets - brought) if inside else replace(self, added=brought)


def joined(parts: Sequence[Rows]) -> Rows:
    """One after the other."""
    inputs, targets = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("inputs", "targets"))
    added = [part.added for part in parts if part.added is not None]
    return Rows(inputs, targets, torch.cat(added, 1) if added else None)


@dataclass(frozen=True)
class Refit:
    """The layer, and mean and variance (groups, 1, outputs) of what it gives without its bias.

    ridge: lambda, None if the layer is as it was.
    """

    layer: Affine
    ridge: float | None
    mean: Tensor
    variance: Tensor


def fitted(learn: Rows, held_out: Rows, layer: Affine, *, rectified: bool, has_bias: bool) -> Refit:
    """`layer` fitted to `learn`; its bias moves if it `has_bias`, only what is above zero counts if `rectified`."""
    equations, present = _Equations(learn.inputs, centred=has_bias), learn.predicted(layer)
    lacking = learn.targets - present
    moment = equations.moment(lacking)
    found, chosen, best = layer, None, held_out.error(layer, rectified=rectified)
    for ridge in _RIDGES:
        tried = equations.moved(layer, lacking, moment, ridge)
        if (error := held_out.error(tried, rectified=rectified)) < best:
            found, chosen, best = tried, ridge, error
    if chosen is not None and rectified:
        refined, wanted = found, learn.targets.relu()
        for _ in range(_ROUNDS):
            now = learn.predicted(refined)
            lacking = torch.where((wanted > 0) | (now > 0), wanted, now).sub_(present)
            refined = equations.moved(layer, lacking, equations.moment(lacking), chosen)
        if held_out.error(refined, rectified=True) < best:
            found = refined
    return Refit(found, chosen, *equations.output(found.weight))


class _Equations:
    """The normal equations of some rows A, of A less its mean if `centred`."""

    def __init__(self, inputs: Tensor, *, centred: bool) -> None:
        self._parts, self._n, self._is_centred = torch.split(inputs, _ROWS_AT_ONCE, dim=1), inputs.shape[1], centred
        self._mean = _added(part.double().sum(1, keepdim=True) for part in self._parts) / self._n
        self._normal = _added((part.mT @ part).double() for part in self._centred()) / self._n
        self._factors: dict[float, Tensor] = {}

    def moment(self, lacking: Tensor) -> Tensor:
        """cov(A, R)."""
        parts = zip(self._centred(), torch.split(lacking, _ROWS_AT_ONCE, dim=1), strict=True)
        return _added((rows.mT @ part).double() for rows, part in parts) / self._n

    def moved(self, layer: Affine, lacking: Tensor, moment: Tensor, ridge: float) -> Affine:
        """`layer` brought as near to what is `lacking` as the ridge lets it."""
        change = torch.cholesky_solve(moment, self._factor(ridge))
        if not self._is_centred:
            return Affine(layer.weight + change, layer.bias)
        return Affine(layer.weight + change, layer.bias + lacking.double().mean(1, keepdim=True) - self._mean @ change)

    def output(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, variance) of A W, (groups, 1, outputs)."""
        mean, spread = self._mean @ weight, (weight * (self._normal @ weight)).sum(1, keepdim=True)
        return mean, (spread if self._is_centred else spread - mean.square()).clamp_min(0)

    def _centred(self) -> Iterator[Tensor]:
        mean = self._mean.float()
        return ((part - mean if self._is_centred else part) for part in self._parts)

    def _factor(self, ridge: float) -> Tensor:
        if ridge not in self._factors:
            diagonal = self._normal.diagonal(dim1=-2, dim2=-1)
            added = ridge * diagonal.mean(-1, keepdim=True).clamp_min(_SMALLEST)
            factor: Tensor = torch.linalg.cholesky(self._normal + torch.diag_embed(added.expand_as(diagonal)))
            self._factors[ridge] = factor
        return self._factors[ridge]


def _added(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)
