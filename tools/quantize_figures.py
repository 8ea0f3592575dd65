"""What each calibration method reaches alone: literal Q/DQ on ONNX Runtime against the float network.

    python tools/quantize_figures.py --data folder:cifar10-jpeg --work FOLDER resnet20=r20.onnx resnet56=r56.onnx

For every float ONNX file: each calibrator alone and `auto`, all decided on the same calibration images (train).
Measured on val, which decides nothing: accuracy (paired), top-1 agreement and logit SQNR. Every cell is kept in
tools/results/quantize.json as soon as it is there; the same command goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeres.core.artifacts import OnnxModel
from edgeres.core.files import write_text
from edgeres.core.metrics import decibels, paired_difference
from edgeres.data import dataset_for
from edgeres.graph.session import session_from
from edgeres.quantize.auto import auto
from edgeres.quantize.calibrate import calibrate
from edgeres.quantize.config import CalibrateConfig
from edgeres.quantize.decide import bounds_by
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import ALL_INT8, Options, Placement, placement_of
from edgeres.quantize.stage import begun

RESULTS = Path(__file__).parent / "results" / "quantize.json"
START = "mse"  # the method that `edgeres quantize` starts from
_BATCH = 50
Images = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Bench:
    """One float model, what it is calibrated with, and what it is judged on."""

    model: onnx.ModelProto
    placement: Placement
    bounds: dict[str, dict[str, float]]
    images: Images
    val: tuple[Images, np.ndarray[Any, np.dtype[np.int64]]]
    logits: Images
    others: Images


def main() -> None:
    """Measures what is missing and writes."""
    parser = parser_of(__doc__, RESULTS)
    parser.add_argument("--rows", help="only these, separated by commas")
    options = parser.parse_args()
    found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    for text in options.models:
        name, _, path = text.partition("=")
        source = OnnxModel(Path(path))
        cells = found.setdefault(name, {"sha256": source.sha256, "images": options.images, "rows": {}})
        if cells["sha256"] != source.sha256:
            raise SystemExit(f"{options.results} holds another {name}; give another --results")
        measure(source, cells, options, lambda: write_text(options.results, json.dumps(found, indent=1) + "\n"))


def parser_of(description: str | None, results: Path) -> argparse.ArgumentParser:
    """What `bench_of` needs to know; `results` is where figures go unless told otherwise."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=ONNX", help="float models")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the scale tables")
    parser.add_argument("--images", type=int, default=512, help="of train, to calibrate on")
    parser.add_argument("--seed", type=int, default=0, help="of the calibration images")
    parser.add_argument("--val-images", type=int, default=5000)
    parser.add_argument("--held-out", type=int, default=2000, help="other train images, to choose on")
    parser.add_argument("--results", type=Path, default=results)
    return parser


def measure(source: OnnxModel, cells: dict[str, Any], options: argparse.Namespace, save: Callable[[], None]) -> None:
    """Fills the cells that are missing."""
    bench = bench_of(source, options)
    cells |= {"n": len(bench.logits), "float_right": int((bench.logits.argmax(1) == bench.val[1]).sum())}
    wanted = options.rows.split(",") if options.rows else None
    for row, decide in rows_of(bench).items():
        if row in cells["rows"] or (wanted is not None and row not in wanted):
            continue
        begun_s = time.perf_counter()
        decision = decide()
        duration_s = time.perf_counter() - begun_s
        model = with_pairs(bench.model, bench.placement, decision)
        cells["rows"][row] = figures_of(bench, model) | {"duration_s": round(duration_s, 1)}
        save()
        print(source.path.name, row, cells["rows"][row], flush=True)


def rows_of(bench: Bench) -> dict[str, Callable[[], Decision]]:
    """Row -> what decides it."""
    model, placement, images = bench.model, bench.placement, bench.images
    rows: dict[str, Callable[[], Decision]] = {name: partial(Decision, amax) for name, amax in bench.bounds.items()}
    rows["auto"] = lambda: auto(model, placement, bench.bounds, images=images).decision
    return rows


def bench_of(source: OnnxModel, options: argparse.Namespace, placed: Options | None = ALL_INT8) -> Bench:
    """Calibrates and runs the float model on val; the graph is the one that `quantize` places pairs in, `placed` so."""
    config = CalibrateConfig(data=options.data, images=options.images, seed=options.seed)
    scales = calibrate(source, config, options.work / f"{source.path.stem}-{options.seed}").output.path
    source, table = begun(source, scales, START, placed)
    dataset = dataset_for(source.spec, options.data)
    placement = placement_of(source.proto)
    calibration = dataset.train.sample(table.n, table.seed)
    images = np.concatenate([x for x, _ in calibration.batches(source.spec, _BATCH)])
    used = set(calibration.ids)
    rest = dataset.train.subset([index for index, name in enumerate(dataset.train.ids) if name not in used])
    others = np.concatenate([x for x, _ in rest.sample(options.held_out, table.seed).batches(source.spec, _BATCH)])
    split = dataset.val
    chosen = split.sample(min(options.val_images, len(split)), 0) if options.val_images < len(split) else split
    pieces = list(chosen.batches(source.spec, _BATCH))
    val = np.concatenate([x for x, _ in pieces]), np.concatenate([y for _, y in pieces])
    bounds = {method: bounds_by(table, method, placement.observed) for method in table.methods}
    return Bench(source.proto, placement, bounds, images, val, literal_logits(source.proto, val[0]), others)


def figures_of(bench: Bench, model: onnx.ModelProto) -> dict[str, Any]:
    """Accuracy against float (paired, 95 %), agreement and logit SQNR on val, and the SQNR on other train images."""
    images, labels = bench.val
    logits = literal_logits(model, images)
    before, after = bench.logits.argmax(1), logits.argmax(1)
    change, half_width = paired_difference((before == labels).tolist(), (after == labels).tolist())
    held_out = literal_logits(bench.model, bench.others), literal_logits(model, bench.others)
    return {
        "change_points": round(100 * change, 3),
        "half_width_points": round(100 * half_width, 3),
        "agreement": float((before == after).mean()),
        "sqnr_db": round(sqnr_db(bench.logits, logits), 2),
        "held_out_db": round(sqnr_db(*held_out), 2),
    }


def sqnr_db(reference: Images, logits: Images) -> float:
    """Power of the reference over that of the difference."""
    return decibels(*(float(np.square(one, dtype=np.float64).sum()) for one in (reference, reference - logits)))


def literal_logits(model: onnx.ModelProto, images: Images) -> Images:
    """Logits of any batch, each Q/DQ node executed as it stands."""
    copy = deepcopy(model)
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del copy.graph.value_info[:]
    session = session_from(copy, "the model")
    source = copy.graph.input[0].name
    parts = [session.run(None, {source: images[i : i + _BATCH]})[0] for i in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def render(content: dict[str, Any]) -> str:
    """Markdown: a table for every model."""
    blocks = []
    for name, cells in content.items():
        head = f"**{name}**, float {100 * cells['float_right'] / cells['n']:.2f} %, n = {cells['n']:,}"
        lines = [head, "", "| | points against float | same top-1 | logit SQNR | seconds |", "| --- " * 5 + "|"]
        lines += [_line(row, figures) for row, figures in cells["rows"].items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _line(row: str, figures: dict[str, Any]) -> str:
    change = f"{figures['change_points']:+.2f} ± {figures['half_width_points']:.2f}".replace("-", "−")
    same, decibels = f"{100 * figures['agreement']:.2f} %", f"{figures['sqnr_db']:.1f} dB"
    return f"| {row} | {change} | {same} | {decibels} | {figures['duration_s']:.0f} |"


if __name__ == "__main__":
    main()
