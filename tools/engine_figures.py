"""Which engines `edgeres compile` builds of the models of the shipped recipes, for every architecture.

    edgeres run demo
    edgeres import resnet20_cifar10jpeg.pt --arch resnet20 -o r20.safetensors
    python tools/engine_figures.py --data digits "digits, less 3=runs/demo/04-recover/model.safetensors"
    python tools/engine_figures.py --data folder:cifar10-jpeg ResNet-20=r20.safetensors
    python tools/engine_figures.py --data folder:cifar10-jpeg ResNet-50=resnet50

Every checkpoint becomes five graphs by `edgeres export`, `calibrate` and `quantize`: FP32, FP16, INT8 and INT8 + FP16
for one image, INT8 + FP16 for 1 to 32. Each graph is given to TensorRT-RTX for each architecture, and for the three of
recipes at once. An architecture of torchvision instead of a file is built with random weights. Adds to --out after each
build and leaves out what stands there; plans are deleted once their manifests have been checked.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine_cases import NO_GPU, PLACES, Build, Key, Results, Source, lacks, render

import edgeres
from edgeres.core.artifacts import Checkpoint, Engine
from edgeres.core.config import record_from_json
from edgeres.core.environment import environment
from edgeres.core.files import sha256_of, write_text
from edgeres.core.stage import REPORT_NAME, StageReport
from edgeres.runtime.manifest import manifest_of, packaged_cuda

RESULTS = Path(__file__).parent / "results" / "engines.json"
ONE, RANGE = "1", "1 to 32"
GRAPHS = {  # file -> (precision, batch)
    "fp32.onnx": ("fp32", ONE),
    "fp16.onnx": ("fp16", ONE),
    "int8.onnx": ("int8", ONE),
    "int8-fp16.onnx": ("int8+fp16", ONE),
    "int8-fp16.dynamic.onnx": ("int8+fp16", RANGE),
}
_FEW_CLASSES = 10  # of a network with random weights: as in the data it is calibrated on


@dataclass(frozen=True)
class Workplace:
    """The folder where commands run, so that paths in sentences are short and nobody's own."""

    folder: Path
    data: str
    images: int

    def edgeres(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of edgeres as a user types it."""
        command = [sys.executable, "-m", "edgeres", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def make(self, path: Path, *words: str) -> None:
        """The file `path` (relative) by `edgeres words -o path`, unless it is there."""
        if not (self.folder / path).is_file():
            done = self.edgeres(*words, "-o", str(path))
            if done.returncode:
                raise SystemExit(f"edgeres {shlex.join(words)}: {said(done)}")


def main() -> int:
    """Returns the exit code."""
    options = _parser().parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kind, colon, path = options.data.partition("folder:")
    data = f"{colon}{Path(path).resolve()}" if colon else kind
    place = Workplace(options.work.resolve(), data, options.images)
    end = time.monotonic() + options.stop_after
    for text in options.models:
        name, _, source = text.partition("=")
        for build in _builds(name, source, place, options.out):
            print(build.model_dump_json(exclude_none=True), flush=True)
            known = known_in(options.out)
            keep(known.model_copy(update={"builds": (*known.builds, build)}), options.out)
            if time.monotonic() > end:
                print("stopped; the same command goes on from here")
                return 0
    print(render(known_in(options.out)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE", help="checkpoints of edgeres, or NAME=resnet50")
    parser.add_argument("--data", required=True, help="to calibrate on: digits, folder:PATH")
    parser.add_argument("--images", type=int, default=64, help="of train, to calibrate on")
    parser.add_argument("--work", type=Path, default=Path("runs/engines"), help="folder for the files")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="begin no build then")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def known_in(out: Path) -> Results:
    """What was found so far, or nothing of this machine."""
    if out.is_file():
        return record_from_json(Results, out)
    here = environment()
    builder = f"TensorRT-RTX {here.packages['tensorrt-rtx']} for CUDA {packaged_cuda('tensorrt-rtx')}"
    return Results(machine=here.machine, builder=builder, edgeres=edgeres.__version__)


def keep(results: Results, out: Path) -> None:
    """Writes them."""
    write_text(out, results.model_dump_json(indent=1, exclude_none=True) + "\n")


def _builds(name: str, source: str, place: Workplace, out: Path) -> Iterator[Build]:
    """Those that are not in `out` yet."""
    known = {build.key for build in known_in(out).builds}
    missing = [(graph, targets) for graph in GRAPHS for targets in PLACES if _key(name, graph, targets) not in known]
    if not missing:
        return
    folder = Path(re.sub(r"\W+", "-", name.lower()))
    _make_graphs(folder, source, place)
    _note_source(name, folder, source, place, out)
    for graph, targets in missing:
        yield _build(name, folder / graph, targets, place)


def _key(name: str, graph: str, targets: tuple[str, ...]) -> Key:
    return (name, *GRAPHS[graph], targets)


def _make_graphs(folder: Path, source: str, place: Workplace) -> None:
    """The files of GRAPHS in `folder`, by the command line."""
    checkpoint = _checkpoint(folder, source, place)
    float_, dynamic = folder / "fp32.onnx", folder / "fp32.dynamic.onnx"
    place.make(float_, "export", checkpoint)
    place.make(folder / "fp16.onnx", "export", checkpoint, "--half")
    place.make(dynamic, "export", checkpoint, "--dynamic")
    for onnx in (float_, dynamic):
        scales = onnx.with_suffix(".scales.json")
        place.make(scales, "calibrate", str(onnx), "--data", place.data, "--images", str(place.images))
        for profile, stem in (("tensorrt", "int8"), ("tensorrt-fp16", "int8-fp16")):
            path = folder / onnx.name.replace("fp32", stem)
            if path.name in GRAPHS:
                place.make(path, "quantize", str(onnx), "--scales", str(scales), "--profile", profile)


def _checkpoint(folder: Path, source: str, place: Workplace) -> str:
    if Path(source).suffix:
        return str(Path(source).resolve())
    path = folder / "random.safetensors"
    if not (place.folder / path).is_file():
        place.make(path, "import", str(_random_weights(source, place.folder / folder)), "--arch", source)
    return str(path)


def _random_weights(arch: str, folder: Path) -> Path:
    """A state dict of torchvision's `arch` with seed 0."""
    import torch
    import torchvision

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(torchvision.models.get_model(arch, num_classes=_FEW_CLASSES).state_dict(), folder / "random.pth")
    return folder / "random.pth"


def _note_source(name: str, folder: Path, source: str, place: Workplace, out: Path) -> None:
    spec = Checkpoint(place.folder / _checkpoint(folder, source, place)).spec
    noted = Source(
        arch=spec.variant,
        dropped=spec.dropped,
        input_shape=spec.input_shape,
        weights="trained" if Path(source).suffix else "random",
        onnx={graph: sha256_of(place.folder / folder / graph) for graph in GRAPHS},
    )
    known = known_in(out)
    keep(known.model_copy(update={"sources": {**known.sources, name: noted}}), out)


def _build(name: str, onnx: Path, targets: tuple[str, ...], place: Workplace) -> Build:
    plan = onnx.with_name(f"{onnx.stem}.{'-'.join(targets)}.plan")
    words = ("compile", str(onnx), "--targets", ",".join(targets), "-o", str(plan))
    begun_s = time.perf_counter()
    done = place.edgeres(*words)
    wall_s = round(time.perf_counter() - begun_s, 1)
    precision, batch = GRAPHS[onnx.name]
    build = Build(
        model=name,
        precision=precision,
        batch=batch,
        targets=targets,
        command=shlex.join(("edgeres", *words)),
        exit_code=done.returncode,
        wall_s=wall_s,
    )
    if done.returncode:
        return build.model_copy(update={"sentence": said(done)})
    return build.model_copy(update=_found(place.folder / plan, place.folder / onnx, build))


def _found(plan: Path, onnx: Path, build: Build) -> dict[str, object]:
    """What the manifest says; the plan goes, its manifest stays."""
    manifest = manifest_of(Engine(plan))
    report = record_from_json(StageReport, plan.with_name(f"{plan.name}.{REPORT_NAME}"))
    found = {
        "size_bytes": plan.stat().st_size,
        "build_s": manifest.build_s,
        "lacks": lacks(plan, onnx, build.targets, build.precision),
        "layers": manifest.layers.headline if manifest.layers else NO_GPU,
        "warnings": report.warnings,
    }
    plan.unlink()
    return found


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The error as a user sees it, the last line; a checkpoint by no name, as its path is somebody's own."""
    lines = done.stderr.strip().splitlines() or ["it says nothing"]
    return re.sub(r"\S+\.safetensors", "CHECKPOINT", lines[-1].removeprefix("edgeres: "))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
