"""Which score foretells what a recovery makes of a set: KL as it is, or with adaptive batch norm?

    python tools/score_figures.py whole.safetensors --data folder:cifar10-jpeg

Sets of 4 of the milder modules are drawn at random, scored both ways on train images, recovered for a few epochs on
train images and judged by their KL to the whole network on other train images. Prints the rank correlations and writes
tools/results/score.json after every set; sets already there are not recovered again.
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
from edgeres.study.outcomes import rank_correlation

RESULTS = Path(__file__).parent / "results" / "score.json"
_CHOOSE, _JUDGE, _BATCH = 1000, 2000, 250


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
    scores = _scores(source, network, choose, sets)
    for names in sets[len(rows) :]:
        row = {"dropped": sorted(names), **scores[names], "recovered": _recovered_kl(source, names, judge, options)}
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_text(RESULTS, json.dumps({"conditions": how, "rows": rows}, indent=1) + "\n")
    after = np.array([row["recovered"] for row in rows])
    found = {name: rank_correlation(np.array([row[name] for row in rows]), after) for name in ("kl", "adaptive")}
    print(found)
    about = {"images_chosen_on": _CHOOSE, "images_judged_on": _JUDGE, "torch": torch.__version__}
    write_text(RESULTS, json.dumps({"conditions": how, **about, "correlation": found, "rows": rows}, indent=1) + "\n")


def tallies_of(network: Network, batches: Iterable[Batch], subsets: Collection[Subset]) -> dict[Subset, Tally]:
    """The tally of every subset over all batches."""
    tallies = {subset: Tally() for subset in subsets}
    for batch in batches:
        add_batch(tallies, network, batch)
    return tallies


def _sets(network: Network, choose: list[Batch], options: argparse.Namespace) -> list[frozenset[str]]:
    names = [name for name, _ in network.units()]
    singles = tallies_of(network, choose[:2], [frozenset({name}) for name in names])
    pool = sorted(names, key=lambda name: singles[frozenset({name})].apart)[: options.pool]
    generator, sets = random.Random(options.seed), dict[frozenset[str], None]()
    while len(sets) < options.sets:
        sets[frozenset(generator.sample(pool, options.drop))] = None
    return list(sets)


def _scores(
    source: Checkpoint, network: Network, choose: list[Batch], sets: list[frozenset[str]]
) -> dict[frozenset[str], dict[str, float]]:
    plain = tallies_of(network, choose, sets)
    adaptive = tallies_of(with_batch_statistics(load_network(source)), choose, sets)
    return {names: {"kl": plain[names].apart, "adaptive": adaptive[names].apart} for names in sets}


def _recovered_kl(source: Checkpoint, names: frozenset[str], judge: list[Batch], options: argparse.Namespace) -> float:
    config = RecoverConfig(data=options.data, images=_CHOOSE, epochs=options.epochs, seed=3)
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
