"""Fewer modules against fewer channels at equal measured latency and equal recovery, on ResNet-56.

    edgeres import resnet56.pt --arch resnet56 --classes 10 ... -o whole.safetensors
    python tools/channels_figures.py whole.safetensors --data folder:cifar10-jpeg

Modules are dropped by `edgeres prune --drop K`. Channels are pruned by Torch-Pruning (group L2), which lives in an
environment of its own under the work folder (see `channels_worker.py`, also for what a variant is). For each target:

1. K is the largest whose ONNX model is not faster than the target share of the whole network's latency.
2. Of every channel variant the ratio is taken whose latency is nearest to that; of those within the tolerance, the
   variant that is best after a short recovery on training images, judged on other training images, goes on.
3. Both learn from the whole network: the same images in the same order, loss, steps and optimiser.

With --shortcut conv all networks, the whole one included, have option A's padding written as the 1x1 convolution that
does the same (bit for bit, and faster on ONNX Runtime); it may learn in the recovery of both sides. Latencies are
interleaved in one session. Written to --out after every step; the same call goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
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
from channels_worker import Weights, latencies_of, network_of, save_weights, widths_of, with_convolutions, write_onnx
from safetensors.torch import load_file
from torch import Tensor

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
from edgeres.models.fold import fold_batch_norms, load_folded
from edgeres.models.network import Network
from edgeres.models.weights import load_network, load_weights, weights_without
from edgeres.prune.config import PruneConfig
from edgeres.prune.stage import prune
from edgeres.train.batches import batches_for
from edgeres.train.config import LoopConfig
from edgeres.train.loop import Training, fit
from edgeres.train.objectives import Objective, soft_divergence

TORCH_PRUNING = "torch-pruning==1.6.1"
WHOLE = "whole"
_CALLS = (3, 100)  # of a model in one turn, at least and at most
_LAST_ROUNDS = 4  # times those of a survey
_BUSY_SHARE = 0.15  # of the cores, as in edgeres bench
_BATCH = 250  # images at a time where nothing is learnt
_WARMUP_SHARE = 0.1  # of the recovery's steps


def main() -> int:
    """Returns the exit code."""
    options = vars(_parser().parse_args())
    checkpoint, work, out = (options.pop(name) for name in ("checkpoint", "work", "out"))
    try:
        settings = config_from(Settings, {k: v for k, v in options.items() if v is not None}, "options")
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
        torch.set_num_threads(settings.threads)
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
        order = prune(self.source, self._choice(self.settings.most), self.work / "choice").report.results["chosen"]
        found = []
        for count in range(1, self.settings.most + 1):
            spec = self.source.spec.without(tuple(order[:count]))
            network = self._network(weights_without(load_weights(self.source), spec), spec.dropped)
            save_weights(network, path := self.work / "prefixes" / f"modules-{count:02d}.safetensors")
            found.append(self._candidate(path, "modules", dropped=spec.dropped))
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
        output = prune(self.source, self._choice(count), self.work / "choice").output
        network = self._network(load_weights(output), output.spec.dropped)
        save_weights(network, path := self.work / "networks" / f"modules-{count:02d}.safetensors")
        return self._candidate(path, "modules", dropped=output.spec.dropped)

    def _choice(self, count: int) -> PruneConfig:
        options = {
            "drop": count,
            "score": "adaptive",
            "data": self.settings.data,
            "images": self.settings.choose_images,
        }
        return config_from(PruneConfig, options, "prune")

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
            raise InputError(f"{path} is gone; start over without {self.out}")
        return self._network(load_file(path), candidate.dropped)

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
                network = self._loaded(one)
                self._fit(network, self._trial_parts[0], self.work / "trials" / f"{target}-{one.name}", seed=0)
                top1 = float(self._right(network, self._trial_parts[1]).mean())
                trial = Trial(target=target, name=one.name, top1=top1, n=len(self._trial_parts[1]))
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
        modules = [one for one in self.results.survey if one.side == "modules"]
        return min((one for one in modules), key=lambda one: off(one, target))

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

    def _recover(self, pick: Pick, seed: int) -> None:
        key = pick.target, pick.side, seed
        if any((cell.target, cell.side, cell.seed) == key for cell in self.results.cells):
            return
        one, images = pick.candidate, self._recovery_images
        say(f"target {pick.target}, seed {seed}: recovery of {one.name} ({one.ratio.value:.3f} of the latency)")
        network = self._loaded(one)
        before = self._right(network, self.val)
        steps = self._fit(network, images, self.work / "recoveries" / f"{pick.target}-{one.name}-{seed}", seed=seed)
        after = self._right(network, self.val)
        cell = Cell(
            target=pick.target,
            side=pick.side,
            seed=seed,
            name=one.name,
            images=len(images),
            steps=steps,
            before=hex_of(before),
            after=hex_of(after),
        )
        self._store(cells=(*self.results.cells, cell))

    @cached_property
    def _recovery_images(self) -> Split:
        return self.train.sample(min(self.settings.images, len(self.train)), 0)

    @cached_property
    def _trial_parts(self) -> tuple[Split, Split]:
        """Training images for the short recoveries, and others to judge them on."""
        rest, judged = self.train.halves(self.settings.judge_images / len(self.train), 0)
        return rest.sample(min(self.settings.trial_images, len(rest)), 0), judged

    def _fit(self, network: Network, images: Split, state_dir: Path, seed: int) -> int:
        """Recovers `network` in place on `images`; the number of steps."""
        settings = self.settings
        config = LoopConfig(
            epochs=settings.epochs,
            batch=min(settings.batch, len(images)),
            lr=settings.lr,
            warmup_epochs=_WARMUP_SHARE * settings.epochs,
            seed=seed,
        )
        objective = distilled(self.teacher, weight=settings.weight, temperature=settings.temperature)
        fitted = fit(Training(network, objective, batches_for(images, self.source.spec, config), config, state_dir))
        network.load_state_dict(fitted.weights)
        return fitted.steps

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


def distilled(teacher: Network, *, weight: float, temperature: float) -> Objective:
    """(1 - weight) cross-entropy + weight T^2 KL(teacher || student), both softened by T: Hinton et al. 2015."""
    teacher = teacher.eval().requires_grad_(False)

    def objective(network: Network, images: Tensor, labels: Tensor) -> Tensor:
        logits = network(images)
        with torch.no_grad():
            goal = teacher(images)
        soft = soft_divergence(logits, goal, temperature)
        return (1 - weight) * torch.nn.functional.cross_entropy(logits, labels) + weight * soft

    return objective


def python_with(requirement: str, folder: Path) -> Path:
    """The interpreter of a throw-away environment that has `requirement` on top of the present one's packages."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        say(f"making an environment with {requirement}")
        venv.create(folder, clear=True)
        installed = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        (installed / "present.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", requirement]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise StageError(f"channels: cannot install {requirement}: {ran.stderr.strip().splitlines()[-1]}")
        (folder / "ready").touch()
    return python


def off(candidate: Candidate, share: float) -> float:
    """Distance of its latency from a share of the whole network's."""
    return abs(candidate.ratio.value - share)


def say(line: str) -> None:
    """Progress, apart from the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
