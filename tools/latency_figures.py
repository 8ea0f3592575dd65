"""How well the latency table predicts, and whether `edgeres prune --target-latency` keeps its word.

    python tools/latency_figures.py CHECKPOINT --work FOLDER                            the table against random subsets
    python tools/latency_figures.py CHECKPOINT --work FOLDER --data folder:cifar10-jpeg   and three targets besides

Random subsets of 2 to 12 modules are timed in one interleaved session with the whole network, in other processes
than the table's, and compared with what the table predicts. Then the network is pruned to 0.85, 0.7 and 0.55 of its
latency, and each result is timed against the whole network once more, after and apart from the check that prune itself
makes. Only ratios of one session are compared. Writes tools/results/latency.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.bench.stage import measure
from edgeres.core.amounts import target_from
from edgeres.core.artifacts import Checkpoint
from edgeres.core.files import write_text
from edgeres.core.records.latency import LatencyConfig, LatencyTable, latency_table_from
from edgeres.core.statistics import ratio_interval
from edgeres.costs.check import check_prediction
from edgeres.costs.design import pooled
from edgeres.costs.networks import as_executed, session_config, shortened
from edgeres.costs.stage import latency_table
from edgeres.costs.table import predicted_ms, summary_of

RESULTS = Path(__file__).parent / "results" / "latency.json"
TARGETS = ("0.85x", "0.7x", "0.55x")
_WHOLES = 3
_MOST_DROPPED = 12


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the table and the pruned networks")
    parser.add_argument("--data", help="images to choose modules on; without them no target is pruned to")
    parser.add_argument("--table", type=Path, help="latency table to judge; default: measured now")
    parser.add_argument("--subsets", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = Checkpoint(options.checkpoint)
    path = options.table or measured_table(source, options)
    table = latency_table_from(path)
    conditions = {"machine": table.machine, "runtime": table.runtime, **table.conditions.model_dump(mode="json")}
    found: dict[str, Any] = {"conditions": conditions, "table": summary_of(table)}
    found["subsets"] = subset_figures(source, table, options)
    found["targets"] = []
    for text in TARGETS if options.data else ():
        found["targets"].append(target_figures(source, path, text, options))
        write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")


def measured_table(source: Checkpoint, options: argparse.Namespace) -> Path:
    """A table of the network as it is now."""
    values = {"seconds": options.seconds, "threads": options.threads, "seed": options.seed}
    result = latency_table(source, LatencyConfig.model_validate(values), options.work / "latency")
    print("\n".join([*result.report.notes, *result.report.warnings]))
    return result.output.path


def subset_figures(source: Checkpoint, table: LatencyTable, options: argparse.Namespace) -> dict[str, Any]:
    """Measured against predicted ratios of random subsets, and what is left over."""
    generator = random.Random(options.seed + 1)
    modules = list(table.saved_ms)
    sizes = [generator.randint(2, min(_MOST_DROPPED, len(modules))) for _ in range(options.subsets)]
    rows = timed_rows(source, table, [tuple(generator.sample(modules, size)) for size in sizes])
    errors = [row["error_percent"] for row in rows]
    for row in rows:
        print(f"{len(row['dropped']):2} dropped: measured {row['ratio']:.3f}, off by {row['error_percent']:+.1f} %")
    inside = sum(row["inside"] for row in rows)
    rms = statistics.fmean(error**2 for error in errors) ** 0.5
    print(f"error: rms {rms:.2f} %, largest {max(map(abs, errors)):.2f} %; {inside} of {len(rows)} inside")
    return {"rms_percent": rms, "largest_percent": max(map(abs, errors)), "inside_interval": inside, "rows": rows}


def timed_rows(source: Checkpoint, table: LatencyTable, sets: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """One row for each set: its ratio to the whole network in one session, predicted and measured."""
    how = table.conditions
    with tempfile.TemporaryDirectory() as name:
        checkpoints = shortened(source, [*[()] * _WHOLES, *sets], Path(name))
        latencies = measure(as_executed(checkpoints, how, Path(name)), session_config(how)).latencies
    whole, rows = pooled(latencies[:_WHOLES]), []
    for dropped, latency in zip(sets, latencies[_WHOLES:], strict=True):
        ratio, predicted = ratio_interval(whole, latency).value, predicted_ms(table, dropped)
        now = ratio * table.whole_ms.value
        rows.append(
            {
                "dropped": sorted(dropped),
                "ratio": ratio,
                "predicted_ratio": predicted.value / table.whole_ms.value,
                "error_percent": 100 * (now / predicted.value - 1),
                "inside": predicted.low <= now <= predicted.high,
            }
        )
    return rows


def target_figures(source: Checkpoint, path: Path, text: str, options: argparse.Namespace) -> dict[str, Any]:
    """What pruning to `text` gave, timed once more."""
    from edgeres.prune.config import PruneConfig
    from edgeres.prune.stage import prune

    values = {"target_latency": text, "latency": path, "data": options.data, "seed": options.seed}
    result = prune(source, PruneConfig.model_validate(values), options.work / text)
    table = latency_table_from(path)
    found = check_prediction(result.output, source, table, folder=options.work)
    missing = found.missing_ms(target_from(text))
    print(f"{text}: {found.line()}; {'met' if missing == 0 else f'missed by {missing:.3f} ms'}")
    return {"target": text, "missing_ms": missing, **found.model_dump(mode="json")}


if __name__ == "__main__":
    main()
