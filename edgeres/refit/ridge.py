"""One layer fitted by ridge least squares around the weights it has, aware of a ReLU behind it.

    dW = (C + lambda m I)^-1 cov(A, R),   db = mean(R) - mean(A) dW,   C = cov(A),   m = mean(diag(C))

A: inputs of the layer, a row for every position seen. R = T - (A W + b): what its output lacks of the target T. The
products of a few rows are summed in double precision; one factorisation serves all outputs. Without a bias nothing is
centred. lambda is the one of a few that does best on rows held out, which may also say that nothing should be done.

Where a ReLU follows, only relu(y) has to agree with relu(T), y = A W + b (plus what a skip adds). So T becomes
max(T, 0) where T > 0 or y > 0, and y itself elsewhere, again and again: majorise-minimise, convex, never further off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]  # of what each process has: the same in all of them

_RIDGES = (0.003, 0.03, 0.3, 3.0)
_ROUNDS = 4  # more gain a little more
_ROWS_AT_ONCE = 2048  # summed in single precision
_SMALLEST = 1e-12  # of m: inputs that are always zero


def as_it_is(ours: Tensor) -> Tensor:
    """The total where there is one process."""
    return ours


class Affine(NamedTuple):
    """Weight (groups, columns, outputs) and bias (groups, 1, outputs), double; the bias is zero where there is none."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Rows:
    """`inputs`: (groups, rows, columns); `targets` and what is `added` to the output: (groups, rows, outputs).

    `counts`: of the rows that were joined.
    """

    inputs: Tensor
    targets: Tensor
    added: Tensor | None = None
    counts: tuple[int, ...] = ()

    @property
    def pieces(self) -> list[int]:
        """Numbers of rows to be summed at once: none of two parts, so that it does not matter where those are."""
        counts = self.counts or (self.inputs.shape[1],)
        return [min(_ROWS_AT_ONCE, count - start) for count in counts for start in range(0, count, _ROWS_AT_ONCE)]

    def predicted(self, layer: Affine) -> Tensor:
        """Outputs, what is added included."""
        found = torch.baddbmm(layer.bias.float(), self.inputs, layer.weight.float())
        return found if self.added is None else found.add_(self.added)

    def error(self, layer: Affine, *, rectified: bool, total: Total = as_it_is) -> float:
        """Mean square of what the outputs are off, behind a ReLU if `rectified`."""
        found, wanted = self.predicted(layer), self.targets
        if rectified:
            found, wanted = found.relu_(), wanted.relu()
        squares = (found - wanted).square().sum(dtype=torch.float64)
        summed, n = total(torch.stack([squares, torch.full_like(squares, wanted.numel())]))
        return float(summed / n)


def joined(parts: Iterable[Rows], n: int) -> Rows:
    """One after the other, `n` rows in all; no two parts need be there at once."""
    found, counts = list[Tensor](), list[int]()
    for part in parts:
        tensors = [x for x in (part.inputs, part.targets, part.added) if x is not None]
        found = found or [x.new_empty(len(x), n, x.shape[2]) for x in tensors]
        for whole, x in zip(found, tensors, strict=True):
            whole[:, sum(counts) : sum(counts) + x.shape[1]] = x
        counts.append(part.inputs.shape[1])
    inputs, targets, *added = found
    return Rows(inputs, targets, added[0] if added else None, tuple(counts))


@dataclass(frozen=True)
class Refit:
    """The layer, and mean and variance (groups, 1, outputs) of what it gives without its bias.

    ridge: lambda, None if the layer is as it was.
    """

    layer: Affine
    ridge: float | None
    mean: Tensor
    variance: Tensor


def fitted(
    learn: Rows, held_out: Rows, layer: Affine, *, rectified: bool, has_bias: bool, total: Total = as_it_is
) -> Refit:
    """`layer` fitted to `learn`; its bias moves if it `has_bias`, only what is above zero counts if `rectified`.

    Where processes have rows each, `total` adds up over all of them.
    """
    equations, present = _Equations(learn, total, centred=has_bias), learn.predicted(layer)
    lacking, error = learn.targets - present, partial(held_out.error, rectified=rectified, total=total)
    moment = equations.moment(lacking)
    found, chosen, best = layer, None, error(layer)
    for ridge in _RIDGES:
        tried = equations.moved(layer, lacking, moment, ridge)
        if (off := error(tried)) < best:
            found, chosen, best = tried, ridge, off
    if chosen is not None and rectified:
        refined, wanted = found, learn.targets.relu()
        for _ in range(_ROUNDS):
            now = learn.predicted(refined)
            lacking = torch.where((wanted > 0) | (now > 0), wanted, now).sub_(present)
            refined = equations.moved(layer, lacking, equations.moment(lacking), chosen)
        if error(refined) < best:
            found = refined
    return Refit(found, chosen, *equations.output(found.weight))


class _Equations:
    """The normal equations of some rows A, of A less its mean if `centred`."""

    def __init__(self, rows: Rows, total: Total, *, centred: bool) -> None:
        inputs, self._pieces, self._is_centred, self._total = rows.inputs, rows.pieces, centred, total
        self._parts = torch.split(inputs, self._pieces, dim=1)
        self._n = total(torch.tensor(float(inputs.shape[1]), dtype=torch.float64, device=inputs.device))
        self._mean = self._averaged(part.double().sum(1, keepdim=True) for part in self._parts)
        self._normal = self._averaged((part.mT @ part).double() for part in self._centred())
        self._factors: dict[float, Tensor] = {}

    def moment(self, lacking: Tensor) -> Tensor:
        """cov(A, R)."""
        parts = zip(self._centred(), torch.split(lacking, self._pieces, dim=1), strict=True)
        return self._averaged((rows.mT @ part).double() for rows, part in parts)

    def moved(self, layer: Affine, lacking: Tensor, moment: Tensor, ridge: float) -> Affine:
        """`layer` brought as near to what is `lacking` as the ridge lets it."""
        change = torch.cholesky_solve(moment, self._factor(ridge))
        if not self._is_centred:
            return Affine(layer.weight + change, layer.bias)
        moved = self._averaged([lacking.double().sum(1, keepdim=True)]) - self._mean @ change
        return Affine(layer.weight + change, layer.bias + moved)

    def output(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, variance) of A W, (groups, 1, outputs)."""
        mean, spread = self._mean @ weight, (weight * (self._normal @ weight)).sum(1, keepdim=True)
        return mean, (spread if self._is_centred else spread - mean.square()).clamp_min(0)

    def _averaged(self, parts: Iterable[Tensor]) -> Tensor:
        return self._total(reduce(torch.add, parts)) / self._n

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
