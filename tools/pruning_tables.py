"""The tables of tools/README.md on choosing, recovering, studying and INT8, each from its file in tools/results."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import budget_figures
import calibration_figures
import compare_figures
import cpu_figures
import engine_cases
import fidelity_figures
import lint_cases
import outlier_figures
import pool_figures
import qat_figures
import quantize_figures

from edgeres.core.config import record_from_json, version_of
from edgeres.core.metrics import threads_text
from edgeres.core.records.sweep import Sweep
from edgeres.pipeline.show import SCHEMAS

TOOLS = Path(__file__).parent
RESULTS = TOOLS / "results"
Lines = list[str]


def keep_study(path: Path, name: str) -> None:
    """Adds what a study.json (or a lesion's report) says to tools/results/studies.json."""
    content = json.loads(path.read_text(encoding="utf-8"))
    study = content if "verdict" in content else content["results"]
    wanted = ("claim", "source", "verdict", "because", "setting", "data", "n", "seeds", "networks")
    known = json_of("studies") if (RESULTS / "studies.json").is_file() else {}
    known[name] = {key: study[key] for key in wanted if key in study}
    (RESULTS / "studies.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def search_table() -> Lines:
    """What the search finds and what it costs."""
    content = json_of("search")
    lesion, cost, cases = content["lesion"], content["cost"], content["exhaustive"]["cases"]
    lines = table_head(
        "set of 4 of ResNet-56", "KL, images chosen on", "KL, other train images", "top-1 there, %", "dropped"
    )
    for name, row in cost["sets"].items():
        chosen, other = row["chosen_on"], row["held_out"]
        names = ", ".join(row["dropped"])
        lines.append(table_row(name, f"{chosen['kl']:.4f}", f"{other['kl']:.4f}", f"{100 * other['top1']:.2f}", names))
    lines += [
        "",
        *table_head(
            "against all sets, on the images chosen on",
            "sets",
            "rank",
            "loss over the best set's",
            "evaluated",
            "independent rank",
        ),
    ]
    for name, row in cases.items():
        gap, share = f"{100 * row['loss_gap']:+.2f} %", f"{row['evaluated']} ({100 * row['evaluated_share']:.1f} %)"
        lines.append(
            table_row(name, f"{row['sets']:,}", str(row["rank"]), with_minus(gap), share, str(row["independent_rank"]))
        )
    about = (
        f"{cost['images']:,} train images to choose on, {cost['held_out_images']:,} others. The beam takes"
        f" {cost['ratio']:.2f} of the wall time of the naive greedy ({cost['naive_passes']} full passes, stage-first"
        f" modules left out), {cost['passes']:.1f} passes' worth of images. All {lesion['passes'] - 1} lesions of"
        f" {lesion['images']:,} images take {lesion['ratio']:.2f} of the time of {lesion['passes']} plain passes,"
        f" logits differ by at most {lesion['max_logit_difference']:.1g}. {cost['threads']} thread(s), torch"
        f" {cost['torch']}; ratios within one run: `python tools/search_figures.py`."
    )
    return [*lines, "", about]


def latency_table() -> Lines:
    """Targets, what was predicted and what the clock said."""
    content = json_of("latency")
    lines = table_head(
        "`--target-latency`", "dropped", "predicted", "measured again", "95 %", "prediction off by", "met"
    )
    for row in content["targets"]:
        ratio, met = row["ratio"], "yes" if row["missing_ms"] == 0 else f"missed by {row['missing_ms']:.3f} ms"
        interval = f"{ratio['low']:.3f} to {ratio['high']:.3f}"
        figures = (f"{row['predicted_ratio']:.3f}", f"{ratio['value']:.3f}", interval, f"{row['error_percent']:+.1f} %")
        lines.append(table_row(row["target"], str(len(row["dropped"])), *map(with_minus, figures), met))
    subsets, how = content["subsets"], content["conditions"]
    about = (
        f"Latency over the whole network's. {len(subsets['rows'])} random sets of 2 to 12 modules were predicted within"
        f" {subsets['rms_percent']:.1f} % (root mean square; at most {subsets['largest_percent']:.1f} %),"
        f" {subsets['inside_interval']} inside their 95 % interval. ResNet-56, {how['runtime']}, batch {how['batch']},"
        f" {how['threads']} threads, {how['machine']}: `python tools/latency_figures.py`."
    )
    return [*lines, "", about]


def sweep_table() -> Lines:
    """One row for each number of modules."""
    found = record_from_json(Sweep, RESULTS / "sweep.json")
    lines = table_head(
        "dropped", "top-1 %, not recovered", "top-1 %, recovered", "against the whole", "latency", "MACs"
    )
    for row in found.rows:
        final, ratio = row.final, row.ratio
        change = f"{final.change_points:+.2f} ± {final.half_width_points:.2f}" if row.count else ""
        bare, top1 = (f"{100 * one.quality.value:.2f}" for one in (row.bare, final))
        time = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else ""
        lines.append(table_row(str(row.count), bare, top1, with_minus(change), time, f"{row.macs / 1e6:.1f} M"))
    accuracy = found.rows[0].bare.judged_on
    about = (
        f"Recovered by {', '.join(found.recover)}. {accuracy.dataset} val, n = {accuracy.n:,}, changes paired."
        f" Latency over the whole network's, {found.runtime}, batch {found.batch}, {threads_text(found.threads)},"
        f" {found.machine}."
    )
    return [*lines, "", about]


def zoo_table() -> Lines:
    """Which architectures come in."""
    from zoo_figures import zoo_table as table

    return table()


def solve_table() -> Lines:
    """Accuracy after a solve."""
    from solve_figures import Lines as Content
    from solve_figures import table_of

    return [*table_of(record_from_json(Content, RESULTS / "solve.json"))]


def optimize_table() -> Lines:
    """What one command hands over."""
    from optimize_figures import Lines as Content
    from optimize_figures import table_of

    return table_of(record_from_json(Content, RESULTS / "optimize.json"))


def practise_table() -> Lines:
    """Against PRACTISE's rule."""
    from practise_figures import Results, table_of

    results = record_from_json(Results, RESULTS / "practise.json")
    how = results.settings
    n = max(cell.n for cell in results.cells)
    about = (
        f"Points of top-1 lost against the whole network, mean over the seeds ± 95 % by image, n = {n:,}."
        f" `practise`: the lowest recoverabilities, {how.iterations} adaptor steps a module, then mimicking; `mixed`:"
        " the same modules, our recovery by gradients alone; `ours`: the conditional choice, that recovery; `solved`:"
        " `edgeres prune --drop K --recover solve,mimic`, its seconds those of choosing too."
        f" {how.images:,} unlabelled images, {how.epochs} epochs of recovery at most for each:"
        " `python tools/practise_figures.py`."
    )
    return [*map(with_minus, table_of(results)), "", about]


def channels_table() -> Lines:
    """Against Torch-Pruning."""
    from channels_report import Results, Settings, table_of

    results = record_from_json(Results, RESULTS / "channels.json")
    how = Settings.model_validate(results.settings)
    about = (
        f"Recovery of both sides: {how.images:,} train images without labels, layers refitted by least squares, then"
        f" {how.epochs} epochs at most of gradient steps to the whole network's features, {len(how.seeds)} seed, with"
        " its CPU seconds; by gradients alone: without the refit, batch norms learning too."
        f" Variants tried on {how.trial_images:,} images. Latency: {threads_text(how.threads)}."
        " Shortcuts written as convolutions on both sides: `python tools/channels_figures.py`."
    )
    return [*map(with_minus, table_of(results)), "", about]


def studies_table() -> Lines:
    """The claims and what the runs say of them."""
    lines = table_head("study", "claim", "this run", "why")
    for name, study in json_of("studies").items():
        source = f" ({study['source']})" if "source" in study else ""
        lines.append(table_row(f"`{name}`", study["claim"] + source, study["verdict"], study["because"]))
    return lines


def schemas_table() -> Lines:
    """Name, where the JSON is found, its version and its fields."""
    lines = table_head("schema", "found in", "version", "fields")
    for name, schema in SCHEMAS.items():
        fields = ", ".join(f"`{field}`" for field in schema.kind().model_fields if field != "schema_version")
        lines.append(table_row(f"`{name}`", schema.found, str(version_of(schema.kind())), fields))
    return lines


TABLES: dict[str, Callable[[], Lines]] = {
    "search": search_table,
    "latency": latency_table,
    "sweep": sweep_table,
    "solve": solve_table,
    "optimize": optimize_table,
    "budget": lambda: budget_figures.table_of(record_from_json(budget_figures.Lines, RESULTS / "budget.json")),
    "zoo": zoo_table,
    "practise": practise_table,
    "channels": channels_table,
    "studies": studies_table,
    "calibration": lambda: calibration_figures.render(json_of("calibration")).splitlines(),
    "compare": lambda: compare_figures.render(json_of("compare")).splitlines(),
    "cpu": lambda: cpu_table("cpu"),
    "cpu-without-vnni": lambda: cpu_table("cpu-without-vnni"),
    "engines": lambda: engine_cases.render(
        record_from_json(engine_cases.Results, RESULTS / "engines.json")
    ).splitlines(),
    "lint": lambda: lint_cases.render(record_from_json(lint_cases.Results, RESULTS / "lint.json")).splitlines(),
    "schemas": schemas_table,
    "pool": lambda: pool_figures.render(json_of("pool")).splitlines(),
    "qat": lambda: qat_figures.render(json_of("qat")).splitlines(),
    "outliers": lambda: outlier_figures.render(json_of("outliers")).splitlines(),
    "fidelity": lambda: fidelity_figures.render(json_of("fidelity")).splitlines(),
    "quantize": lambda: quantize_figures.render(json_of("quantize")).splitlines(),
}


def cpu_table(name: str) -> Lines:
    """INT8 on a CPU."""
    return cpu_figures.render(record_from_json(cpu_figures.Results, RESULTS / f"{name}.json"))


def json_of(name: str) -> dict[str, Any]:
    """The content of a file in results/."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def table_head(*titles: str) -> Lines:
    """The two lines that begin a Markdown table."""
    return [table_row(*titles), "|" + " --- |" * len(titles)]


def table_row(*cells: str) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def with_minus(text: str) -> str:
    """A true minus before numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


if str(TOOLS) not in sys.path:
    sys.path.append(str(TOOLS))
