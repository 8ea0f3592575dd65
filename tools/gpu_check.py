"""Whether edgeres does on an NVIDIA GPU what it says: trains, builds engines, runs them and compares, in eight minutes.

    python tools/gpu_check.py --out check.json             on a machine with a GPU; nothing is fetched
    python tools/gpu_check.py --dry-run --out check.json   without one: what needs it is "not run"
    python tools/gpu_check.py --pack PIECES WHEEL ...      cuts wheels into pieces of at most 60 MiB, packed by xz
    python tools/gpu_check.py --wheels PIECES ...          takes packages that are missing from wheels and pieces there

Needed are torch, onnx and onnxruntime; beside pydantic and tensorrt-rtx, whose library is 234 MB and 64 MiB packed,
nvidia-ml-py weighs energy. Wheels are for the Python that runs this.

Every check is a command as a user types it, in a folder that is left behind. The JSON says of each: worked, did not
(with the sentence of the command that failed) or not run (why), its seconds and its figures. Exit code 1 if one did
not. Pictures are made up: ten directions of stripes under noise, which a ResNet-20 learns in two epochs.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WORKED, FAILED, NOT_RUN = "worked", "did not", "not run"
_MINUTES, _PIECE_MIB, _LEAST_S = 8.0, 60, 5.0  # a check is not begun with less time left
_NETWORKS = ("resnet20", "resnet20-less2", "resnet56", "resnet50")
_IMAGES, _DRY_IMAGES, _LARGE = 5000, 400, 64  # small pictures, of 32 pixels; of 224
_COMPARED = 64  # images whose logits are compared
Figures = dict[str, Any]


class Failed(Exception):
    """What a command said."""


class NotRun(Exception):
    """Why a check was not tried."""


@dataclass(frozen=True)
class Check:
    """`run` gives the figures; `needs`: checks that must have worked."""

    name: str
    run: Callable[[Place], Figures]
    needs: tuple[str, ...] = ()
    needs_gpu: bool = False


@dataclass
class Place:
    """Where commands run, and until when; `target`: the GPU's architecture, `builds_for`: what engines are for."""

    folder: Path
    end: float
    target: str
    builds_for: tuple[str, ...]
    dry: bool
    environment: dict[str, str]
    commands: list[str] = field(default_factory=list)

    def edgeres(self, *words: str) -> list[Figures]:
        """The JSON reports of one command; raises Failed with its last line."""
        self.commands.append(" ".join(("edgeres", *words)))
        return [json.loads(line) for line in self._run("-m", "edgeres", *words, "--json").splitlines()]

    def child(self, *words: str) -> Figures:
        """The JSON object that `main` of this file prints when told to be a child."""
        found: Figures = json.loads(self._run(str(HERE), "--child", *words).splitlines()[-1])
        return found

    def _run(self, *words: str) -> str:
        left = max(1.0, self.end - time.monotonic())
        try:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=left,
            )
        except subprocess.TimeoutExpired as err:
            raise Failed(f"not done after {left:.0f} s, when all the time was over") from err
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise Failed(lines[-1].removeprefix("edgeres: "))
        return done.stdout


def packages(place: Place) -> Figures:
    """Versions of what is here."""
    found = place.child("environment")
    missing = [name for name in ("torch", "onnx", "onnxruntime", "tensorrt-rtx") if name not in found["packages"]]
    if missing:
        raise Failed(f"missing: {', '.join(missing)}")
    return found


def pictures(place: Place) -> Figures:
    """Writes the data sets."""
    return place.child("pictures", str(_DRY_IMAGES if place.dry else _IMAGES))


def train(place: Place) -> Figures:
    """Two epochs, in mixed precision where there is a GPU."""
    words = ("--data", "npz:small.npz", "--image-size", "32", "--epochs", "2", "-o", "resnet20.safetensors")
    return _trained(place, place.edgeres("train", "resnet20", *words))


def lesion(place: Place) -> Figures:
    """Every module dropped in turn."""
    words = ("--data", "npz:small.npz", "--images", "100", "--draws", "0", "-o", "lesions.json")
    (report,) = place.edgeres("lesion", "resnet20.safetensors", *words)
    return {"duration_s": report["duration_s"], "because": report["results"]["because"]}


def recover(place: Place) -> Figures:
    """Two modules dropped, trained back."""
    short = ("--data", "npz:small.npz", "--images", "300")
    place.edgeres("prune", "resnet20.safetensors", "--drop", "2", *short, "-o", "pruned.safetensors")
    words = ("--teacher", "resnet20.safetensors", "--epochs", "2", "-o", "resnet20-less2.safetensors")
    return _trained(place, place.edgeres("recover", "pruned.safetensors", *short, *words))


def _trained(place: Place, reports: Sequence[Figures]) -> Figures:
    """Seconds and figures; raises Failed if it was not on the GPU, or not in mixed precision there."""
    results = reports[-1]["results"]
    found = results["device"], results["precision"]
    if not place.dry and (found[0] != "cuda" or found[1] == "fp32"):
        raise Failed(f"it was trained on {found[0]} in {found[1]}")
    return {"duration_s": reports[-1]["duration_s"], "results": results}


def graphs(place: Place) -> Figures:
    """FP16 and INT8 graphs of every network."""
    place.child("random", "resnet56", "32")
    place.child("random", "resnet50", "224")
    found = {}
    for name in _NETWORKS:
        data = ("--data", "npz:large.npz" if name == "resnet50" else "npz:small.npz", "--images", "48")
        place.edgeres("export", f"{name}.safetensors", "-o", f"{name}.onnx")
        place.edgeres("export", f"{name}.safetensors", "--half", "-o", f"{name}.fp16.onnx")
        place.edgeres("calibrate", f"{name}.onnx", *data, "-o", f"{name}.scales.json")
        words = ("--scales", f"{name}.scales.json", "--profile", "tensorrt-fp16", "-o", f"{name}.int8.onnx")
        (report,) = place.edgeres("quantize", f"{name}.onnx", *words)
        found[name] = {"pairs": report["results"]["pairs"], "lint": _lint(place, f"{name}.int8.onnx")}
    return found


def _lint(place: Place, onnx: str) -> str:
    (report,) = place.edgeres("lint", onnx, "--no-build")
    return f"{len(report['source']['findings'])} findings"


def target(place: Place) -> Figures:
    """Whether TensorRT-RTX knows the architecture of the GPU."""
    found = place.child("target", place.target)
    if not found["is_known"]:
        raise Failed(f"TensorRT-RTX {found['version']} does not build for {place.target}, only for {found['known']}")
    return found


def build(place: Place) -> Figures:
    """Engines in FP16 and INT8 of every network."""
    found = {}
    for stem in _plans():
        words = (f"{stem}.onnx", "--targets", ",".join(place.builds_for), "-o", f"{stem}.plan")
        (report,) = place.edgeres("compile", *words)
        size = (place.folder / f"{stem}.plan").stat().st_size
        found[stem] = {"size_bytes": size, "results": report["results"], "warnings": report["warnings"]}
    return found


def _plans() -> Iterator[str]:
    return (f"{name}.{kind}" for name in _NETWORKS for kind in ("fp16", "int8"))


def current(place: Place) -> Figures:
    """An engine for the GPU that is here, asked for as such, whichever it is; edgeres compile has no name for that."""
    said = place.child("current", "resnet20.int8.onnx")["said"]
    if said:
        raise Failed(said)
    (report,) = place.edgeres("layers", "current.plan", "--onnx", "resnet20.int8.onnx")
    return {key: report[key] for key in ("kernels", "reformats", "quantizers")}


def agreement(place: Place) -> Figures:
    """Logits of the engines against ONNX Runtime on the same graph, Q/DQ literal."""
    found = {stem: place.child("logits", stem) for stem in _plans()}
    far = [f"{stem} {one['sqnr_db']:.1f} dB" for stem, one in found.items() if one["sqnr_db"] < one["least_db"]]
    if far:
        raise Failed(f"logits differ: {', '.join(far)}")
    return found


def evaluate(place: Place) -> Figures:
    """Accuracy of the trained engines on val."""
    reports = (place.edgeres("eval", f"resnet20.{kind}.plan", "--data", "npz:small.npz") for kind in ("fp16", "int8"))
    return {"accuracy": [report["accuracy"] for (report,) in reports]}


def latency(place: Place) -> Figures:
    """Float against INT8 against pruned, interleaved; energy by NVML comes with it."""
    found = {}
    for name, others in (("resnet20", ("resnet20-less2",)), ("resnet56", ()), ("resnet50", ())):
        plans = [f"{one}.{kind}.plan" for one in (name, *others) for kind in ("fp16", "int8")]
        reports = place.edgeres("bench", *plans, "--seconds", "2")
        found[name] = [_without_samples(report) for report in reports]
    return found


def _without_samples(report: Figures) -> Figures:
    latencies = [{key: value for key, value in one.items() if key != "samples_ms"} for one in report["latency"]]
    medians = [sorted(one["samples_ms"])[len(one["samples_ms"]) // 2] for one in report["latency"]]
    return {**{key: report.get(key) for key in ("results", "energy", "warnings")}, "latency": latencies, "p50": medians}


def layers(place: Place) -> Figures:
    """What the inspector says of the INT8 engines."""
    found = {}
    for name in _NETWORKS:
        (report,) = place.edgeres("layers", f"{name}.int8.plan", "--onnx", f"{name}.int8.onnx")
        found[name] = {key: report[key] for key in ("kernels", "reformats", "quantizers", "strays")}
        found[name]["modules"] = [[one["module"], one["addition"], one["precision"]] for one in report["modules"]]
    return found


CHECKS = (
    Check("packages", packages),
    Check("pictures", pictures, ("packages",)),
    Check("train", train, ("pictures",)),
    Check("lesion", lesion, ("train",)),
    Check("recover", recover, ("train",)),
    Check("graphs", graphs, ("recover",)),
    Check("target", target, ("packages",)),
    Check("build", build, ("graphs",)),
    Check("current", current, ("graphs",), needs_gpu=True),
    Check("agreement", agreement, ("target", "build"), needs_gpu=True),
    Check("evaluate", evaluate, ("agreement",), needs_gpu=True),
    Check("latency", latency, ("agreement",), needs_gpu=True),
    Check("layers", layers, ("target", "build"), needs_gpu=True),
)


def checked(place: Place, checks: Sequence[Check] = CHECKS) -> Iterator[Figures]:
    """Each check's row as soon as it is there; whatever goes wrong in one, the others are tried."""
    worked: set[str] = set()
    for check in checks:
        begun, place.commands = time.monotonic(), []
        row: Figures = {"name": check.name, "outcome": WORKED}
        try:
            _check_ready(check, place, worked)
            row["figures"] = check.run(place)
            worked.add(check.name)
        except NotRun as err:
            row |= {"outcome": NOT_RUN, "reason": str(err)}
        except Failed as err:
            row |= {"outcome": FAILED, "reason": str(err)}
        except Exception as err:  # the other checks are still worth their time
            row |= {"outcome": FAILED, "reason": f"{type(err).__name__}: {err}"}
        yield {**row, "seconds": round(time.monotonic() - begun, 1), "commands": place.commands}


def _check_ready(check: Check, place: Place, worked: set[str]) -> None:
    if check.needs_gpu and place.dry:
        raise NotRun("needs a GPU")
    if missing := [name for name in check.needs if name not in worked]:
        raise NotRun(f"needs {' and '.join(missing)}")
    if place.end - time.monotonic() < _LEAST_S:
        raise NotRun("no time was left")


def child(task: str, *words: str) -> Figures:
    """One piece of work in a process of its own, in the folder of the checks."""
    tasks: dict[str, Callable[..., Figures]] = {
        "environment": _environment,
        "pictures": _write_pictures,
        "random": _write_random,
        "target": _target,
        "current": _current,
        "logits": _logits,
    }
    return tasks[task](*words)


def _environment() -> Figures:
    from edgeres.core.environment import environment

    found: Figures = environment().model_dump(mode="json")
    return found


def _write_pictures(count: str) -> Figures:
    import numpy as np

    for name, n, side in (("small", int(count), 32), ("large", _LARGE, 224)):
        rng, labels = np.random.default_rng(0), np.arange(n) % 10
        y, x = np.mgrid[:side, :side] * (2 * np.pi * 4 / side)
        turns = (labels * np.pi / 10)[:, None, None]
        waves = np.sin(x * np.cos(turns) + y * np.sin(turns) + rng.uniform(0, 6.3, (n, 1, 1)))
        pixels = 128 + 60 * waves[..., None] + rng.normal(0, 40, (n, side, side, 3))
        np.savez(f"{name}.npz", images=np.clip(pixels, 0, 255).astype(np.uint8), labels=labels)
    return {"small": int(count), "large": _LARGE}


def _write_random(arch: str, side: str) -> Figures:
    """A checkpoint with random weights whose batch norms are set by noise, so that no signal grows or dies."""
    import torch

    from edgeres.models import network_from, spec_from_arch
    from edgeres.models.weights import save_checkpoint

    torch.manual_seed(0)
    spec = spec_from_arch(arch, num_classes=10, input_shape=(3, int(side), int(side)))
    network = network_from(spec).train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        for _ in range(2):
            network(torch.randn(8, 3, int(side), int(side)))
    save_checkpoint(network.state_dict(), spec, Path(f"{arch}.safetensors"), stage="random")
    return {}


def _target(name: str) -> Figures:
    import tensorrt_rtx

    from edgeres.runtime.manifest import RTX_TARGETS

    known = hasattr(tensorrt_rtx.ComputeCapability, name.upper()) and name in RTX_TARGETS
    return {"is_known": known, "known": ", ".join(RTX_TARGETS), "version": tensorrt_rtx.__version__}


def _current(onnx: str) -> Figures:
    """Builds current.plan and asks the inspector; `said`: why that did not work, or nothing."""
    from edgeres.compile.config import BuildJob
    from edgeres.compile.isolated import attempt, inspected

    path, plan = Path(onnx).resolve(), Path("current.plan").resolve()
    job = BuildJob(
        module="tensorrt_rtx",
        onnx_path=str(path),
        plan_path=str(plan),
        quantized=True,
        targets=("current",),
        batch=(1, 1, 1),
    )
    result = attempt(job)
    refused = "; ".join(filter(None, (result.error, *result.messages[:1])))
    return {"said": refused if result.built is None else inspected(job.module, plan)}


def _logits(stem: str) -> Figures:
    """The engine STEM.plan against STEM.onnx on noise."""
    import numpy as np

    from edgeres.core.artifacts import Engine, OnnxModel
    from edgeres.quantize.repair.check import sqnr_db
    from edgeres.runtime import runner_for
    from edgeres.runtime.runner import infer_all

    source = OnnxModel(Path(f"{stem}.onnx"))
    images = np.random.default_rng(0).standard_normal((_COMPARED, *source.spec.input_shape)).astype(np.float32)
    with runner_for(source) as literal, runner_for(Engine(Path(f"{stem}.plan"))) as engine:
        first, other = (infer_all(one, images).astype(np.float64) for one in (literal, engine))
    same = float((first.argmax(1) == other.argmax(1)).mean())
    return {"sqnr_db": sqnr_db(first, other), "same_top1": same, "n": _COMPARED, "least_db": 15.0}


def pack(folder: Path, wheels: Sequence[Path]) -> None:
    """Writes each wheel as WHEEL.xz.00, WHEEL.xz.01, ..., its files stored plainly so that xz sees them."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        with tempfile.TemporaryFile() as plain:
            with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(plain, "w") as stored:
                for name in source.namelist():
                    stored.writestr(name, source.read(name))
            plain.seek(0)
            packed = lzma.compress(plain.read(), preset=6)
        size = _PIECE_MIB << 20
        for number, start in enumerate(range(0, len(packed), size)):
            (folder / f"{wheel.name}.xz.{number:02}").write_bytes(packed[start : start + size])


def unpacked(folder: Path, into: Path) -> Path:
    """A folder for PYTHONPATH with the packages of the wheels, whole or in pieces, in `folder`."""
    wheels, site = [*folder.glob("*.whl")], into / "site"
    for first in sorted(folder.glob("*.whl.xz.00")):
        name = first.name.removesuffix(".xz.00")
        packed = b"".join(piece.read_bytes() for piece in sorted(folder.glob(f"{name}.xz.*")))
        (into / name).write_bytes(lzma.decompress(packed))
        wheels.append(into / name)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return site


def main() -> int:
    """1 if a check did not work."""
    options = _parser().parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return 0
    if options.pack:
        pack(options.pack, [Path(name) for name in options.files])
        return 0
    begun, folder = time.monotonic(), (options.work or Path(tempfile.mkdtemp(prefix="gpu-check-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE.parent.parent), *([str(unpacked(options.wheels, folder))] if options.wheels else [])]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    sys.path[:0] = paths
    found = _target_here(options.target, dry=options.dry_run)
    if found is None:
        print("no GPU here; --dry-run tries what needs none", file=sys.stderr)
        return 2
    from edgeres.runtime.manifest import RTX_TARGETS

    builds_for = (found,) if found in RTX_TARGETS else ("sm86", "sm89", "sm120")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "EDGERES_RUN": ""}
    place = Place(folder, begun + 60 * options.minutes, found, builds_for, options.dry_run, environment)
    result: Figures = {"schema_version": 1, "dry_run": options.dry_run, "target": found, "checks": []}
    for row in checked(place):
        result["checks"].append(row)
        result["seconds"] = round(time.monotonic() - begun, 1)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{row['outcome']:8} {row['name']} ({row['seconds']} s){': ' + row['reason'] if 'reason' in row else ''}")
    print(f"{options.out}; files are in {folder}")
    return int(any(row["outcome"] == FAILED for row in result["checks"]))


def _target_here(asked: str | None, *, dry: bool) -> str | None:
    """The architecture of this machine's GPU, of a dry run the one asked for; None without a GPU."""
    from edgeres.core.errors import DeviceError
    from edgeres.runtime.manifest import local_gpu

    if dry:
        return asked or "sm86"
    try:
        return local_gpu().target
    except DeviceError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="leave out what needs a GPU")
    parser.add_argument("--target", help="the GPU architecture of a dry run, as sm86")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="when these are over no check is begun")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="what was found")
    parser.add_argument("--work", type=Path, help="folder for the files; default: a new one")
    parser.add_argument("--wheels", type=Path, metavar="PIECES", help="packages that are missing here")
    parser.add_argument("--pack", type=Path, metavar="PIECES", help="cut the wheels FILES into pieces, nothing else")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help="wheels to pack")
    return parser


if __name__ == "__main__":
    sys.exit(main())
