"""Which shortened networks to time so that the cost of every module can be read off, and reading it off.

Modules of one shape class (same input, same output, same kind of shortcut) do the same work, so the latency is taken
to be a sum,

    t(S) = t(whole) - sum over classes c of k_c(S) s_c      k_c: modules of class c that S drops

and t(whole) and every s_c are found by least squares on networks that drop many modules at once. Timing the network
without one module is the obvious way and a poor one: a module is 3 % of a ResNet-56, one process start alone differs
from the next by up to 1 %, and a sum of such differences adds up their errors. In a design every network
tells something of every class, and the differences are tens of percent.

The design is a Latin hypercube: over the networks each k_c takes every level from none to two thirds of the class once,
in an order of its own; of many random orders the one with the largest determinant of the normal matrix is taken, that
is, the one whose estimates have the smallest joint uncertainty. Which members go is drawn at random. Networks with
hardly any module left would weigh most and lie where nobody prunes to: the sum is a straight line through a range, and
a shorter range is straighter.

How far off the sum is on sets it has not seen: tools/latency_figures.py, whose figures stand in tools/README.md.

Source: McKay, Beckman & Conover 1979, doi:10.1080/00401706.1979.10489755; D-optimality: Atkinson & Donev 1992.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeres.core.metrics import Interval, Latency
from edgeres.core.spec import ModelSpec
from edgeres.core.statistics import by_round, round_medians, t_95
from edgeres.models import modules_of, network_from

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.models.network import Unit

Vector = NDArray[np.float64]
Classes = Mapping[str, Sequence[str]]
_DEEPEST = 2 / 3  # of a class; deeper than any accuracy survives, and more would bend the fit
_TRIES = 300  # random orders of the levels; the determinant gains less than 5 % from ten times as many


def shape_classes(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Class -> its modules that are present, both in order of execution: `identity 16x32x32 to 16x32x32`."""
    import torch

    kinds = {info.name: info.kind for info in modules_of(spec)}
    classes: dict[str, list[str]] = {}
    with torch.device("meta"), torch.no_grad():
        network = network_from(spec).eval()
        x = network.stem(torch.empty(1, *spec.input_shape))
        for name, unit in network.units():
            y = unit(x)
            if not unit.dropped:
                before, after = ("x".join(map(str, tensor.shape[1:])) for tensor in _ends(unit, x, y))
                label = f"{kinds[name]} {before} to {after}"
                classes.setdefault(label, []).append(name)
            x = y
    return {label: tuple(names) for label, names in classes.items()}


def _ends(unit: Unit, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """What the module itself takes and gives, where `x` becomes `y`: other tensors may pass beside it."""
    if not isinstance(x, tuple) and not isinstance(y, tuple):
        return x, y
    parts = unit.parts()
    inside = fed = parts.enter(x)
    for part in parts.branch:
        inside = part(inside)
    return fed, inside


def design(classes: Classes, *, networks: int, seed: int) -> list[tuple[str, ...]]:
    """What each of `networks` shortened networks drops."""
    generator = random.Random(seed)
    counts = max((_hypercube(classes, networks, generator) for _ in range(_TRIES)), key=_determinant)
    return [
        tuple(
            name for names, count in zip(classes.values(), row, strict=True) for name in generator.sample(names, count)
        )
        for row in counts
    ]


class Fit(NamedTuple):
    """Coefficients (whole_ms, then saved_ms of each class) with their covariance.

    `error` is the relative standard deviation of one network's measured latency around the sum, from what the fit
    leaves over: noise, the luck of a process start, and where the sum is not the truth.
    """

    coefficients: Vector
    covariance: NDArray[np.float64]
    error: float
    degrees: int

    def interval(self, place: int) -> Interval:
        """The coefficient in that place and its 95 % interval."""
        error = math.sqrt(self.covariance[place, place])
        return Interval.around(float(self.coefficients[place]), t_95(self.degrees) * error)


def fitted(classes: Classes, dropped: Sequence[Sequence[str]], latency_ms: Sequence[float]) -> Fit:
    """Least squares of relative errors; `latency_ms` are the medians of the networks without `dropped`."""
    rows = np.array([row_of(classes, names) for names in dropped])
    weighted = rows / np.asarray(latency_ms)[:, None]
    inverse = np.linalg.pinv(weighted.T @ weighted)
    coefficients = inverse @ weighted.T @ np.ones(len(rows))
    degrees = len(rows) - int(np.linalg.matrix_rank(weighted))
    variance = float(np.square(weighted @ coefficients - 1).sum()) / max(degrees, 1)
    return Fit(coefficients, variance * inverse, math.sqrt(variance), degrees)


def row_of(classes: Classes, dropped: Sequence[str]) -> list[float]:
    """(1, -k_1, ..., -k_C): times the coefficients it gives the latency without `dropped`."""
    return [1.0, *(-float(sum(name in dropped for name in names)) for names in classes.values())]


def pooled(latencies: Sequence[Latency]) -> Latency:
    """Several processes of one model in one session as one latency, round by round."""
    pieces = [by_round(latency) for latency in latencies]
    rounds = [[sample for piece in same for sample in piece] for same in zip(*pieces, strict=True)]
    return latencies[0].model_copy(
        update={
            "samples_ms": tuple(sample for samples in rounds for sample in samples),
            "rounds": tuple(len(samples) for samples in rounds),
            "warmup": sum(latency.warmup for latency in latencies),
        }
    )


def median_ms(latency: Latency) -> float:
    """Median of the medians of the rounds: each round counts once, however many calls it had."""
    return float(np.median(round_medians(latency)))


def _hypercube(classes: Classes, networks: int, generator: random.Random) -> list[tuple[int, ...]]:
    columns = []
    for names in classes.values():
        most = max(1, round(_DEEPEST * len(names)))
        levels = [round(index * most / max(networks - 1, 1)) for index in range(networks)]
        generator.shuffle(levels)
        columns.append(levels)
    return list(zip(*columns, strict=True))


def _determinant(counts: Sequence[Sequence[int]]) -> float:
    rows = np.c_[np.ones(len(counts)), np.array(counts, float)]
    return float(np.linalg.slogdet(rows.T @ rows)[1])
