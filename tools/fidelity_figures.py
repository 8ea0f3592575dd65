"""How close the INT8 files of `edgeres quantize` come to float, over several calibration sets, and what limits them.

    python tools/fidelity_figures.py --data folder:cifar10-jpeg --work FOLDER --seed 0 ResNet-56=r56.onnx

efforts    quick, default, best, as typed
limits     of the default file, some pairs taken out: what is left says what the others cost

A seed draws the calibration images. Each file is judged on val and, for choosing, on train images that nothing was
calibrated on. Literal Q/DQ. Adds to tools/results/fidelity.json, a cell at a time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from quantize_figures import Bench, bench_of, figures_of, literal_logits, parser_of, sqnr_db

from edgeres.core.artifacts import OnnxModel
from edgeres.core.files import write_text
from edgeres.quantize.config import QuantizeConfig
from edgeres.quantize.stage import quantize

RESULTS = Path(__file__).parent / "results" / "fidelity.json"
EFFORTS = ("quick", "default", "best")
_LIMITS = 1000  # of val


def main() -> None:
    """Measures the cells that are missing and writes each."""
    parser = parser_of(__doc__, RESULTS)
    parser.add_argument("--efforts", default=",".join(EFFORTS))
    options = parser.parse_args()
    for text in options.models:
        name, _, path = text.partition("=")
        bench: Bench | None = None
        for effort in options.efforts.split(","):
            found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
            if effort in found.get(name, {}).get("seeds", {}).get(str(options.seed), {}).get("steps", {}):
                continue
            bench = bench or bench_of(OnnxModel(Path(path)), options)
            cell = cell_of(bench, OnnxModel(Path(path)), effort, options)
            print(name, effort, cell, flush=True)
            found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
            cells = found.setdefault(name, {"images": options.images, "seeds": {}})
            cells |= {"n": len(bench.logits), "held_out": len(bench.others)}
            known = cells["seeds"].setdefault(str(options.seed), {"steps": {}})
            known["limits"] = known.get("limits") or cell.pop("limits", None)
            cell.pop("limits", None)
            known["steps"][effort] = cell
            write_text(options.results, json.dumps(found, indent=1) + "\n")


def cell_of(bench: Bench, source: OnnxModel, effort: str, options: Any) -> dict[str, Any]:
    """Figures of the file that `edgeres quantize --effort` writes, and the command's seconds."""
    folder = options.work / f"{source.path.stem}-{options.seed}"
    config = QuantizeConfig(scales=folder / "scales.json", effort=effort, data=options.data)
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    made = quantize(source, config, folder / effort)
    seconds = {
        "seconds": round(time.perf_counter() - begun_s, 1),
        "cpu_s": round(time.process_time() - begun_cpu_s, 1),
    }
    cell = figures_of(bench, made.output.proto) | seconds
    if "float_skips" in made.report.results:
        cell |= {
            "float_skips": len(made.report.results["float_skips"]),
            "skips": len(made.report.results["skips"]),
        }
    if effort == "default":
        cell["limits"] = limits_of(bench, made.output.proto)
    return cell


def limits_of(bench: Bench, model: onnx.ModelProto) -> dict[str, float]:
    """SQNR in dB on the first val images when only these are quantized (the weights always are)."""
    skips = {
        name for node in bench.model.graph.node if node.name in bench.placement.additions for name in node.input
    } & set(bench.placement.observed)
    carried = skips | {point.tensor for point in bench.placement.points if point.scale_of in skips}
    chosen: dict[str, Callable[[str], bool]] = {
        "weights": lambda _: False,
        "weights, and activations inside modules": lambda name: name not in carried,
        "weights, and what skips carry": lambda name: name in carried,
    }
    return {
        row: round(sqnr_db(bench.logits[:_LIMITS], literal_logits(only(model, keep), bench.val[0][:_LIMITS])), 2)
        for row, keep in chosen.items()
    }


def only(model: onnx.ModelProto, keep: Callable[[str], bool]) -> onnx.ModelProto:
    """A copy in which pairs of activations that `keep` does not want are passed by."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    passed = {}
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear" and not keep(node.input[0]):
            passed[f"{node.input[0]}.dequantized"] = node.input[0]
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = passed.get(name, name)
    return copy


def render(content: dict[str, Any]) -> str:
    """Markdown: the median seed of each effort with the range of all, then what limits."""
    titles = "| | `--effort` | sets | points against float | same top-1 | logit SQNR | on other train images | CPU s |"
    lines = [titles, "| --- " * 8 + "|"]
    for name, cells in content.items():
        runs = [run["steps"] for run in cells["seeds"].values()]
        known = {row: rows for row in EFFORTS if (rows := [run[row] for run in runs if row in run])}
        for index, (row, rows) in enumerate(known.items()):
            lines.append(f"| {name if index == 0 else ''} | {row}{_counts(rows)} | {len(rows)} | {_step(rows)} |")
    lines += [
        "",
        "| SQNR with only these in INT8 | weights | + activations inside modules | + what skips carry | all |",
    ]
    lines.append("| --- " * 5 + "|")
    for name, cells in content.items():
        if measured := [run for run in cells["seeds"].values() if run["limits"]]:
            limits = [_spread([run["limits"][row] for run in measured], " dB", 1) for row in measured[0]["limits"]]
            limits.append(_spread([run["steps"]["default"]["sqnr_db"] for run in measured], " dB", 1))
            lines.append("| " + " | ".join([name, *limits]) + " |")
    one = next(iter(content.values()))
    lines.append("")
    lines.append(
        f"Median and range over sets of {one['images']} calibration images, points paired ± 95 % of the widest;"
        f" n = {one['n']:,} val, {one['held_out']:,} other train images. Networks with modules dropped: `prune --drop N"
        f" --recover solve`. Seconds are of the whole command, one thread. Limits are the default's, by {_LIMITS:,}"
        " of val; each pair of activations is added to the weights alone."
    )
    return "\n".join(lines)


def _counts(rows: list[dict[str, Any]]) -> str:
    if "float_skips" not in rows[0]:
        return ""
    return f", skips float: {_spread([row['float_skips'] for row in rows], '', 0)} of {rows[0]['skips']}"


def _step(rows: list[dict[str, Any]]) -> str:
    half_width = max(row["half_width_points"] for row in rows)
    return " | ".join(
        (
            f"{_spread([row['change_points'] for row in rows], '', 2, '+')} ± {half_width:.2f}",
            _spread([100 * row["agreement"] for row in rows], " %", 2),
            _spread([row["sqnr_db"] for row in rows], " dB", 1),
            _spread([row["held_out_db"] for row in rows], " dB", 1),
            f"{statistics.median(row['cpu_s'] for row in rows):.0f}",
        )
    )


def _spread(values: list[float], unit: str, digits: int, sign: str = "") -> str:
    middle, low, high = (f"{value:{sign}.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    text = f"{middle}{unit}" if len(values) == 1 else f"{middle}{unit} ({low} to {high})"
    return text.replace("-", "−")


if __name__ == "__main__":
    main()
