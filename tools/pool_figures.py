"""What the Q/DQ pair in front of the average pool costs: the same scales with it and with the pair behind it alone.

    python tools/pool_figures.py --data folder:cifar10-jpeg --work FOLDER ResNet-20=r20.onnx ResNet-56=r56.onnx

Calibrated by mse; literal Q/DQ on ONNX Runtime against the float network, on val. Adds to tools/results/pool.json.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantize_figures import START, bench_of, figures_of, parser_of

from edgeres.core.artifacts import OnnxModel
from edgeres.core.files import write_text
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import Placement, is_average

RESULTS = Path(__file__).parent / "results" / "pool.json"
BEHIND, IN_FRONT = "behind", "in front of"


def main() -> None:
    """Measures the networks that are named and writes."""
    options = parser_of(__doc__, RESULTS).parse_args()
    found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    for text in options.models:
        name, _, path = text.partition("=")
        source = OnnxModel(Path(path))
        bench = bench_of(source, options, None)
        decision, view = Decision(bench.bounds[START]), GraphView(bench.model)
        placements = {BEHIND: without_pools(bench.placement, view), IN_FRONT: bench.placement}
        rows = {at: figures_of(bench, with_pairs(bench.model, one, decision)) for at, one in placements.items()}
        right = int((bench.logits.argmax(1) == bench.val[1]).sum())
        found[name] = {"sha256": source.sha256, "n": len(bench.logits), "float_right": right, "rows": rows}
        write_text(options.results, json.dumps(found, indent=1) + "\n")
        print(name, rows, flush=True)


def without_pools(placement: Placement, view: GraphView) -> Placement:
    """No average pool reads a pair."""
    pools = {node.name for node in view.nodes if is_average(view, node)}
    points = (
        replace(one, readers=tuple(read for read in one.readers if read[0] not in pools)) for one in placement.points
    )
    return replace(placement, points=tuple(point for point in points if point.readers))


def render(content: dict[str, Any]) -> str:
    """Markdown: two rows for every network."""
    lines = ["| network, float top-1 | pair | points against float | same top-1 | logit SQNR |", "| --- " * 5 + "|"]
    for name, cells in content.items():
        head = f"{name}, {100 * cells['float_right'] / cells['n']:.2f} %"
        for at, row in cells["rows"].items():
            change = f"{row['change_points']:+.2f} ± {row['half_width_points']:.2f}".replace("-", "−")
            lines.append(
                f"| {head} | {at} the pool | {change} | {100 * row['agreement']:.2f} % | {row['sqnr_db']:.2f} dB |"
            )
            head = ""
    n = {cells["n"] for cells in content.values()}
    return "\n".join([*lines, "", f"n = {max(n):,} of val, paired, 95 %; mse on 512 train images."])


if __name__ == "__main__":
    main()
