"""The page in words: its sections, what each picture shows, the cells of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Set

from edgeres.core.records.sweep import SweepFigure
from edgeres.evaluate.agreement import Agreement
from edgeres.report.agreements import AgreementFigure
from edgeres.report.cells import Lines
from edgeres.report.findings import HistogramFigure
from edgeres.report.plots import calls_title, tensor_title
from edgeres.report.summary import RunSummary
from edgeres.report.wording import lost, milliseconds, percent, runtime_name, signed

_LEAST_P = 0.0001


def sections_of(summary: RunSummary, *, has_pictures: Set[str]) -> Iterator[tuple[str, str]]:
    """(anchor, title) of what the page holds, in its order; has_pictures: names of pictures that are not empty."""
    held = {
        ("care", "Read with care"): bool(summary.problems or summary.warnings),
        ("stages", "Stages"): True,
        ("tradeoff", "Accuracy against latency"): bool(has_pictures & {"tradeoff", "sweep"}),
        ("network", "Network"): bool(has_pictures & {"network", "lesion"}),
        ("time", "Latency"): bool(has_pictures & {"calls", "costs"} or summary.ways),
        ("int8", "Calibration"): "histograms" in has_pictures,
        ("agreement", "Agreement"): bool(summary.agreements or summary.kept_agreements),
        ("boards", "Boards"): bool(summary.boards),
        ("absent", "Not run"): bool(summary.absent),
        ("steps", "Every stage"): True,
        ("lineage", "Lineage"): bool(summary.files),
        ("again", "Again"): True,
        ("machine", "Machine"): True,
    }
    yield from (section for section, is_held in held.items() if is_held)


def how_recovered(summary: RunSummary) -> str:
    """How the sweep's networks were trained back."""
    recover = summary.sweep.recover if summary.sweep else ()
    return f"trained back by {', '.join(recover)} (crosses: before that)" if recover else "nothing trained back"


def sweep_rows(sweep: SweepFigure) -> list[list[Lines]]:
    """One row a number of modules."""
    return [
        [
            (str(point.count),),
            (percent(point.top1.value), f"[{percent(point.top1.low)}, {percent(point.top1.high)}]"),
            (f"{signed(point.change_points)} ± {point.half_width_points:.2f}" if point.count else "–",),
            (milliseconds(point.latency_ms.value),),
            (f"{point.ratio.value:.3f}", f"[{point.ratio.low:.3f}, {point.ratio.high:.3f}]"),
            ("yes" if point.is_best else "no",),
            (", ".join(point.dropped) or "–",),
        ]
        for point in sweep.points
    ]


def lost_by_module(summary: RunSummary) -> dict[str, float]:
    """Points of top-1 lost without each module."""
    return {entry.module: -entry.change_points for entry in summary.lesion}


def network_caption(summary: RunSummary) -> str:
    """How the drawing is read."""
    said = (
        "Boxes are residual modules, arcs their shortcuts. Dashed and struck through: dropped, the signal takes the"
        " arc. A square on an arc: the shapes change there, so this shortcut computes and stays when its module is"
        " dropped."
    )
    if not summary.lesion:
        return said
    n = summary.lesion[0].n
    return f"{said} Bars: points of top-1 lost without the module, on a logarithmic scale (n = {n:,})."


def lesion_label(summary: RunSummary) -> str:
    """The lesion bars in words."""
    said = ", ".join(f"{entry.module} {lost(entry.change_points)}" for entry in summary.lesion)
    return f"Points of top-1 lost when one module is deleted: {said}."


def timed_conditions(summary: RunSummary) -> list[str]:
    """What the latencies belong to, one line for each machine and mode."""
    found = {
        f"{one.machine}, {one.runtime}, batch {one.batch}, threads {one.threads}"
        for row in summary.rows
        if (one := row.latency)
    }
    return sorted(found)


def calls_label(summary: RunSummary) -> str:
    """The histograms of calls in words."""
    said = "; ".join(calls_title(row.name, row.latency) for row in summary.rows if row.latency)
    return f"Histograms of the duration of single calls. {said}."


def way_rows(summary: RunSummary) -> list[list[Lines]]:
    """One row a network, batch and way."""
    return [
        [
            (one.name, f"{one.way}, batch {one.batch}"),
            (f"{one.images_per_s.value:,.0f}", f"[{one.images_per_s.low:,.0f}, {one.images_per_s.high:,.0f}]"),
            (milliseconds(one.p50_ms.value), f"[{milliseconds(one.p50_ms.low)}, {milliseconds(one.p50_ms.high)}]"),
            (", ".join(f"{name} {milliseconds(ms)}" for name, ms in one.parts_ms.items()) or "–",),
            (f"{one.samples:,}",),
            (runtime_name(one.runtime),),
        ]
        for one in summary.ways
    ]


def costs_label(summary: RunSummary) -> str:
    """The modules' costs in words."""
    rows = summary.costs.rows if summary.costs else ()
    said = ", ".join(f"{row.module} {milliseconds(row.saved_ms.value)}" for row in rows)
    return f"Milliseconds that dropping each module saves: {said}."


def costs_caption(summary: RunSummary) -> str:
    """What the modules' costs belong to and add up to."""
    costs = summary.costs
    if costs is None:
        return ""
    modules = milliseconds(sum(row.saved_ms.value for row in costs.rows))
    rest, whole = milliseconds(costs.rest_ms), milliseconds(costs.whole_ms.value)
    percent = f"{100 * costs.fit_error:.1f} %"
    error = (
        f"networks differ from such a sum by {percent}"
        if costs.networks
        else f"by the layer profile of one engine, whose layers add up to {percent} more or less"
    )
    return (
        f"What each module costs by the clock ({costs.stage}: {costs.conditions}, {costs.machine}). Modules of one"
        f" shape share a figure. {len(costs.rows)} modules {modules} ms + stem, head and overhead {rest} ms = {whole}"
        f" ms; {error}. Modules marked × were dropped."
    )


def histograms_label(summary: RunSummary) -> str:
    """The histograms of tensors in words."""
    shown = summary.histograms.shown if summary.histograms else ()
    return f"Histograms of the values of {len(shown)} tensors. {'; '.join(map(tensor_title, shown))}."


def bounds_of(figure: HistogramFigure) -> tuple[tuple[str, ...], list[list[Lines]]]:
    """(column titles, rows) of every calibrator's bound for the tensors that are shown."""
    methods = tuple(dict.fromkeys(method for one in figure.shown for method in one.amax))
    rows = []
    for one in figure.shown:
        cells: list[Lines] = [(one.tensor, f"exact zeros {percent(one.zeros / one.n)} %" if one.n else "")]
        for method in methods:
            noise = one.sqnr_db.get(method)
            bound = (f"{one.amax[method]:.3g}",) if method in one.amax else ("–",)
            taken = ("taken",) if method == one.chosen else ()
            cells.append((*bound, *([f"{noise:.1f} dB"] if noise is not None else []), *taken))
        rows.append(cells)
    return ("Tensor", *methods), rows


def agreement_cells(one: AgreementFigure) -> list[Lines]:
    """One row of the agreement table."""
    runtimes = tuple(dict.fromkeys((runtime_name(one.runtime_a), runtime_name(one.runtime_b))))
    points = f"{signed(one.points.value)} points"
    return [
        (f"{one.b}", f"against {one.a}"),
        runtimes,
        (f"{percent(one.same.value)} %", f"[{percent(one.same.low)}, {percent(one.same.high)}]", f"n = {one.n:,}"),
        (f"{one.only_a:,}",),
        (f"{one.only_b:,}",),
        (points, f"[{signed(one.points.low)}, {signed(one.points.high)}]"),
        (f"{one.p_value:.2g}" if one.p_value >= _LEAST_P else f"< {_LEAST_P}",),
    ]


def kept_text(one: Agreement) -> dict[str, str]:
    """What `edgeres agree` found, in words."""
    same, (change, half) = one.pair.agreement, one.pair.difference
    noise = "identical" if one.logits.sqnr_db is None else f"{one.logits.sqnr_db:.1f} dB"
    drift = f"{one.drift} (×) drifts first." if one.drift else "No module drifts." if one.modules else ""
    modules = ", ".join(f"{m.name} {m.sqnr_db:.1f}" for m in one.modules if m.sqnr_db is not None)
    return {
        "title": f"{one.b.runtime} against {one.a.runtime}",
        "text": f"Same top-1 on {same.value:.2%} of {one.n:,} images (95 %: {100 * same.low:.2f} to"
        f" {100 * same.high:.2f}); top-1 {signed(100 * change)} ± {100 * half:.2f} points; logits {noise},"
        f" KL {one.kl:.2g} nats.",
        "label": f"Signal over noise of each module's output, in dB: {modules}.",
        "drift": drift,
    }
