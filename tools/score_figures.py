"""Which score foretells what a recovery makes of a set: KL as it is, with adaptive batch norm, or after cheap repairs?

    python tools/score_figures.py whole.safetensors --data folder:cifar10-jpeg

Sets of 4 of the milder modules are drawn at random, scored in all ways on train images, recovered on train images (with
gradients for a few epochs) and judged by their KL to the whole network on other train images. Prints the rank
correlations and writes tools/results/score.json after every set; sets already there are not recovered again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeres.core.artifacts import Checkpoint
from edgeres.core.files import write_text
from edgeres.data import dataset_for
from edgeres.data.split import Split
from edgeres.evaluate.subsets import Subset, add_batch
from edgeres.evaluate.sums import Batch, Tally, reference_batches
from edgeres.models import network_from
from edgeres.models.network import Network
from edgeres.models.weights import checkpoint_without, load_folded, load_network
from edgeres.prune.config import RecoverConfig
from edgeres.prune.measured import with_batch_statistics
from edgeres.prune.recover.stage import recovered
from edgeres.refit import REPAIRED_ON
from edgeres.refit.repairs import Repairs, repairs_on
from edgeres.study.outcomes import rank_correlation

RESULTS = Path(__file__).parent / "results" / "score.json"
_CHOOSE, _JUDGE, _BATCH = 1000, 2000, 250
_SCORES, _METHODS = ("kl", "adaptive", "solved"), ("mimic", "solve", "solve,mimic")


def main() -> None:
    """Scores, recovers, judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--drop", type=int, default=4)
    parser.add_argument("--pool", type=int, default=13, help="mildest modules to draw from")
    parser.add_argument("--sets", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = Checkpoint(options.checkpoint)
    network = load_folded(source)
    sample = dataset_for(source.spec, options.data).train.sample(2 * _CHOOSE + _JUDGE, 7)
    choose = _batches(network, source, sample.subset(range(_CHOOSE)))
    judge = _batches(network, source, sample.subset(range(2 * _CHOOSE, len(sample))))
    how = {name: getattr(options, name) for name in ("data", "drop", "pool", "epochs", "seed")}
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    rows: list[dict[str, Any]] = content.get("rows", []) if content.get("conditions") == how else []
    sets = _sets(network, choose, options)
    repairs = repairs_on(sample.subset(range(_CHOOSE, _CHOOSE + REPAIRED_ON)), network, source.spec)
    scores = _scores(source, network, choose, sets, repairs)
    for names in sets[len(rows) :]:
        after = {method: _recovered_kl(source, names, judge, method, options) for method in _METHODS}
        row = {"dropped": sorted(names), **scores[names], "recovered": after}
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_text(RESULTS, json.dumps({"conditions": how, "rows": rows}, indent=1) + "\n")
    found = {method: {score: _correlation(rows, score, method) for score in _SCORES} for method in _METHODS}
    print(found)
    about = {"images_chosen_on": _CHOOSE, "images_judged_on": _JUDGE, "torch": torch.__version__}
    write_text(RESULTS, json.dumps({"conditions": how, **about, "correlation": found, "rows": rows}, indent=1) + "\n")


def tallies_of(
    network: Network, batches: Iterable[Batch], subsets: Collection[Subset], repairs: Repairs | None = None
) -> dict[Subset, Tally]:
    """The tally of every subset over all batches."""
    tallies = {subset: Tally() for subset in subsets}
    for batch in batches:
        add_batch(tallies, network, batch, repairs)
    return tallies


def _correlation(rows: list[dict[str, Any]], score: str, method: str) -> float:
    found = [(row[score], row["recovered"][method]) for row in rows]
    return rank_correlation(*(np.array(values) for values in zip(*found, strict=True)))


def _sets(network: Network, choose: list[Batch], options: argparse.Namespace) -> list[frozenset[str]]:
    names = [name for name, _ in network.units()]
    singles = tallies_of(network, choose[:2], [frozenset({name}) for name in names])
    pool = sorted(names, key=lambda name: singles[frozenset({name})].apart)[: options.pool]
    generator, sets = random.Random(options.seed), dict[frozenset[str], None]()
    while len(sets) < options.sets:
        sets[frozenset(generator.sample(pool, options.drop))] = None
    return list(sets)


def _scores(
    source: Checkpoint, network: Network, choose: list[Batch], sets: list[frozenset[str]], repairs: Repairs
) -> dict[frozenset[str], dict[str, float]]:
    plain = tallies_of(network, choose, sets)
    adaptive = tallies_of(with_batch_statistics(load_network(source)), choose, sets)
    solved = tallies_of(network, choose, sets, repairs)
    by_score = dict(zip(_SCORES, (plain, adaptive, solved), strict=True))
    return {names: {score: tallies[names].apart for score, tallies in by_score.items()} for names in sets}


def _recovered_kl(
    source: Checkpoint, names: frozenset[str], judge: list[Batch], method: str, options: argparse.Namespace
) -> float:
    epochs = {} if method == "solve" else {"epochs": options.epochs}
    config = RecoverConfig(data=options.data, images=_CHOOSE, method=tuple(method.split(",")), seed=3, **epochs)
    with tempfile.TemporaryDirectory() as folder:
        bare = checkpoint_without(source, tuple(sorted(names)), Path(folder) / "bare.safetensors")
        weights = recovered(bare, source, config, Path(folder)).weights
        network = network_from(bare.spec)
        network.load_state_dict(weights)
    tally = Tally()
    with torch.inference_mode():
        for batch in judge:
            tally.add(network.eval()(batch.images), batch.labels, batch.reference)
    return tally.apart


def _batches(network: Network, source: Checkpoint, split: Split) -> list[Batch]:
    pairs = [
        (torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in split.batches(source.spec, _BATCH)
    ]
    return reference_batches(network, pairs)


if __name__ == "__main__":
    main()
