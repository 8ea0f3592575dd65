"""Fewer modules against fewer channels at equal measured latency and equal recovery without labels, on ResNet-56.

    edgeres import resnet56.pt --arch resnet56 --classes 10 ... -o whole.safetensors
    python tools/channels_figures.py whole.safetensors --data folder:cifar10-jpeg

Modules are dropped by `edgeres prune --drop K --recover solve,mimic`. Channels are pruned by Torch-Pruning (group L2),
which lives in an environment of its own under the work folder (see `channels_worker.py`, also for what a variant is).
For each target:

1. K is the largest whose ONNX model is not faster than the target share of the whole network's latency.
2. Of every channel variant the ratio is taken whose latency is nearest to that; of those within the tolerance, the
   variant that is best after a short recovery on training images, judged on other training images, goes on.
3. Both learn from the whole network, on the same images: a least-squares refit of every layer, then as many gradient
   steps to its features by the same optimiser (`channels_recover.py`: edgeres has no channels to refit to).

With --shortcut conv all networks, the whole one included, have option A's padding written as the 1x1 convolution that
does the same (bit for bit, and faster on ONNX Runtime); it may learn in the recovery of both sides. Latencies are
interleaved in one session. Written to --out after every step; the same call goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from channels_recover import lesson_of, recovered
from channels_report import (
    Bits,
    Candidate,
    Cell,
    Pick,
    Results,
    Settings,
    Side,
    Trial,
    check_variants,
    draw,
    hex_of,
    table_of,
)
from channels_worker import (
    Weights,
    latencies_of,
    network_of,
    python_with,
    save_weights,
    widths_of,
    with_convolutions,
    write_onnx,
)
from safetensors.torch import load_file

from edgeres.bench.measure import Turn
from edgeres.bench.watch import busy_cores
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import config_from, record_from_json
from edgeres.core.environment import available_cores, environment
from edgeres.core.errors import EdgeresError, InputError, StageError
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval
from edgeres.core.statistics import ratio_interval
from edgeres.data import Split, dataset_for
from edgeres.models.network import Network
from edgeres.models.weights import fold_batch_norms, load_folded, load_network, load_weights, weights_without
from edgeres.prune.config import PruneConfig, RecoverConfig
from edgeres.prune.stage import prune

TORCH_PRUNING = "torch-pruning==1.6.1"
WHOLE = "whole"
_CALLS = (3, 100)  # of a model in one turn, at least and at most
_LAST_ROUNDS = 4  # times those of a survey
_BUSY_SHARE = 0.15  # of the cores, as in edgeres bench
_BATCH = 250  # images at a time where nothing is learnt


def main() -> int:
    """Returns the exit code."""
    options = vars(_parser().parse_args())
    checkpoint, work, out = (options.pop(name) for name in ("checkpoint", "work", "out"))
    try:
        settings = config_from(Settings, {k: v for k, v in options.items() if v is not None}, "options")
        if options["data"]:  # as typed: results hold no machine's folder
            settings = settings.model_copy(update={"data": options["data"]})
        study = Study(Checkpoint(checkpoint), settings, work, out)
        study.run()
    except EdgeresError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    print("\n".join(table_of(study.results)))
    draw(study.results, out.with_suffix(".svg"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/channels"), help="networks and the environment")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "channels.json")
    for name, field in Settings.model_fields.items():
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{field.description} ({default})".replace("%", "%%"))
    return parser


class Study:
    """The steps, each of which is skipped if its result is stored."""

    def __init__(self, source: Checkpoint, settings: Settings, work: Path, out: Path) -> None:
        self.source, self.settings, self.work, self.out = source, settings, work, out
        check_variants(settings)
        dataset = dataset_for(source.spec, settings.data)
        self.train = dataset.train
        self.val = dataset.val.sample(min(settings.val_images, len(dataset.val)), 0)
        self.teacher = load_folded(source)
        self.results = self._stored() or self._begun()

    def run(self) -> None:
        """Everything from the candidates to the last recovery."""
        if not self.results.survey:
            self._store(survey=self._survey())
        for target in self.settings.targets:
            self._try_variants(target)
        if not self.results.picks:
            self._pick()
        for pick in self.results.picks:
            for seed in self.settings.seeds:
                self._recover(pick, seed)
                if pick.side == "channels":
                    self._recover(pick, seed, refits=False)

    def _stored(self) -> Results | None:
        if not self.out.exists():
            return None
        results = record_from_json(Results, self.out)
        wanted = self.settings.model_dump(mode="json", exclude={"seeds"})
        other = [name for name, value in wanted.items() if results.settings.get(name) != value]
        if results.whole_sha256 != self.source.sha256:
            other.append("the checkpoint")
        if other:
            raise InputError(f"{self.out} differs in {', '.join(other)}; remove it or name another: --out FILE")
        return results.model_copy(update={"settings": self.settings.model_dump(mode="json")})

    def _begun(self) -> Results:
        here = environment()
        return Results(
            settings=self.settings.model_dump(mode="json"),
            whole_sha256=self.source.sha256,
            machine=here.machine,
            packages={**here.packages, "torch-pruning": TORCH_PRUNING.partition("==")[2]},
            n=len(self.val),
            whole=hex_of(self._right(load_network(self.source), self.val)),
        )

    def _store(self, **changes: object) -> None:
        self.results = self.results.model_copy(update=changes)
        write_text(self.out, self.results.model_dump_json(indent=1) + "\n")

    def _survey(self) -> tuple[Candidate, ...]:
        """The modules' side at every target, and all channel candidates, timed together."""
        counts = self._counts(self._prefixes())
        modules = [self._dropped(count) for count in sorted(set(counts.values()))]
        channels = [self._candidate(path, "channels") for path in self._thinned()]
        timed, whole_ms = self._timed([*modules, *channels], rounds=self.settings.rounds)
        self._store(whole_ms=whole_ms)
        return tuple(timed)

    def _prefixes(self) -> list[Candidate]:
        """Candidates with 1, 2, ... modules dropped, in the order in which the longest set was chosen."""
        say(f"choosing {self.settings.most} modules")
        config = config_from(PruneConfig, {"data": self.settings.data, "drop": self.settings.most}, "prune")
        order = prune(self.source, config, self.work / "choice").report.results["chosen"]
        folder, counts = self.work / "prefixes", range(1, self.settings.most + 1)
        found = [self._cut(order[:count], folder / f"modules-{count:02d}.safetensors") for count in counts]
        return self._timed(found, rounds=self.settings.rounds)[0]

    def _counts(self, prefixes: Sequence[Candidate]) -> dict[float, int]:
        """Target -> the largest number of modules that leaves the network not faster than that."""
        counts = {}
        for target in self.settings.targets:
            slow_enough = [i for i, one in enumerate(prefixes, 1) if one.ratio.value >= target]
            if not slow_enough:
                raise InputError(
                    f"target {target}: one module less is {prefixes[0].ratio.value:.3f} of the latency already"
                )
            if len(slow_enough) == len(prefixes):
                say(f"target {target}: {len(prefixes)} modules less still take {prefixes[-1].ratio.value:.3f}; --most")
            counts[target] = slow_enough[-1]
        return counts

    def _dropped(self, count: int) -> Candidate:
        say(f"choosing {count} modules")
        name = f"modules-{count:02d}"
        output = self._pruned({"drop": count}, name, self.settings.seeds[0])[0]
        return self._cut(output.spec.dropped, self.work / "networks" / f"{name}.safetensors")

    def _cut(self, names: Sequence[str], path: Path) -> Candidate:
        """The network without these modules, at `path`, not recovered."""
        spec = self.source.spec.without(tuple(names))
        save_weights(self._network(weights_without(load_weights(self.source), spec), spec.dropped), path)
        return self._candidate(path, "modules", dropped=spec.dropped)

    def _pruned(self, goal: dict[str, object], name: str, seed: int) -> tuple[Checkpoint, int, float]:
        """What `edgeres prune` makes as is advised, gradient steps, CPU seconds; made before, it is taken."""
        folder = self.work / "pruned" / f"{name}-{seed}"
        begun_s = time.process_time()
        config = config_from(PruneConfig, self._advised(seed) | {"recover": ("solve", "mimic")} | goal, "prune")
        if not (report := folder / "figures.json").exists():
            steps = prune(self.source, config, folder).report.results["recovery"]["steps"]
            write_text(report, json.dumps([steps, round(time.process_time() - begun_s, 1)]))
        return Checkpoint(folder / "model.safetensors"), *json.loads(report.read_text(encoding="utf-8"))

    def _advised(self, seed: int) -> dict[str, object]:
        settings = self.settings
        return {"data": settings.data, "images": settings.images, "epochs": settings.epochs, "seed": seed}

    def _thinned(self) -> list[Path]:
        """State dicts of all channel variants at all ratios."""
        folder = self.work / "channels"
        shutil.rmtree(folder, ignore_errors=True)
        say("pruning channels with Torch-Pruning")
        python = python_with(TORCH_PRUNING, self.work / "environment")
        command = [python, Path(__file__).with_name("channels_worker.py"), self.source.path, folder]
        options = ["--shortcut", self.settings.shortcut, "--variants", ",".join(self.settings.variants)]
        ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise StageError(f"channels: Torch-Pruning ended with {ran.returncode}: {last}")
        return [path for variant in self.settings.variants for path in sorted(folder.glob(f"{variant}-[0-9]*"))]

    def _candidate(self, path: Path, side: Side, dropped: tuple[str, ...] = ()) -> Candidate:
        network = self._network(load_file(path), dropped)
        return Candidate(
            name=path.stem,
            side=side,
            file=str(path.relative_to(self.work)),
            dropped=dropped,
            widths=widths_of(network) if side == "channels" else (),
            params=sum(parameter.numel() for parameter in network.parameters()),
            ratio=Interval(value=1, low=1, high=1),
        )

    def _network(self, weights: Weights, dropped: tuple[str, ...] = ()) -> Network:
        network = network_of(weights, self.source.spec.model_copy(update={"dropped": dropped}))
        return with_convolutions(network, self.source.spec) if self.settings.shortcut == "conv" else network

    def _loaded(self, candidate: Candidate) -> Network:
        if not (path := self.work / candidate.file).exists():
            self._remake(candidate, path)
        return self._network(load_file(path), candidate.dropped)

    def _remake(self, candidate: Candidate, path: Path) -> None:
        """The file of `candidate`, which only the results know any more."""
        if candidate.side == "channels":
            self._thinned()
        else:
            self._cut(candidate.dropped, path)

    def _timed(self, candidates: Sequence[Candidate], *, rounds: int) -> tuple[list[Candidate], float]:
        """The candidates with their share of the whole network's latency; that latency in milliseconds."""
        say(f"timing {len(candidates)} networks")
        whole = self._network(load_weights(self.source))
        paths = [write_onnx(whole, self.source, self.work / "onnx" / f"{WHOLE}.onnx")]
        paths += [
            write_onnx(self._loaded(one), self.source, self.work / "onnx" / f"{one.name}.onnx") for one in candidates
        ]
        turn = Turn(seconds=self.settings.turn_s, least=_CALLS[0], most=_CALLS[1])
        first, *rest = latencies_of(paths, turn, rounds=rounds, threads=self.settings.threads)
        found = zip(candidates, rest, strict=True)
        return [
            one.model_copy(update={"ratio": ratio_interval(first, latency)}) for one, latency in found
        ], first.p50_ms

    def _try_variants(self, target: float) -> None:
        """Trials at `target` of what no trial has been made for."""
        near = self._near(target)
        if len(near) == 1:
            return
        for one in near:
            if not any((trial.target, trial.name) == (target, one.name) for trial in self.results.trials):
                say(f"target {target}: short recovery of {one.name} ({one.ratio.value:.3f} of the latency)")
                network, (images, others) = self._loaded(one), self._trial_parts
                self._fit(network, images, self.work / "trials" / f"{target}-{one.name}", {"epochs": 1})
                top1 = float(self._right(network, others).mean())
                trial = Trial(target=target, name=one.name, top1=top1, n=len(others))
                self._store(trials=(*self.results.trials, trial))

    def _near(self, target: float) -> list[Candidate]:
        """One candidate a variant, as fast as the modules' side at `target`; the nearest of all if none is."""
        aim = self._modules_at(target).ratio.value
        best = []
        for variant in self.settings.variants:
            ratios = [one for one in self.results.survey if one.name.startswith(f"{variant}-")]
            if not ratios:
                raise InputError(
                    f"{variant} changes no width of {self.source.spec.variant}; leave it out of --variants"
                )
            best.append(min(ratios, key=lambda one: off(one, aim)))
        near = [one for one in best if off(one, aim) <= self.settings.tolerance]
        if self.settings.trial_images == 0:
            return near[:1] or [min(best, key=lambda one: off(one, aim))]
        return near or [min(best, key=lambda one: off(one, aim))]

    def _modules_at(self, target: float) -> Candidate:
        return min((one for one in self.results.survey if one.side == "modules"), key=lambda one: off(one, target))

    def _pick(self) -> None:
        """Both sides of every target, timed once more in a session of their own."""
        chosen: list[tuple[float, Candidate]] = []
        for target in self.settings.targets:
            scores = {trial.name: trial.top1 for trial in self.results.trials if trial.target == target}
            channels = max(self._near(target), key=lambda one: scores.get(one.name, 0.0))
            chosen += [(target, self._modules_at(target)), (target, channels)]
        busy = busy_cores()
        if busy is not None and busy > _BUSY_SHARE * available_cores():
            say(f"warning: other programs keep {busy:.1f} cores busy; stop them and start over without {self.out}")
        timed, whole_ms = self._timed([one for _, one in chosen], rounds=_LAST_ROUNDS * self.settings.rounds)
        picks = [
            Pick(target=target, side=one.side, candidate=one) for (target, _), one in zip(chosen, timed, strict=True)
        ]
        self._store(picks=tuple(picks), whole_ms=whole_ms, busy_cores=busy)

    def _recover(self, pick: Pick, seed: int, *, refits: bool = True) -> None:
        key = pick.target, pick.side, seed, refits
        if any((cell.target, cell.side, cell.seed, cell.refitted) == key for cell in self.results.cells):
            return
        one = pick.candidate
        say(f"target {pick.target}, seed {seed}: recovery of {one.name} ({one.ratio.value:.3f} of the latency)")
        network = self._loaded(one)
        before = self._right(network, self.val)
        if pick.side == "modules":
            output, steps, cpu_s = self._pruned({"modules": one.dropped}, one.name, seed)
            network = load_network(output)
        else:
            begun_s = time.process_time()
            images = self.train.sample(min(self.settings.images, len(self.train)), seed)
            folder = self.work / "recoveries" / f"{pick.target}-{one.name}-{seed}-{refits}"
            steps = self._fit(network, images, folder, self._advised(seed), refits=refits)
            cpu_s = round(time.process_time() - begun_s, 1)
        cell = Cell(
            target=pick.target,
            side=pick.side,
            seed=seed,
            name=one.name,
            images=min(self.settings.images, len(self.train)),
            steps=steps,
            cpu_s=cpu_s,
            refitted=refits,
            before=hex_of(before),
            after=hex_of(self._right(network, self.val)),
        )
        self._store(cells=(*self.results.cells, cell))

    @cached_property
    def _trial_parts(self) -> tuple[Split, Split]:
        """Training images for the short recoveries, and others to judge them on."""
        rest, judged = self.train.halves(self.settings.judge_images / len(self.train), 0)
        return rest.sample(min(self.settings.trial_images, len(rest)), 0), judged

    def _fit(
        self, network: Network, images: Split, folder: Path, how: dict[str, object], *, refits: bool = True
    ) -> int:
        """Recovers a network with fewer channels in place; the number of steps."""
        config = config_from(RecoverConfig, {"data": self.settings.data} | how, "recover")
        lesson = lesson_of(network, load_network(self.source), self.teacher, self.source.spec, images)
        return recovered(network, lesson, config, folder, refits=refits)

    def _right(self, network: Network, images: Split) -> Bits:
        """Whether the first guess is right, for each image."""
        network = copy.deepcopy(network)
        fold_batch_norms(network)
        network.to(memory_format=torch.channels_last)
        found = []
        with torch.inference_mode():
            for batch, labels in images.batches(self.source.spec, _BATCH):
                found.append(network(torch.from_numpy(batch)).argmax(1).numpy() == labels)
        return np.concatenate(found)


def off(candidate: Candidate, share: float) -> float:
    """Distance of its latency from a share of the whole network's."""
    return abs(candidate.ratio.value - share)


def say(line: str) -> None:
    """Progress, apart from the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
