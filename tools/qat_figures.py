"""Training under quantization on the ResNet-56 pruned by 9 and recovered, beside its float parent.

    python tools/qat_figures.py --data folder:cifar10-jpeg --work FOLDER r56p9.onnx

The learning rate is the one of RATES with the smallest divergence from float on held-out train images, with the first
seed; each seed draws other calibration images and another order. Only that rate's files are judged on val: paired with
the float graph, literal Q/DQ. Writes tools/results/qat.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import onnx
from quantize_figures import Bench, bench_of, figures_of

from edgeres.core.artifacts import OnnxModel
from edgeres.core.files import write_text
from edgeres.quantize.calibrate import calibrate
from edgeres.quantize.config import CalibrateConfig, QatConfig
from edgeres.quantize.qat import qat

RESULTS = Path(__file__).parent / "results" / "qat.json"
RATES = (1e-5, 3e-5, 1e-4)
SEEDS = (0, 1, 2)


def main() -> None:
    """Chooses the rate, judges every seed, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="float ONNX")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the files made; what is there is kept")
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.set_defaults(images=512, seed=0, val_images=5000, held_out=2000)
    options = parser.parse_args()
    source = OnnxModel(options.model)
    rates = {f"{rate:g}": trained(source, options, rate, SEEDS[0])["held_out_loss"] for rate in RATES}
    rate = min(RATES, key=lambda one: rates[f"{one:g}"])
    bench = bench_of(source, options)
    found: dict[str, Any] = {
        "images": options.train_images,
        "epochs": options.epochs,
        "rate": rate,
        "held_out_loss_of_rates": rates,
        "n": len(bench.logits),
        "float_right": int((bench.logits.argmax(1) == bench.val[1]).sum()),
        "seeds": {str(seed): judged(bench, source, options, rate, seed) for seed in SEEDS},
    }
    write_text(options.results, json.dumps(found, indent=1) + "\n")
    print(render(found))


def judged(bench: Bench, source: OnnxModel, options: argparse.Namespace, rate: float, seed: int) -> dict[str, Any]:
    """What training said, and the file on val."""
    said = trained(source, options, rate, seed)
    row = said | figures_of(bench, onnx.load(said.pop("path")))
    row.pop("path", None)
    print(seed, row, flush=True)
    return row


def trained(source: OnnxModel, options: argparse.Namespace, rate: float, seed: int) -> dict[str, Any]:
    """The file of one rate and seed and how it went, made unless it is there."""
    folder = options.work / f"{rate:g}-{seed}"
    said = folder / "said.json"
    if not said.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        begun_s = time.perf_counter()
        table = calibrate(source, CalibrateConfig(data=options.data, images=options.images, seed=seed), folder).output
        config = QatConfig(
            data=options.data,
            scales=table.path,
            images=options.train_images,
            epochs=options.epochs,
            lr=rate,
            seed=seed,
        )
        made = qat(source, config, folder)
        keep = {key: made.report.results[key] for key in ("held_out_loss", "held_out_loss_first", "best_step", "steps")}
        duration_s = round(time.perf_counter() - begun_s, 1)
        write_text(said, json.dumps({"path": str(made.output.path), "duration_s": duration_s, **keep}) + "\n")
    content: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
    return content


def render(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| seed | points against float | same top-1 | logit SQNR | held-out KL, before and after | seconds |"]
    lines.append("| --- " * 6 + "|")
    for seed, row in found["seeds"].items():
        change = f"{row['change_points']:+.2f} ± {row['half_width_points']:.2f}".replace("-", "−")
        same, decibels = f"{100 * row['agreement']:.2f} %", f"{row['sqnr_db']:.1f} dB"
        divergence = f"{row['held_out_loss_first']:.4f}, {row['held_out_loss']:.4f}"
        lines.append(f"| {seed} | {change} | {same} | {decibels} | {divergence} | {row['duration_s']:.0f} |")
    rates = ", ".join(f"{value:.5f} at {rate}" for rate, value in found["held_out_loss_of_rates"].items())
    lines.append("")
    lines.append(
        f"ResNet-56, 9 of 27 modules dropped and recovered, float {100 * found['float_right'] / found['n']:.2f} %;"
        f" {found['images']:,} train images, {found['epochs']} epoch, no labels, from `channels`; n = {found['n']:,}."
        f" Rate {found['rate']:g}, chosen by held-out KL with seed 0 ({rates})."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
