"""What the search for modules to drop costs and finds, as a table and tools/results/search.json.

    python tools/search_figures.py --resnet56 resnet56_cifar10jpeg.pt --resnet20 resnet20_cifar10jpeg.pt \
        --data folder:cifar10-jpeg

lesion       all 27 single lesions of ResNet-56 as one walk, against a forward pass of each rebuilt network, in turns
cost         drop 4 of 27: our beam (run before and after), against a greedy search that runs every child in full
exhaustive   ResNet-20, 2 and 3 of 9; a network of 15 modules, 4 of them: our set among all there are

Images are of train; what the sets of `cost` are worth is also told on images of train they were not chosen on, the
ranks of `exhaustive` are those on the images chosen on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from score_figures import tallies_of
from torch import Tensor

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import config_from
from edgeres.core.files import write_text
from edgeres.data import dataset_for
from edgeres.evaluate.subsets import walk_subsets
from edgeres.evaluate.sums import Batch, Tally, reference_batches
from edgeres.models import modules_of
from edgeres.models.importing import ImportConfig, import_checkpoint
from edgeres.models.network import Network
from edgeres.models.weights import checkpoint_without, load_folded
from edgeres.prune.measured import MeasuredEvaluator
from edgeres.prune.search import search
from edgeres.prune.sets import Goal, Searched, SearchPlan

OUT = Path(__file__).parent / "results" / "search.json"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TIMED = 3  # passes of a step that --quick times
_TO_FIFTEEN = 12
Results = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


def main() -> None:
    """Prints and writes the parts asked for; parts already in the file stay."""
    options = _options()
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.parts:
            results[name] = PARTS[name](options, Path(folder)) | _conditions(options)
            write_text(options.out, json.dumps(results, indent=1) + "\n")
            print(json.dumps({name: results[name]}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet56", type=Path, required=True)
    parser.add_argument("--resnet20", type=Path, required=True)
    parser.add_argument("--fifteen", type=Path, help="edgeres checkpoint of 15 modules; default: cut from ResNet-56")
    parser.add_argument("--data", default="folder:cifar10-jpeg")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--lesion-images", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"time {_TIMED} passes of a naive step and scale them")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    return parser.parse_args()


def _conditions(options: argparse.Namespace) -> Results:
    return {
        "seed": options.seed,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "data": options.data,
        "quick": options.quick,
    }


def lesion(options: argparse.Namespace, folder: Path) -> Results:
    """Seconds of the walk over seconds of the rebuilt networks' passes, batch by batch in turns."""
    whole = _imported(options.resnet56, "resnet56", folder)
    names = [info.name for info in modules_of(whole.spec)]
    network = load_folded(whole)
    rebuilt = {name: load_folded(_without(whole, (name,), folder)) for name in names} | {"": network}
    batches, _ = _batches(whole, network, options, images=options.lesion_images)
    seconds, difference = {"walk": 0.0, "plain": 0.0}, 0.0
    walked: dict[str, Tally] = {}
    plain: dict[str, Tally] = {}
    for batch in batches:
        found, took = _timed(_walked, network, batch)
        seconds["walk"] += took
        expected, took = _timed(_one_by_one, rebuilt, batch)
        seconds["plain"] += took
        for name in rebuilt:
            difference = max(difference, float((found[name] - expected[name]).abs().max()))
            walked.setdefault(name, Tally()).add(found[name], batch.labels, batch.reference)
            plain.setdefault(name, Tally()).add(expected[name], batch.labels, batch.reference)
    return {
        "images": options.lesion_images,
        "passes": len(rebuilt),
        "seconds": seconds,
        "ratio": seconds["walk"] / seconds["plain"],
        "max_logit_difference": difference,
        "max_kl_difference": max(abs(walked[name].apart - plain[name].apart) for name in names),
        "max_loss_difference": max(abs(walked[name].loss - plain[name].loss) for name in names),
    }


def cost(options: argparse.Namespace, folder: Path, count: int = 4) -> Results:
    """Our beam against the naive greedy; both sets on the choosing and on other images."""
    whole = _imported(options.resnet56, "resnet56", folder)
    network = load_folded(whole)
    batches, others = _batches(whole, network, options, images=options.images)
    names = [info.name for info in modules_of(whole.spec)]
    beam, before = _timed(_searched, network, batches, names, count)
    candidates = [info.name for info in modules_of(whole.spec) if info.kind == "identity"]
    greedy, passes, naive = _naive(network, batches, candidates, count, quick=options.quick)
    _, after = _timed(_searched, network, batches, names, count)
    sets = {"beam": beam.best.dropped, "greedy": greedy, "independent": beam.independent.dropped}
    return {
        "drop": count,
        "images": options.images,
        "beam_seconds": [before, after],
        "naive_seconds": naive,
        "naive_passes": passes,
        "ratio": (before + after) / 2 / naive,
        "evaluated": beam.evaluated,
        "screened": beam.screened,
        "passes": beam.passes,
        "held_out_images": options.held_out,
        "sets": {name: _worth(network, chosen, batches, others) for name, chosen in sets.items()},
    }


def exhaustive(options: argparse.Namespace, folder: Path) -> Results:
    """Our set among all sets of its size, for three searches small enough to look at all."""
    twenty = _imported(options.resnet20, "resnet20", folder)
    fifteen = Checkpoint(options.fifteen) if options.fifteen else _fifteen(options, folder)
    cases = {"resnet20 drop 2": (twenty, 2), "resnet20 drop 3": (twenty, 3), "15 modules drop 4": (fifteen, 4)}
    return {"images": options.images, "cases": {name: _among_all(*case, options) for name, case in cases.items()}}


PARTS: dict[str, Callable[[argparse.Namespace, Path], Results]] = {
    "lesion": lesion,
    "cost": cost,
    "exhaustive": exhaustive,
}


def _among_all(checkpoint: Checkpoint, count: int, options: argparse.Namespace) -> Results:
    network = load_folded(checkpoint)
    batches, _ = _batches(checkpoint, network, options, images=options.images)
    names = [name for name, unit in network.units() if not unit.dropped]
    found = _searched(network, batches, names, count)
    sets = [frozenset(chosen) for chosen in combinations(names, count)]
    tallies = tallies_of(network, batches, sets)
    ours, best = tallies[frozenset(found.best.dropped)], min(tallies.values(), key=lambda tally: tally.apart)
    return {
        "sets": len(sets),
        "rank": 1 + sum(tally.apart < ours.apart for tally in tallies.values()),
        "kl": ours.apart,
        "best_kl": best.apart,
        "kl_gap": ours.apart / best.apart - 1,
        "loss": ours.loss,
        "best_loss": best.loss,
        "loss_gap": ours.loss / best.loss - 1,
        "evaluated": found.evaluated,
        "evaluated_share": found.evaluated / len(sets),
        "passes": found.passes,
        "passes_share": found.passes / len(sets),
        "dropped": list(found.best.dropped),
        "independent_rank": 1 + sum(tally.apart < found.independent.score for tally in tallies.values()),
        "independent_kl": found.independent.score,
    }


@torch.inference_mode()
def _walked(network: Network, batch: Batch) -> dict[str, Tensor]:
    sets = [frozenset(), *(frozenset({name}) for name, _ in network.units())]
    return {"".join(gone): network.classify(y) for gone, y in walk_subsets(network, batch.images, sets)}


@torch.inference_mode()
def _one_by_one(networks: Mapping[str, Network], batch: Batch) -> dict[str, Tensor]:
    return {name: network(batch.images) for name, network in networks.items()}


def _searched(network: Network, batches: Sequence[Batch], names: Sequence[str], count: int) -> Searched:
    images = sum(len(batch.labels) for batch in batches)
    plan = SearchPlan(images=images, screen=max(images // 4, len(batches[0].labels)))
    return search(MeasuredEvaluator(network, batches), names, Goal(dict.fromkeys(names, 1.0), count), plan)


def _naive(
    network: Network, batches: Sequence[Batch], names: Sequence[str], count: int, *, quick: bool
) -> tuple[tuple[str, ...], int, float]:
    """(modules, full passes, seconds) of a greedy search that runs the whole network for every child.

    quick: the same choice by our evaluator; of every step a few passes are timed and scaled.
    """
    gone: tuple[str, ...] = ()
    seconds, passes = 0.0, 0
    evaluate = MeasuredEvaluator(network, batches) if quick else None
    for _ in range(count):
        children = [(*gone, name) for name in names if name not in gone]
        timed = children[:: len(children) // _TIMED] if quick else children
        scores, took = _timed(_plain_kls, network, batches, timed)
        if evaluate is not None:
            scores = dict(zip(children, evaluate([frozenset(child) for child in children]), strict=True))
        seconds += took * len(children) / len(timed)
        passes += len(children)
        gone = min(scores, key=scores.__getitem__)
    return gone, passes, seconds


def _plain_kls(
    network: Network, batches: Sequence[Batch], children: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], float]:
    return {child: _plain_kl(network, batches, child) for child in children}


@torch.inference_mode()
def _plain_kl(network: Network, batches: Sequence[Batch], dropped: Sequence[str]) -> float:
    tally = Tally()
    for batch in batches:
        x = network.stem(batch.images)
        for name, unit in network.units():
            x = unit.bypass(x) if name in dropped else unit(x)
        tally.add(network.classify(network.tail(x)), batch.labels, batch.reference)
    return tally.apart


def _worth(network: Network, dropped: Sequence[str], chosen_on: Sequence[Batch], others: Sequence[Batch]) -> Results:
    subset = frozenset(dropped)
    here, there = (tallies_of(network, batches, [subset])[subset] for batches in (chosen_on, others))
    return {"dropped": list(dropped), "chosen_on": _figures(here), "held_out": _figures(there)}


def _figures(tally: Tally) -> Results:
    return {"n": tally.n, "kl": tally.apart, "loss": tally.loss, "top1": tally.accuracy}


def _fifteen(options: argparse.Namespace, folder: Path) -> Checkpoint:
    """ResNet-56 without the 12 modules that our search drops on one batch."""
    whole = _imported(options.resnet56, "resnet56", folder)
    network = load_folded(whole)
    batches, _ = _batches(whole, network, options, images=options.batch)
    names = [info.name for info in modules_of(whole.spec)]
    return _without(whole, _searched(network, batches, names, _TO_FIFTEEN).best.dropped, folder)


def _without(whole: Checkpoint, dropped: tuple[str, ...], folder: Path) -> Checkpoint:
    path = folder / f"{whole.spec.variant}-without-{'-'.join(dropped)}.safetensors"
    return checkpoint_without(whole, dropped, path)


def _imported(file: Path, arch: str, folder: Path) -> Checkpoint:
    config = config_from(ImportConfig, {"file": file, "arch": arch, "mean": _MEAN, "std": _STD}, "import")
    return import_checkpoint(None, config, folder / arch).output


def _batches(
    checkpoint: Checkpoint, network: Network, options: argparse.Namespace, *, images: int
) -> tuple[list[Batch], list[Batch]]:
    """`images` to choose on, and as many others of train as --held-out says."""
    train = dataset_for(checkpoint.spec, options.data).train.sample(images + options.held_out, options.seed)
    parts = (train.subset(range(images)), train.subset(range(images, len(train))))
    first, second = (
        reference_batches(
            network,
            ((torch.from_numpy(x), torch.from_numpy(y)) for x, y in part.batches(checkpoint.spec, options.batch)),
        )
        for part in parts
    )
    return first, second


def _timed(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> tuple[T, float]:
    """(what `work` returns, seconds)."""
    start = time.perf_counter()
    return work(*args, **options), time.perf_counter() - start


if __name__ == "__main__":
    main()
