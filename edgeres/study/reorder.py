"""`edgeres study reorder`: swap modules of one shape and measure.

k random pairs of modules with equal shapes are swapped, one after the other; how far the order has moved is Kendall's
tau between the old and the new one, over all modules.

Source: Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.2, figure 5b. The split measured is val.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeres.core.artifacts import Checkpoint, StudyFile
from edgeres.core.errors import InputError
from edgeres.core.pictures import COLOURS
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.data import dataset_for
from edgeres.models.network import Network
from edgeres.models.weights import load_folded
from edgeres.study.config import ReorderConfig
from edgeres.study.outcomes import Draw, Outcomes, is_smooth, outcomes_of, trend_of
from edgeres.study.result import Picture, Row, Study, draw_guessing, finish, judged_columns, numbers

CLAIM = "error rises smoothly as the order of the modules moves away from the trained one"
PAPER = "Veit, Wilber & Belongie 2016, arXiv 1605.06431, section 4.2, figure 5b"
_LEVELS = 8  # groups of orders whose mean errors are compared
_TRIES = 100  # draws of an order until one is new
Order = tuple[int, ...]  # of modules: old places in their new order


def reorder(source: Checkpoint, config: ReorderConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, study.csv and study.svg; raises InputError if no two modules have the same shape."""
    recorder = Recorder("reorder", config, source)
    source.spec.check_classes("study reorder")
    dataset = dataset_for(source.spec, config.data, download=config.download)
    images = dataset.val.at_most(None if config.full else config.images, config.seed)
    network = load_folded(source)
    classes = classes_of(network, source.spec)
    if not classes:
        raise InputError(f"{source.path}: no two modules of {source.spec.variant} have the same shape; nothing to swap")
    orders = random_orders(classes, len(network.units()), swaps=config.swaps, draws=config.draws, seed=config.seed)
    found = outcomes_of(
        network,
        images,
        source.spec,
        lambda x: reordered(network, x, list(orders)),
        batch=config.batch,
        description=f"{len(orders)} orders of the modules",
    )
    (whole, *outcomes), (_, *taus) = found.values(), map(kendall_tau, orders)
    sizes = [1 - tau for tau in taus]
    draws = [Draw(*draw) for draw in zip(levels_of(sizes), sizes, outcomes, strict=True)]
    trend, guessing = trend_of(whole, draws, seed=config.seed), 100 * (1 - 1 / source.spec.num_classes)
    (verdict, because), last = is_smooth(trend), trend.levels[-1]
    study = Study(
        name="reorder",
        claim=CLAIM,
        source=PAPER,
        verdict=verdict,
        because=(
            f"{because}; tau down to {min(taus):.2f}, error {trend.levels[0].error.value:.1f} % in"
            f" the trained order, {last.error.value:.1f} % at a mean tau of {1 - last.size:.2f} (guessing"
            f" {guessing:.0f} %)"
        ),
        setting="full" if config.full else "short",
        data=dataset.name,
        n=trend.n,
        seeds=(config.seed,),
        networks=(source.spec.variant,),
        rows=rows_of(found, orders),
        summary={"trend": trend, "guessing_percent": guessing},
    )
    return finish(study, recorder, out_dir, Picture(_draw_orders, panels=2, width_in=10.8))


def classes_of(network: Network, spec: ModelSpec) -> tuple[tuple[int, ...], ...]:
    """Places of modules that can stand in for each other, at least two each.

    Equal shapes of the input, the output and every weight.
    """
    classes: dict[Any, list[int]] = {}
    with torch.inference_mode():
        x = network.stem(torch.zeros(1, *spec.input_shape))
        for place, (_, unit) in enumerate(network.units()):
            y = unit(x)
            weights = tuple((key, tuple(value.shape)) for key, value in unit.state_dict().items())
            if y.shape == x.shape and not unit.dropped:
                classes.setdefault((tuple(x.shape), weights), []).append(place)
            x = y
    return tuple(tuple(places) for places in classes.values() if len(places) > 1)


def random_orders(
    classes: Sequence[Sequence[int]], modules: int, *, swaps: int, draws: int, seed: int
) -> dict[Order, int]:
    """The trained order, then up to `draws` for each number of swaps -> that; a pair is of one class, drawn evenly.

    All orders differ from each other, so a small network has fewer.
    """
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for places in classes for i, a in enumerate(places) for b in places[i + 1 :]]
    found = {tuple(range(modules)): 0}
    for k in range(1, swaps + 1):
        for _ in range(draws):
            for _ in range(_TRIES):
                order = list(range(modules))
                for a, b in (pairs[choice] for choice in generator.integers(len(pairs), size=k)):
                    order[a], order[b] = order[b], order[a]
                if tuple(order) not in found:
                    found[tuple(order)] = k
                    break
    return found


def levels_of(sizes: Sequence[float]) -> list[int]:
    """Which of at most _LEVELS groups, about equal in number, each size is of: 1 for the smallest; ties together."""
    edges = np.quantile(sizes, np.linspace(0, 1, _LEVELS + 1)[1:-1])
    groups = np.searchsorted(edges, sizes, side="left")
    return [int(level) + 1 for level in np.unique(groups, return_inverse=True)[1]]


def kendall_tau(order: Sequence[int]) -> float:
    """Kendall's tau between `order` (a permutation) and the sorted one: (concordant - discordant pairs) / all pairs.

    Source: Kendall 1938, doi:10.1093/biomet/30.1-2.81.
    """
    places = np.asarray(order)
    pairs = len(places) * (len(places) - 1) / 2
    if pairs == 0:
        return 1.0
    above = np.triu(np.sign(places[None, :] - places[:, None]), 1)
    return float(above.sum() / pairs)


def reordered(network: Network, x: Tensor, orders: Sequence[Order]) -> Iterator[tuple[Order, Tensor]]:
    """Yields (order, logits) with the modules applied in that order; what comes before the first change is shared."""
    units = [unit for _, unit in network.units()]
    known = [network.stem(x)]
    for unit in units:
        known.append(unit(known[-1]))
    for order in orders:
        first = next((place for place, old in enumerate(order) if place != old), len(order))
        y = known[first]
        for old in order[first:]:
            y = units[old](y)
        yield order, network.classify(network.tail(y))


def rows_of(outcomes: Mapping[Order, Outcomes], swaps: Mapping[Order, int]) -> tuple[Row, ...]:
    """One row an order; the trained one is not written out."""
    return tuple(
        {
            "swaps": swaps[order],
            "kendall_tau": round(kendall_tau(order), 4),
            **judged_columns(outcome.error_percent, float(outcome.loss.mean()), float(outcome.kl.mean())),
            "order": " ".join(map(str, order)) if swaps[order] else "",
        }
        for order, outcome in outcomes.items()
    )


def _draw_orders(axes: Sequence[Any], study: Study) -> None:
    """Error and loss against Kendall's tau, the trained order at the left."""
    taus, swaps = numbers(study.rows, "kendall_tau"), numbers(study.rows, "swaps")
    for panel, column, label in ((axes[0], "error_percent", "top-1 error, %"), (axes[1], "loss_nats", "loss, nats")):
        values = numbers(study.rows, column)
        dots = panel.scatter(taus[1:], values[1:], c=swaps[1:], cmap="viridis_r", s=18)
        panel.plot(taus[:1], values[:1], "s", color=COLOURS[1], label="trained order")
        panel.set_xlim(1.01, min(taus) - 0.01)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("Kendall tau to the trained order")
        panel.set_ylabel(label)
    draw_guessing(axes[0], float(study.summary["guessing_percent"]), at=1, align="right", room=1.08)
    axes[0].set_title(f"{study.networks[0]}, n = {study.n:,}, {len(taus) - 1} orders", fontsize=10)
    axes[1].legend(fontsize=8, loc="upper left")
    axes[1].figure.colorbar(dots, ax=axes[1], label="pairs swapped", ticks=sorted(set(swaps[1:])))
