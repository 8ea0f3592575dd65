"""What calibration costs and what each method reaches, beside onnxruntime.quantization on the same model and images.

    python tools/calibration_figures.py --data folder:cifar10-jpeg --models resnet56=FILE resnet20=FILE
        --only cost        processes of their own, interleaved: peak memory and wall time
        --only large       the same on ResNet-50 at 224 pixels
        --only accuracy    literal Q/DQ on ONNX Runtime, all of val
    python tools/calibration_figures.py --render [--check]  the table of calibration/README.md from the stored results

Writes tools/results/calibration.json; `render` makes the table of tools/README.md of it, `render_recipes` that of
calibration/.
The first model is the one costs are taken on.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.files import write_text
from edgeres.graph.session import session_from

TOOLS = Path(__file__).parent
RESULTS = TOOLS / "results" / "calibration.json"
WORKER = TOOLS / "calibration_worker.py"
IMAGES, MANY, FEW, LARGE_IMAGES = 512, 2048, 64, 64
OTHERS = 1000
README = TOOLS.parent / "calibration" / "README.md"
_BLOCK = re.compile(r"(<!-- table: recipes -->\n).*?(<!-- end -->)", re.DOTALL)
REPEATS = 3
_BATCH = 100
_MB = 1e6
Rows = list[dict[str, Any]]


def main() -> None:
    """Runs what was asked for and adds it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME=CHECKPOINT")
    parser.add_argument("--only", choices=("cost", "large", "accuracy"))
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.render:
        sys.exit(written_table(check=options.check))
    if not options.data or not options.models:
        parser.error("--data and --models are needed")
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        models = {name: exported(Path(path), Path(folder, name)) for name, path in pairs(options.models)}
        first = next(iter(models.values())).path
        parts = {
            "cost": lambda: cost_rows(first, options.data, Path(folder)),
            "large": lambda: large_rows(Path(folder)),
            "accuracy": lambda: accuracy_rows(models, options.data, Path(folder)),
        }
        for part in [options.only] if options.only else list(parts):
            content[part] = parts[part]()
            write_text(RESULTS, json.dumps(content | {"conditions": conditions(options.data)}, indent=1) + "\n")


def written_table(*, check: bool) -> int:
    """Rewrites the marked table of calibration/README.md; with `check` returns 1 if it is another."""
    old = README.read_text(encoding="utf-8")
    table = render_recipes(json.loads(RESULTS.read_text(encoding="utf-8")))
    new = _BLOCK.sub(lambda match: match[1] + table + match[2], old)
    if not check:
        write_text(README, new)
    return int(check and new != old)


def pairs(texts: list[str]) -> list[tuple[str, str]]:
    """NAME=PATH, split."""
    return [(name, path) for name, _, path in (text.partition("=") for text in texts)]


def exported(checkpoint: Path, out: Path) -> OnnxModel:
    """The float model, any batch size."""
    from edgeres.export.stage import ExportConfig, export

    return export(Checkpoint(checkpoint), ExportConfig(dynamic=True), out).output


def cost_rows(model: Path, data: str, folder: Path) -> Rows:
    """Each job in turn, several times over."""
    jobs = [("ours", "mse", FEW), ("ours", "mse", MANY), ("ours", "mse", IMAGES)]
    jobs += [("onnxruntime", method, IMAGES) for method in ("entropy", "percentile")]
    return measured(jobs, model, data, folder, REPEATS)


def large_rows(folder: Path) -> Rows:
    """ResNet-50 of torchvision with random weights at 224 pixels, images of noise."""
    jobs = [("ours", "mse", LARGE_IMAGES // 4), ("ours", "mse", LARGE_IMAGES), ("onnxruntime", "entropy", LARGE_IMAGES)]
    return measured(jobs, large_model(folder / "resnet50.onnx"), "random", folder, 1)


def measured(jobs: list[tuple[str, str, int]], model: Path, data: str, folder: Path, repeats: int) -> Rows:
    """Wall time (median) and memory above an idle process (largest) of every job."""
    rows: Rows = [{"job": job, "method": method, "images": images, "runs": []} for job, method, images in jobs]
    for _ in range(repeats):
        for row in rows:
            idle = timed_run((f"{row['job']}-idle", row["method"], row["images"]), model, data, folder)
            run = timed_run((row["job"], row["method"], row["images"]), model, data, folder)
            row["runs"].append({**run, "idle_bytes": idle["peak_bytes"]})
    for row in rows:
        row["wall_s"] = round(median(run["wall_s"] for run in row["runs"]), 3)
        row["above_idle_mb"] = round(max(run["peak_bytes"] - run["idle_bytes"] for run in row["runs"]) / _MB, 1)
        print(row["job"], row["method"], row["images"], row["wall_s"], row["above_idle_mb"], flush=True)
    return rows


def timed_run(job: tuple[str, str, int], model: Path, data: str, folder: Path) -> dict[str, Any]:
    """One process from start to end."""
    name, method, images = job
    command = [sys.executable, str(WORKER), name, method, str(model), data, str(images), str(folder / "out")]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall = round(time.perf_counter() - start, 3)
    return {"wall_s": wall, "peak_bytes": int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])}


def large_model(path: Path) -> Path:
    """Static batch 1, batch norms folded by the exporter."""
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    example = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(network, (example,), str(path), input_names=["images"], opset_version=17, dynamo=False)
    return path


def accuracy_rows(models: dict[str, OnnxModel], data: str, folder: Path) -> Rows:
    """Every method on every model, the peer's two on the first."""
    from edgeres.data import dataset_for
    from edgeres.quantize.repair.check import sqnr_db

    rows: Rows = []
    for place, (name, model) in enumerate(models.items()):
        dataset = dataset_for(model.spec, data)
        val, inputs = dataset.val, [images for images, _ in dataset.val.batches(model.spec, _BATCH)]
        others = other_images(dataset.train, model)
        expected, expected_train = logits_of(model.path, inputs), logits_of(model.path, others)
        rows.append({"model": name, "by": "float"} | compared(expected, expected, val.labels))
        for by, method, path in quantized(model, data, folder / name, with_peer=place == 0):
            facts = compared(logits_of(path, inputs), expected, val.labels)
            noise = sqnr_db(expected_train, logits_of(path, others))
            rows.append({"model": name, "by": by, "method": method} | facts | {"train_sqnr_db": round(noise, 2)})
            print(rows[-1], flush=True)
    return rows


def other_images(train: Any, model: OnnxModel) -> list[Any]:
    """Training images that calibration does not see: what a method may be chosen on."""
    used = set(train.sample(IMAGES, 0).ids)
    rest = train.subset([place for place, name in enumerate(train.ids) if name not in used])
    return [images for images, _ in rest.sample(OTHERS, 1).batches(model.spec, _BATCH)]


def quantized(model: OnnxModel, data: str, folder: Path, *, with_peer: bool) -> Iterator[tuple[str, str, Path]]:
    """(whose, method, file) of every quantized graph."""
    from calibration_worker import onnxruntime

    from edgeres.quantize.calibrate import calibrate
    from edgeres.quantize.config import CalibrateConfig, QuantizeConfig
    from edgeres.quantize.stage import quantize

    config = CalibrateConfig(data=data, images=IMAGES)
    table = calibrate(model, config, folder).output.path
    for method in config.methods:
        result = quantize(model, QuantizeConfig(scales=table, method=method, effort="quick"), folder / method)
        yield "ours", method, result.output.path
    for method in ("entropy", "percentile") if with_peer else ():
        out = folder / f"onnxruntime-{method}"
        out.mkdir()
        onnxruntime(method)(model.path, data, IMAGES, out)
        yield "onnxruntime", method, out / "model.int8.onnx"


def logits_of(path: Path, batches: list[Any]) -> Any:
    """Literal evaluation: Q/DQ nodes are computed as they stand."""
    session = session_from(path, str(path))
    return np.concatenate([session.run(None, {"images": images})[0] for images in batches])


def compared(logits: Any, expected: Any, labels: Any) -> dict[str, Any]:
    """Accuracy, and how far the logits are from those of the float model."""
    from edgeres.quantize.repair.check import sqnr_db

    top1, same = logits.argmax(1) == labels, logits.argmax(1) == expected.argmax(1)
    sqnr = sqnr_db(expected, logits)
    return {
        "n": len(labels),
        "top1": float(top1.mean()),
        "agreement": float(same.mean()),
        "sqnr_db": round(sqnr, 2) if np.isfinite(sqnr) else None,
    }


def conditions(data: str) -> dict[str, Any]:
    """What the figures belong to."""
    import onnxruntime as ort

    return {"data": data, "onnxruntime": ort.__version__, "repeats": REPEATS, "seed": 0, "images": IMAGES}


def render(content: dict[str, Any]) -> str:
    """The table of tools/README.md: cost against the peer's."""
    lines = ["| calibration | images | wall time | memory above idle |", "| --- | --- | --- | --- |"]
    for part, model in (("cost", "ResNet-56, 32 pixels"), ("large", "ResNet-50, 224 pixels, random weights")):
        rows: Rows = content.get(part, [])
        peer = min((row["wall_s"] for row in rows if row["job"] == "onnxruntime"), default=None)
        for row in rows:
            whose = (
                f"edgeres, {'all methods' if part == 'cost' else row['method']}"
                if row["job"] == "ours"
                else f"onnxruntime.quantization, {row['method']}"
            )
            ratio = f"{row['wall_s'] / peer:.2f}" if peer else "not compared"
            lines.append(f"| {model}: {whose} | {row['images']:,} | {ratio} | {row['above_idle_mb']:,.0f} MB |")
    how = content["conditions"]
    about = (
        "Whole process, calibration and Q/DQ file, wall time over the fastest one of ONNX Runtime's on the same model;"
        f" median of {how['repeats']} interleaved runs (ResNet-50: one run, edgeres' graph is not"
        f" written to disk). Memory: largest resident size less that of a process with the same"
        f" imports. ONNX Runtime {how['onnxruntime']}: `python tools/calibration_figures.py`."
    )
    return "\n".join([*lines, "", about]) + "\n"


def render_recipes(content: dict[str, Any]) -> str:
    """The table of calibration/README.md: what each method reaches."""
    titles = ("model", "method", "top-1 %", "against float", "agreement %", "logit SQNR", "on other train images")
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    floats = {row["model"]: row["top1"] for row in content["accuracy"] if row["by"] == "float"}
    for row in content["accuracy"]:
        name, top1 = row["model"], f"{100 * row['top1']:.2f}"
        if row["by"] == "float":
            lines.append(f"| {name} | float | {top1} | | | | |")
            continue
        whose = f"`{row['method']}`" if row["by"] == "ours" else f"ONNX Runtime, {row['method']}"
        change = f"{100 * (row['top1'] - floats[name]):+.2f}".replace("-", "−")
        facts = (f"{100 * row['agreement']:.2f}", f"{row['sqnr_db']:.1f} dB", f"{row['train_sqnr_db']:.1f} dB")
        lines.append("| " + " | ".join((name, whose, top1, change, *facts)) + " |")
    how = content["conditions"]
    about = (
        f"n = {content['accuracy'][0]['n']:,} val images of CIFAR-10 as JPEG, {how['images']} calibration images of"
        f" train, seed {how['seed']} (last column: {OTHERS:,} others), literal Q/DQ on ONNX Runtime"
        f" {how['onnxruntime']}: `python tools/calibration_figures.py --only accuracy`."
    )
    return "\n".join([*lines, "", about]) + "\n"


if __name__ == "__main__":
    main()
