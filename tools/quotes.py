"""The few figures that README.md and the help pages quote, each from its file in tools/results, in 80 columns."""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cpu_figures
import engine_cases
import lint_cases
from channels_report import Results as Channels
from channels_report import rows_of
from optimize_figures import Lines as Optimized
from practise_figures import Results as Practise
from practise_figures import table_of
from pruning_tables import json_of, table_head, table_row, with_minus
from solve_figures import SEEDS, refined_rows, solve_rows
from solve_figures import Line as SolveLine
from solve_figures import Lines as Solved

from edgeres.core.config import record_from_json, version_of
from edgeres.core.metrics import threads_text
from edgeres.core.records.sweep import Sweep
from edgeres.pipeline.show import SCHEMAS
from edgeres.report.summary import Row, RunSummary
from edgeres.report.wording import count, percent, points, size, speed

RESULTS = Path(__file__).parent / "results"
_WIDTH = 80
_QUANTIZED = ("minmax", "percentile", "entropy", "mse")
_RECOVERED = 3
_HEADLINE = (1, 2, 5, 6)  # rows of the run: exported, pruned, exported again after FP16, quantized
_SWEPT = (0, 2, 4, 6, 8, 10, 12)
Lines = list[str]


def headline() -> Lines:
    """README: what a network became."""
    run = record_from_json(RunSummary, RESULTS / "resnet56.json")
    whole, bare, short, int8 = (run.rows[index] for index in _HEADLINE)
    modules = len(json_of("latency")["table"]["modules"])
    names = (
        "as it was",
        f"{len(bare.dropped)} of {modules} modules dropped",
        "recovered, no labels",
        "INT8, for TensorRT",
    )
    lines = table_head("ResNet-56, CIFAR-10", "top-1 %", "change, points", "parameters", "file", "latency")
    for name, row in zip(names, (whole, bare, short, int8), strict=True):
        change = row.versus_first.points if row is not whole else None
        top1 = percent(row.accuracy.top1.value) if row.accuracy else ""
        changed = " ".join(points(change)).replace(" points", "") if change else ""
        lines.append(table_row(name, top1, changed, count(row.params), size(row.size_bytes), _latency(row)))
    first, how = whole.accuracy, whole.latency
    refined = refined_rows(record_from_json(Solved, RESULTS / "solve.json"))[len(bare.dropped)]
    if first is None or how is None:
        raise ValueError("resnet56.json: the exported network was not judged or not timed")
    about = (
        f"{first.dataset} {first.split}, n = {first.n:,}; brackets are paired 95 % intervals. Latency: {how.runtime},"
        f" batch {how.batch}, {threads_text(how.threads)}, {how.machine}. `edgeres run prune4-int8`: chosen by"
        f" `solved`, trained back {run.rows[_RECOVERED].what.removeprefix('trained what is left ')}. Lost by"
        f" three draws of images (a gain is negative): {_lost(refined[('solve', 'mimic')])} points"
        " ([recovering](edgeres/help/recovering.md))."
    )
    return [*lines, "", about]


def _latency(row: Row) -> str:
    if row.latency is None or not row.latency.runtime.startswith("onnx"):
        return ""
    ratio = row.versus_first.latency_ratio
    gain = f", {' '.join(speed(ratio)).removeprefix('speed ')}" if ratio else ""
    return f"{row.latency.p50_ms.value:.2f} ms{gain}"


def sweep() -> Lines:
    """What each number of modules costs and brings."""
    found = record_from_json(Sweep, RESULTS / "sweep.json")
    lines = table_head("dropped", "top-1 % at once", "recovered", "points lost", "latency")
    for row in found.rows:
        if row.count in _SWEPT and row.ratio is not None:
            lost = f"{row.final.lost_points:.2f} ± {row.final.half_width_points:.2f}" if row.count else ""
            top1 = (f"{100 * one.quality.value:.2f}" for one in (row.bare, row.final))
            lines.append(table_row(str(row.count), *top1, with_minus(lost), f"{row.ratio.value:.3f}"))
    accuracy = found.rows[0].bare.judged_on
    about = (
        f"ResNet-56 on {accuracy.dataset} val, n = {accuracy.n:,}; recovered by {' and '.join(found.recover)}."
        f" Latency as a share of the whole network's: {found.runtime}, batch {found.batch},"
        f" {threads_text(found.threads)}, {found.machine}."
    )
    return [*lines, "", *_text(about)]


def choosing() -> Lines:
    """How good the search, its score and the predicted latencies are."""
    cases = list(json_of("search")["exhaustive"]["cases"].values())
    score, latency = json_of("score"), json_of("latency")["subsets"]
    sets = _and([f"{row['sets']:,}" for row in cases])
    share = 100 * max(row["evaluated_share"] for row in cases)
    found = []
    for method, by_score in score["correlation"].items():
        words = (f"`{name}` {with_minus(format(one, '.2f'))}" for name, one in by_score.items())
        found.append(f"after {method} {', '.join(words)}")
    return [
        *_item(
            f"On the images chosen on, of all {sets} possible sets, the beam's choice ranks"
            f" {_and([str(row['rank']) for row in cases])}, the"
            f" modules with the smallest single lesions {_and([str(row['independent_rank']) for row in cases])}. It"
            f" evaluated at most {share:.0f} % of them."
        ),
        *_item(
            f"Rank correlation of a set's score with its KL after recovery, over {len(score['rows'])} random sets of"
            f" {score['conditions']['drop']}: {'; '.join(found)}."
        ),
        *_item(
            f"Latencies of {len(latency['rows'])} random sets of ResNet-56 were predicted within"
            f" {latency['rms_percent']:.1f} % (root mean square; {latency['largest_percent']:.1f} % at most)."
        ),
    ]


def solving() -> Lines:
    """What a solve brings from few images."""
    found = record_from_json(Solved, RESULTS / "solve.json")
    lines = table_head("dropped", "nothing", "`bn`", "`solve`")
    for dropped, by_method in solve_rows(found):
        cells = (_lost(by_method.get(method, [])) for method in ((), ("bn",), ("solve",)))
        lines.append(table_row(dropped, *cells))
    about = (
        f"Points of top-1 lost, ± 95 % by image; ResNet-56, {100 * found.whole_top1:.2f} %, {found.data} val, n ="
        f" {found.lines[0].n:,}; 500 train images, {len(SEEDS)} draws of them. By `adaptive`: one set, solved. By"
        " `solved`: what `prune --drop N --recover solve --images 500` gives, the set of each draw its own. One thread,"
        f" {found.machine.partition(';')[0]}."
    )
    return [*lines, "", *_text(about)]


def one_command() -> Lines:
    """README: what `optimize` made of a network, and what either lever alone would."""
    lines = record_from_json(Optimized, RESULTS / "optimize.json").lines
    line = lines[0]
    found = line.frontier
    best, *again = (
        next(one for one in each.frontier.results if one.name == "balanced")
        for each in lines
        if each.name.startswith(line.name)
    )
    int8 = next(one for one in found.tried if not one.dropped and one.precision == "int8")
    short = min((one for one in found.tried if one.precision == "fp32"), key=lambda one: one.ratio.value)
    seeds = (best, *again)
    judged = [one.val_lost_points.plus_minus() for one in seeds if one.val_lost_points is not None]
    if len(judged) < len(seeds):
        raise ValueError("optimize.json: a balanced network was not judged on val")
    on_val = _and(judged)
    shares, counts = _and([f"{one.tried.ratio.value:.3f}" for one in seeds]), sorted(one.val_n for one in seeds)
    n = " to ".join(f"{one:,}" for one in dict.fromkeys((counts[0], counts[-1])))
    budget = line.words[line.words.index("--budget") + 1]
    hidden = " with VNNI and AMX hidden from it" if line.without_vnni else ""
    return _text(
        f"ResNet-56, `--latency {found.latency} --budget {budget}`: {len(best.tried.dropped)} modules less and INT8"
        f" take {best.tried.ratio.text('.3f')} of the float latency and lose {best.tried.lost_points.plus_minus()}"
        f" points on {found.n:,} train images kept apart; there fewer modules alone lose"
        f" {short.lost_points.plus_minus()} at {short.ratio.value:.3f}. INT8 alone takes"
        f" {int8.ratio.value:.3f}. On val, which the network was not trained on, {len(seeds)} seeds lose {on_val} (n ="
        f" {n}) at {shares}. {found.runtime}{hidden}, batch {found.batch},"
        f" {threads_text(found.threads)}, {found.machine}."
    )


def refining() -> Lines:
    """What gradients bring after a solve."""
    found = record_from_json(Solved, RESULTS / "solve.json")
    lines = table_head("dropped, by `solved`", "`solve`", "`solve,mimic`")
    for drop, by_method in refined_rows(found).items():
        lines.append(table_row(str(drop), *(_lost(by_method.get(way, [])) for way in (("solve",), ("solve", "mimic")))))
    about = (
        f"Points of top-1 lost, ± 95 % by image; ResNet-56, {100 * found.whole_top1:.2f} %, {found.data} val, n ="
        f" {found.lines[0].n:,}; the same sets, 2,000 train images without labels, drawn anew for each figure, ten"
        f" epochs. One thread, {found.machine}."
    )
    return [*lines, "", *_text(about)]


def _lost(lines: list[SolveLine]) -> str:
    if not lines:
        return ""
    widest = max(line.half_width_points for line in lines)
    return with_minus(f"{', '.join(f'{0.0 - line.change_points:.2f}' for line in lines)} ± {widest:.2f}")


def peers() -> Lines:
    """Against another rule, and against thinner channels."""
    practise = record_from_json(Practise, RESULTS / "practise.json")
    channels = record_from_json(Channels, RESULTS / "channels.json")
    cells = [[cell.strip() for cell in row.split("|")] for row in table_of(practise)[2:]]
    ahead = [f"{with_minus(row[6])} with {row[1]}" for row in cells]
    thinner, usual = (
        _and(
            [
                f"{_interval(*row.ahead)} at {row.target:g}"
                for row in rows_of(channels)
                if row.ahead and row.refitted is is_refitted
            ]
        )
        for is_refitted in (True, False)
    )
    return [
        *_item(f"Against PRACTISE's rule, same images and steps: {_and(ahead)} modules dropped, points."),
        *_item(
            f"Against thinner channels (Torch-Pruning {channels.packages['torch-pruning']}) near the same latency,"
            f" refitted and trained likewise: {thinner} of the whole network's, points, one seed; where channels learn"
            f" by gradients alone, as is usual, {usual}. Channels gain more from a long recovery."
        ),
    ]


def quantizing() -> Lines:
    """ResNet-56: calibrators alone, and what each effort makes of the last."""
    content, runs = json_of("quantize")["ResNet-56"], list(json_of("fidelity")["ResNet-56"]["seeds"].values())
    lines = table_head("ResNet-56", "change, points", "same top-1", "logit SQNR")
    cells = {f"{name} alone": [content["rows"][name]] for name in _QUANTIZED}
    draws: dict[str, list[str]] = {}
    for effort in ("default", "best"):
        if rows := [run["steps"][effort] for run in runs if effort in run["steps"]]:
            cells[f"`--effort {effort}`"] = rows
            draws.setdefault("once" if len(rows) == 1 else f"{len(rows)} times", []).append(f"`{effort}`")
    for name, rows in cells.items():
        change, same, decibels = (
            statistics.median(row[key] for row in rows) for key in ("change_points", "agreement", "sqnr_db")
        )
        lines.append(table_row(name, with_minus(f"{change:+.2f}"), f"{100 * same:.2f} %", f"{decibels:.1f} dB"))
    times = [f"{count} for {' and '.join(efforts)}" for count, efforts in draws.items()]
    return [
        *lines,
        "",
        *_text(
            f"Against float, n = {content['n']:,} val, {content['images']} calibration images, drawn"
            f" {' and '.join(times)}; medians."
        ),
    ]


def memory() -> Lines:
    """Calibration against ONNX Runtime's."""
    rows = [row for row in json_of("calibration")["cost"] if row["images"] == 512]
    ours, peer = (next(row for row in rows if (row["job"] == "ours") is is_ours) for is_ours in (True, False))
    return _text(
        f"For 512 images of ResNet-56 that takes {ours['above_idle_mb']:.0f} MB of memory, and"
        f" {ours['wall_s'] / peer['wall_s']:.2f} of the time of ONNX Runtime's calibrator, which takes"
        f" {peer['above_idle_mb']:,.0f} MB ({peer['method']})."
    )


def cpu() -> Lines:
    """INT8 on a CPU."""
    found = record_from_json(cpu_figures.Results, RESULTS / "cpu.json")
    row = next(row for row in found.rows if row.name == "ort-cpu, 8-bit weights")
    change = _interval(row.change_points.value, (row.change_points.high - row.change_points.low) / 2)
    return _text(
        f"The whole ResNet-56 takes {row.to_float.value:.2f} of its float file's time that way, {change} points of"
        f" top-1 (n = {found.n:,}; {found.runtime}, batch 1, {threads_text(found.settings.threads)}, {found.cpu})."
    )


def lint() -> Lines:
    """How files of ONNX Runtime fare."""
    found = record_from_json(lint_cases.Results, RESULTS / "lint.json").cases
    refused, mended = sum(not case.builds for case in found), sum(case.repaired_builds for case in found)
    return _text(
        f"Of {len(found)} files of ONNX Runtime {found[0].onnxruntime} (four networks, its settings crossed)"
        f" TensorRT-RTX refused {refused}; after `--fix` it built {mended}."
    )


def engines() -> Lines:
    """What was built."""
    found = record_from_json(engine_cases.Results, RESULTS / "engines.json")
    refused = [build for build in found.builds if build.exit_code]
    where = ", ".join(sorted({" + ".join(build.targets) for build in refused}))
    return _text(
        f"{len(found.builds)} builds of {len(found.sources)} networks for SM 75 to 121 by {found.builder}, on a machine"
        f" without a GPU: {len(found.builds) - len(refused)} engines, {len(refused)} refusals, all for {where}. None"
        " was run."
    )


def compare() -> Lines:
    """How often a verdict is right."""
    trials = json_of("compare")["trials"]
    words = {kind: Counter(row["word"] for row in rows) for kind, rows in trials.items()}
    gain = statistics.median(row["speed"]["value"] for row in trials["module"])
    n = {kind: len(rows) for kind, rows in trials.items()}
    return _text(
        f"Tried on ResNet-56: one module less ({gain:.3f}x) was called faster in {words['module']['faster']} of"
        f" {n['module']} trials; a network against itself was faster or slower in"
        f" {words['self']['faster'] + words['self']['slower']} of {n['self']}; with another program started half way"
        f" {words['hog']['invalid']} of {n['hog']} were invalid."
    )


def studies() -> Lines:
    """The verdicts."""
    return [line for name, study in json_of("studies").items() for line in _item(f"`{name}`: {study['verdict']}")]


def schemas() -> Lines:
    """Every JSON by name."""
    return [
        line
        for name, schema in SCHEMAS.items()
        for line in _item(f"`{name}` (version {version_of(schema.kind())}): {schema.found}")
    ]


QUOTES: dict[str, Callable[[], Lines]] = {
    f"short-{maker.__name__}": maker
    for maker in (
        headline, one_command, sweep, choosing, solving, refining, peers, quantizing, memory, cpu, lint,
        engines, compare, studies, schemas,
    )
}  # fmt: skip


def _text(text: str) -> Lines:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> Lines:
    return textwrap.wrap(f"- {text}", _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _and(words: Lines) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _interval(value: float, half: float) -> str:
    return with_minus(f"{value:+.2f} ± {half:.2f}")
