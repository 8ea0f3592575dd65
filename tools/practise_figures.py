"""PRACTISE's rule against the conditional search, on the same images with the same number of recovery steps.

    edgeres import resnet56.pt --arch resnet56 ... -o whole.safetensors
    python tools/practise_figures.py whole.safetensors --data folder:cifar10-jpeg

For every number of modules k and every seed (which picks the images, their order and augmentation):

    practise   the k lowest recoverability scores, each module judged alone; then mimicking, all of the network learns
    mixed      the same modules; then our recovery: mimicking and distillation of what comes after the first gap
    ours       the modules `edgeres prune --drop k --score adaptive` chooses; then our recovery
    solved     `edgeres prune --drop k --recover solve,mimic`, which chooses by what a solve leaves

mixed - practise is what the recovery gives, ours - mixed what the choice gives, solved - ours what is advised today.
The same images and as many gradient steps for each. No label is read but to report top-1 on val. Written to --out
after every cell; the same call goes on where it stopped.

Source: Wang & Wu 2023, arXiv 2303.15254; their recovery is He et al. 2021 (MiR): SGD, rate 0.02, batch 64.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from practise import inner_modules, lowest, recoverability
from pydantic import Field

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Config, Record, config_from, record_from_json
from edgeres.core.environment import Environment, environment
from edgeres.core.errors import EdgeresError, InputError
from edgeres.core.files import write_text
from edgeres.core.metrics import Z_95
from edgeres.data import Dataset, dataset_for
from edgeres.evaluate.stage import accuracy_of
from edgeres.models.weights import load_network
from edgeres.prune.config import PruneConfig, RecoverConfig
from edgeres.prune.recover.stage import recover
from edgeres.prune.stage import prune

Arm = Literal["practise", "mixed", "ours", "solved"]
ARMS: tuple[Arm, ...] = ("practise", "mixed", "ours", "solved")


class Settings(Config):
    """What the figures depend on."""

    data: str = Field(description="folder:PATH, digits, ...")
    drops: tuple[int, ...] = Field(default=(4, 6, 9), description="numbers of modules to drop")
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), description="of images, order and augmentation")
    images: int = Field(default=1000, gt=0, description="of train, for choosing and for recovering")
    iterations: int = Field(default=1000, ge=0, description="of adaptor training for each module")
    epochs: int = Field(default=20, gt=0, description="passes over the images in recovery")
    batch: int = Field(default=64, gt=0, description="images per step in recovery")
    lr: float = Field(default=0.01, gt=0, description="learning rate in recovery")
    val: int | None = Field(default=None, gt=0, description="of val, to report on; default: all")


class Cell(Record):
    """One set of modules, recovered. `right`: packed bits, hexadecimal, whether each val image was classified right.

    cpu_s: of choosing and recovering, all threads; adaptors that serve every number of modules are left out.
    """

    arm: Arm
    drop: int
    seed: int
    dropped: tuple[str, ...]
    macs: int
    steps: int
    duration_s: float
    cpu_s: float | None = None
    n: int
    right: str


class Results(Record):
    """The whole file."""

    settings: Settings
    checkpoint_sha256: str
    whole_macs: int
    whole_right: str = ""
    scores: dict[int, dict[str, float]] = Field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    environment: Environment


def main() -> int:
    """Returns the exit code."""
    options = vars(_parser().parse_args())
    checkpoint, work, out = (options.pop(name) for name in ("checkpoint", "work", "out"))
    try:
        settings = config_from(Settings, {k: v for k, v in options.items() if v is not None}, "options")
        settings = settings.model_copy(
            update={"data": options["data"]}
        )  # as typed: results hold no folder of a machine
        study = Study(Checkpoint(checkpoint), settings, work, out)
        study.run()
    except EdgeresError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    print("\n".join(table_of(study.results)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the whole network, .safetensors")
    for name, field in Settings.model_fields.items():
        parser.add_argument(f"--{name}", help=field.description, required=field.is_required())
    parser.add_argument("--work", type=Path, default=Path("practise-work"), help="where checkpoints go")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "practise.json")
    return parser


class Study:
    """Fills `results` cell by cell."""

    def __init__(self, whole: Checkpoint, settings: Settings, work: Path, out: Path) -> None:
        self.whole, self.settings, self.work, self.out = whole, settings, work, out
        self.dataset = _dataset(whole, settings)
        self.results = self._so_far()

    def run(self) -> None:
        """Every cell that is not there yet."""
        if not self.results.whole_right:
            self._keep(whole_right=self._right(self.whole))
        for arm in ("practise", "ours", "mixed", "solved"):
            for seed in self.settings.seeds:
                for drop in self.settings.drops:
                    if not any((cell.arm, cell.drop, cell.seed) == (arm, drop, seed) for cell in self.results.cells):
                        cell = self._cell(arm, drop, seed)
                        self._keep(cells=(*self.results.cells, cell))
                        print(f"k={drop} seed={seed} {arm}: {_top1(cell):.2%} without {', '.join(cell.dropped)}")

    def _so_far(self) -> Results:
        if not self.out.exists():
            return Results(
                settings=self.settings,
                checkpoint_sha256=self.whole.sha256,
                whole_macs=self.whole.card.cost.macs,
                environment=environment(),
            )
        found = record_from_json(Results, self.out)
        if (found.settings, found.checkpoint_sha256) != (self.settings, self.whole.sha256):
            raise InputError(f"{self.out} holds figures of other settings or another checkpoint; name another --out")
        return found

    def _keep(self, **update: object) -> None:
        self.results = self.results.model_copy(update=update)
        write_text(self.out, self.results.model_dump_json(indent=1) + "\n")

    def _cell(self, arm: Arm, drop: int, seed: int) -> Cell:
        folder = self.work / f"k{drop}-seed{seed}-{arm}"
        goal = self._goal(arm, drop, seed)
        begun_cpu_s = time.process_time()
        done = prune(self.whole, self._pruning(goal, seed), folder / "pruned")
        results = done.report.results.get("recovery")
        if results is None:
            done = recover(done.output, self._recovery(arm, seed), folder / "recovered")
            results = done.report.results
        output = done.output
        return Cell(
            arm=arm,
            drop=drop,
            seed=seed,
            dropped=output.spec.dropped,
            macs=output.card.cost.macs,
            steps=results["planned_steps"],
            duration_s=done.report.duration_s,
            cpu_s=round(time.process_time() - begun_cpu_s, 1),
            n=len(self.dataset.val),
            right=self._right(output),
        )

    def _goal(self, arm: Arm, drop: int, seed: int) -> dict[str, object]:
        """What `prune` is asked for."""
        if arm == "solved":
            return {"drop": drop, "recover": ("solve", "mimic"), "epochs": self.settings.epochs}
        if arm == "ours":
            return {"drop": drop, "score": "adaptive"}
        return {"modules": lowest(self._scores(seed), drop)}

    def _pruning(self, goal: dict[str, object], seed: int) -> PruneConfig:
        common = {"data": self.settings.data, "images": self.settings.images, "choose_on": self.settings.images}
        return config_from(PruneConfig, common | goal | {"seed": seed}, "prune")

    def _recovery(self, arm: Arm, seed: int) -> RecoverConfig:
        ours = arm != "practise"
        options = {
            "data": self.settings.data,
            "images": self.settings.images,
            "seed": seed,
            "teacher": self.whole.path,
            "method": ("mimic", "distill") if ours else ("mimic",),
            "scope": "behind" if ours else "all",
            "epochs": self.settings.epochs,
            "batch": self.settings.batch,
            "lr": self.settings.lr,
        }
        return config_from(RecoverConfig, options, "recover")

    def _scores(self, seed: int) -> dict[str, float]:
        """Recoverability of every module but the stages' first, on the seed's images."""
        if seed not in self.results.scores:
            spec, settings = self.whole.spec, self.settings
            train = self.dataset.train
            sample = train.sample(min(settings.images, len(train)), seed)
            images = torch.from_numpy(np.concatenate([x for x, _ in sample.batches(spec, len(sample))]))
            network = load_network(self.whole)
            names = inner_modules([name for name, unit in network.units() if not unit.dropped])
            scores = recoverability(network, images, names, iterations=settings.iterations, seed=seed)
            self._keep(scores=self.results.scores | {seed: scores})
        return self.results.scores[seed]

    def _right(self, model: Checkpoint) -> str:
        path = self.work / "predictions.npy"
        accuracy_of(model, self.dataset, out=path)
        predictions = np.load(path)
        return np.packbits(predictions[:, 0] == predictions[:, 1]).tobytes().hex()


def table_of(results: Results) -> list[str]:
    """A Markdown table, a row a number of modules: points lost by every arm, means over the seeds that all have."""
    titles = [*(f"{arm}, points" for arm in ARMS), "solved - practise", "solved - ours", "solved, CPU s", "seeds"]
    lines = [_row("modules dropped", *titles), "|" + " --- |" * (1 + len(titles))]
    for drop in results.settings.drops:
        cells = {
            arm: {cell.seed: cell for cell in results.cells if (cell.arm, cell.drop) == (arm, drop)} for arm in ARMS
        }
        seeds = [seed for seed in results.settings.seeds if all(seed in found for found in cells.values())]
        if not seeds:
            continue
        right = {
            arm: np.array([_bits(found[seed].right, found[seed].n) for seed in seeds]) for arm, found in cells.items()
        }
        whole = _bits(results.whole_right, right["solved"].shape[1])[None]
        lost = [_points(right[arm], whole) for arm in ARMS]
        gains = [_points(right["solved"], right[arm]) for arm in ("practise", "ours")]
        spent_s = [cells["solved"][seed].cpu_s or 0 for seed in seeds]
        lines.append(_row(str(drop), *lost, *gains, f"{np.mean(spent_s):.0f}", str(len(seeds))))
    return lines


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _points(after: NDArray[np.bool_], before: NDArray[np.bool_]) -> str:
    """Difference in points of top-1 with its 95 % interval: paired by image, averaged over seeds (rows) first."""
    change = 100 * (after.mean(0) - before.mean(0))
    half = Z_95 * change.std(ddof=1) / np.sqrt(len(change))
    return f"{change.mean():+.2f} ± {half:.2f}"


def _bits(text: str, n: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(bytes.fromhex(text), np.uint8)
    return np.unpackbits(packed, count=n).astype(bool)


def _top1(cell: Cell) -> float:
    return float(_bits(cell.right, cell.n).mean())


def _dataset(whole: Checkpoint, settings: Settings) -> Dataset:
    dataset = dataset_for(whole.spec, settings.data)
    if settings.val is None or settings.val >= len(dataset.val):
        return dataset
    return replace(dataset, val=dataset.val.sample(settings.val, 0))


if __name__ == "__main__":
    sys.exit(main())
