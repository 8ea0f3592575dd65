"""`edgeres study lesion`: delete every module in turn, then k at random, and measure.

What a deletion costs is told twice: as it is, and once the module behind the gap was refitted, on a few training
images without their labels, to what the whole network gives there. The second is what a recovery has to start from.

Source: Veit, Wilber & Belongie 2016, arXiv 1605.06431, sections 4.1 and 4.2. The split measured is val: a study
reports, it chooses nothing; `edgeres prune` makes its own choice on training images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgeres.core.artifacts import Checkpoint, LesionTableFile
from edgeres.core.distances import LOST_OF, NAME_OF
from edgeres.core.errors import InputError, MissingDependency
from edgeres.core.files import write_text
from edgeres.core.metrics import Z_95, Accuracy, paired_difference
from edgeres.core.pictures import COLOURS, figure_file, whiskers
from edgeres.core.processes import shared, together
from edgeres.core.records.lesion import Images, Lesion, Refitted
from edgeres.core.safe_text import csv_text
from edgeres.core.stage import Recorder, StageResult
from edgeres.data import Dataset, dataset_for
from edgeres.data.split import OWN_GUESSES
from edgeres.evaluate.distance import KL, distance_for
from edgeres.evaluate.subsets import add_batch, own_subsets
from edgeres.evaluate.sums import Tally, reference_batches
from edgeres.models import modules_of
from edgeres.models.weights import load_folded
from edgeres.refit import FEWEST_REPAIRED_ON, REPAIRED_ON
from edgeres.refit.repairs import Repairs, repairs_on
from edgeres.study.config import LesionConfig
from edgeres.study.lesion_table import PAPER, LesionTable, NetworkLesions, claims_of, csv_rows, stages_of
from edgeres.study.outcomes import Draw, Trend, trend_of
from edgeres.study.random_sets import couplings_of, outcomes_without, random_sets, rows_of
from edgeres.study.result import draw_guessing, joined

_MOST_NAMES = 30  # module names that fit below one panel
_PANEL_IN = 5.4
_HEIGHT_IN = 3.8
_LEGEND = {"fontsize": 8, "loc": "best", "frameon": True, "framealpha": 0.85, "edgecolor": "none"}
_BARS = {"markersize": 4, "capsize": 2}
_LOOKED_AT = 250  # images, to see whether all first guesses are the same
_NAMED = 3  # cheap modules, and dear ones, that are told


def lesion(source: Checkpoint, config: LesionConfig, out_dir: Path) -> StageResult[LesionTableFile]:
    """Writes out_dir/lesions.json, lesions.csv and lesions.svg."""
    recorder = Recorder("lesion", config, source)
    table = _measured(source, config, recorder)
    table = table.model_copy(update={"claims": claims_of(table)})
    if source.spec.task == "classes" and not _judged_on(source, config).val.is_labelled:
        recorder.notes.append(OWN_GUESSES)
    output = LesionTableFile(out_dir / "lesions.json")
    write_text(output.path, table.model_dump_json(indent=1) + "\n")
    write_text(out_dir / "lesions.csv", csv_text(list(csv_rows(table))))
    panels = 2 if table.trend else 1
    try:
        width_in = _PANEL_IN * panels + 1
        with figure_file(out_dir / "lesions.svg", panels=panels, width_in=width_in, height_in=_HEIGHT_IN) as axes:
            _draw_singles(axes[0] if panels == 2 else axes, table)
            if table.trend:
                _draw_sets(axes[1], table, table.trend)
    except MissingDependency as err:
        recorder.warnings.append(f"no figure: {err}")
    if table.whole.accuracy is None:
        recorder.notes.append("no random sets: what they are held against are claims on classes")
    else:
        recorder.warnings += _hidden(source, config)
    _record(recorder, table)
    return StageResult(output, recorder.finish(output))


def _hidden(source: Checkpoint, config: LesionConfig) -> list[str]:
    """A warning where the scores of classes hide what a deletion does; a part of the images tells."""
    network, images = load_folded(source), _judged_on(source, config).val.at_most(_LOOKED_AT, config.seed)
    with torch.inference_mode():
        seen = [network(torch.from_numpy(x)) for x, _ in images.shown(source.spec, config.batch, "outputs")]
    distance = distance_for(source.spec.task, seen, source.spec.sizes)
    return [f"{distance.why}, nor points of top-1; prune goes by the {distance.name}"] if distance.why else []


def _repairs(source: Checkpoint, config: LesionConfig) -> Repairs | str:
    """What refits the module behind a gap, or why there is none."""
    train = dataset_for(source.spec, config.data, download=config.download).train
    if len(train) < FEWEST_REPAIRED_ON:
        return f"{config.data} has {len(train)} train images, {FEWEST_REPAIRED_ON} are the least"
    try:
        return repairs_on(train.sample(min(REPAIRED_ON, len(train)), config.seed), load_folded(source), source.spec)
    except InputError as err:  # other branches run beside a module
        return str(err)


@together
def _measured(source: Checkpoint, config: LesionConfig, recorder: Recorder) -> LesionTable:
    """The table without its claims."""
    repairs = _repairs(source, config)
    if isinstance(repairs, str):
        recorder.notes.append(f"what a deletion costs once the module behind is refitted is not told: {repairs}")
    if config.control is not None:
        source.spec.check_classes("--control")
    lesions = _single_lesions(source, config, None if isinstance(repairs, str) else repairs)
    control = _single_lesions(Checkpoint(config.control), config) if config.control else None
    table = LesionTable(**dict(lesions), stages=tuple(stages_of(lesions.table)), control=control)
    candidates = [row.module for row in table.table if row.kind == "identity"]
    if config.draws == 0 or not candidates or lesions.whole.accuracy is None:
        return table
    images = _judged_on(source, config).val.at_most(None if config.full else config.set_images, config.seed)
    sets = random_sets(candidates, largest=config.largest, draws=config.draws, seed=config.seed)
    outcomes = outcomes_without(load_folded(source), images, source.spec, sets, batch=config.batch)
    draws = [Draw(len(modules), float(len(modules)), one) for modules, one in outcomes.items() if modules]
    found = {
        "sets_n": len(images),
        "sets": rows_of(outcomes),
        "trend": trend_of(outcomes[()], draws, seed=config.seed),
        "couplings": couplings_of(outcomes, seed=config.seed),
    }
    return table.model_copy(update=found)


def _judged_on(source: Checkpoint, config: LesionConfig) -> Dataset:
    dataset = dataset_for(source.spec, config.data, download=config.download)
    return replace(dataset, val=dataset.val.at_most(config.images, config.seed))


def _single_lesions(source: Checkpoint, config: LesionConfig, repairs: Repairs | None = None) -> NetworkLesions:
    dataset = _judged_on(source, config)
    tallies, refitted = _tallies(source, dataset, config, repairs)
    whole, runtime = tallies.pop(""), f"torch {torch.__version__} cpu"
    if not tallies:
        raise InputError(f"{source.path}: no module is left to delete")

    def row(name: str, kind: str, tally: Tally) -> Lesion:
        named = {"module": name, "kind": kind, **_change(whole, tally)}
        if name in refitted:
            named["refitted"] = Refitted(**_change(whole, refitted[name]))
        if not tally.distance.has_classes:
            on = Images(n=tally.n, dataset=dataset.name, split="val", runtime=runtime)
            return Lesion(measure=tally.distance.measure, images=on, **named)
        return Lesion(
            accuracy=Accuracy(
                correct_top1=tally.correct_top1,
                correct_top5=tally.correct_top5,
                n=tally.n,
                dataset=dataset.name,
                split="val",
                runtime=runtime,
                artifact=source.sha256,
            ),
            loss=tally.loss,
            **named,
        )

    return NetworkLesions(
        model_sha256=source.sha256,
        network=source.spec.variant,
        num_classes=source.spec.num_classes,
        whole=row("", "whole", whole),
        table=tuple(
            row(info.name, info.kind, tallies[info.name]) for info in modules_of(source.spec) if info.name in tallies
        ),
    )


def _change(whole: Tally, tally: Tally) -> dict[str, Any]:
    """Points of top-1 lost, paired; without classes how far outputs are from the whole one's, as that was counted."""
    each = torch.cat(tally.each)
    if tally.distance.has_classes:
        change, half = paired_difference(torch.cat(whole.each).tolist(), each.tolist())
    else:
        change, half = -tally.apart, Z_95 * float(each.std()) / math.sqrt(tally.n) if tally.n > 1 else 0.0
    return {"kl": tally.apart, "change_points": 100 * change, "half_width_points": 100 * half}


Tallies = dict[str, Tally]


def _tallies(
    source: Checkpoint, dataset: Dataset, config: LesionConfig, repairs: Repairs | None
) -> tuple[Tallies, Tallies]:
    """What the network makes of val without each of its modules, and whole under the name ""; the same refitted."""
    network, distance = load_folded(source), KL
    if source.spec.task != "classes":  # a study of classes counts right answers
        seen = (torch.from_numpy(images) for images, _ in dataset.val.shown(source.spec, config.batch, "outputs"))
        with torch.inference_mode():
            distance = distance_for(source.spec.task, map(network, seen), source.spec.sizes)
    alone = own_subsets(network, [frozenset({name}) for name, unit in network.units() if not unit.dropped])
    bare = {removed: Tally(distance=distance) for removed in (frozenset(), *alone)}
    refitted = {removed: Tally(distance=distance) for removed in alone if repairs is not None}
    if repairs is not None:
        repairs.behind_each(frozenset().union(*alone))
    for images, labels in dataset.val.shown(source.spec, config.batch, "lesion"):
        (batch,) = reference_batches(network, [(torch.from_numpy(images), torch.from_numpy(labels))])
        add_batch(bare, network, batch)
        add_batch(refitted, network, batch, repairs)
    by_name = [{"".join(removed): tally for removed, tally in found.items()} for found in (bare, refitted)]
    of_all = zip(*shared(lambda: by_name), strict=True)
    whole, repaired = ({name: tally for part in parts for name, tally in part.items()} for parts in of_all)
    return whole, repaired


def _record(recorder: Recorder, table: LesionTable) -> None:
    if table.claims:
        claim = joined(table.claims, PAPER)
        recorder.results |= {"claim": f"{claim.claim} ({PAPER})", "verdict": claim.verdict, "because": claim.because}
    shown = {"whole", "table", "stages", "trend", "couplings", "claims"}
    recorder.results |= table.model_dump(mode="json", include=shown)
    recorder.notes += [*_cheap_and_dear(table), *_coupling_note(table)]


def _cheap_and_dear(table: LesionTable) -> Iterator[str]:
    """Which modules cost least and most; a module of a short network is in one list only.

    First once the module behind was refitted, where that is known, then as it is.
    """
    refitted = {row.module: row.refitted.cost for row in table.table if row.refitted is not None}
    ways = {" once the module behind is refitted": refitted, "": {row.module: row.cost for row in table.table}}
    lost, on = LOST_OF[table.whole.measure], f"n = {table.whole.n:,} of {table.whole.judged_on.split}"
    for way, costs in ways.items():
        ranked = sorted(costs.items(), key=lambda pair: pair[1].value)
        few = min(_NAMED, (len(ranked) + 1) // 2)
        for word, rows in {"cheapest": ranked[:few], "dearest": ranked[few:][::-1][:few]}.items():
            if rows:
                named = ", ".join(f"{module} {cost.text()}" for module, cost in rows)
                yield f"{word} to drop{way}, in {lost} lost [95 %]: {named}; {on}"


def _coupling_note(table: LesionTable) -> list[str]:
    """Coupling by size, for pairs, the middle size and the largest."""
    by_k = [(coupling.k, coupling.kl) for coupling in table.couplings if coupling.k is not None and coupling.kl]
    if not by_k:
        return []
    shown = dict([by_k[0], by_k[(len(by_k) - 1) // 2], by_k[-1]])
    figures = ", ".join(f"{kl.text()} for {k}" for k, kl in shown.items())
    name = NAME_OF[table.whole.measure]
    text = f"coupling {figures} modules at once: {name} of a random set over the sum of its members' (1: costs add up)"
    return [f"{text}, n = {table.sets_n:,} of {table.whole.judged_on.split}"]


def _draw_singles(axes: Any, table: LesionTable) -> None:
    _draw_network(axes, table, COLOURS[0], "o")
    projections = [(place, row) for place, row in enumerate(table.table, 1) if row.kind == "projection"]
    for place, row in projections:
        axes.plot(place, row.error.value, "s", color=COLOURS[0], markersize=8, markerfacecolor="white")
    refitted = [(place, row.refitted.cost) for place, row in enumerate(table.table, 1) if row.refitted is not None]
    if refitted:
        places, costs = zip(*refitted, strict=True)
        errors = [table.whole.error.value + cost.value for cost in costs]
        axes.plot(places, errors, "_", color=COLOURS[2], markersize=9, label="the module behind refitted")
    if table.control is not None:
        _draw_network(axes, table.control, COLOURS[1], "^")
    if table.whole.accuracy is not None:
        draw_guessing(axes, 100 * (1 - 1 / table.num_classes))
    deleted = "module or layer deleted, in order"
    if table.control is None and len(table.table) <= _MOST_NAMES:
        deleted = "module deleted (stage.index)"
        names = [row.module.removeprefix("layer") for row in table.table]
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize=8)
    axes.set_xlabel(deleted + (", □ changes the shape" if projections else ""))
    axes.set_ylabel(_error_of(table))
    axes.set_ylim(bottom=0)
    axes.set_title(f"one deletion each, 95 % whiskers, n = {table.whole.n:,}", fontsize=10)
    axes.legend(**_LEGEND)


def _error_of(table: LesionTable) -> str:
    measure = table.whole.measure
    return "top-1 error, %" if measure == "kl" else f"{NAME_OF[measure]}, hundredths"


def _draw_network(axes: Any, lesions: NetworkLesions, colour: str, marker: str) -> None:
    errors, reach = whiskers([row.error for row in lesions.table])
    places, label, whole = range(1, len(errors) + 1), f"{lesions.network} without a module", lesions.whole.error.value
    axes.errorbar(places, errors, reach, fmt=marker, color=colour, elinewidth=1, label=label, **_BARS)
    axes.axhline(whole, color=colour, linewidth=1, label=f"{lesions.network} whole ({whole:.1f} %)")


def _draw_sets(axes: Any, table: LesionTable, trend: Trend) -> None:
    """Every set as a dot, and the means of each size with their 95 % intervals."""
    sets = [one for one in table.sets if one.k]
    ks, errors = [one.k for one in sets], [one.error_percent for one in sets]
    axes.plot(ks, errors, ".", color=COLOURS[0], alpha=0.3, label="one draw")
    means, reach = whiskers([one.error for one in trend.levels])
    sizes, label = [one.level for one in trend.levels], "mean, 95 % interval"
    axes.errorbar(sizes, means, reach, color=COLOURS[0], marker="o", label=label, **_BARS)
    axes.set_ylim(bottom=0)
    axes.legend(**_LEGEND)
    if table.whole.accuracy is not None:
        draw_guessing(axes, 100 * (1 - 1 / table.num_classes))
    axes.set_xlabel("identity modules deleted at random")
    axes.set_ylabel(_error_of(table))
    axes.set_title(f"{table.network}, n = {table.sets_n:,}", fontsize=10)
