"""`edgeres prune`: whole residual modules go; what remains keeps its original names and weights.

Modules are chosen on training images for one goal: a number, a latency by the clock, a share of the multiply-
accumulates, or a loss of accuracy that is not to be passed. With `--recover` the network is trained back by its parent.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from edgeres.core.amounts import Target, target_from
from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.core.records.latency import LatencyTable, latency_table_from
from edgeres.core.safe_text import typed
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.costs.check import Checked, check_prediction
from edgeres.costs.table import check_table, doubts, predicted_ms
from edgeres.models import check_module_names, modules_of
from edgeres.models.weights import checkpoint_without
from edgeres.prune.choose import Chooser, choice_notes, choice_results
from edgeres.prune.config import PruneConfig
from edgeres.prune.cut import Cut, cut_and_recovered
from edgeres.prune.goals import goal_from, macs_outcome, worth
from edgeres.prune.max_loss import leaving_some, within_loss
from edgeres.prune.sets import Goal, Searched

log = logging.getLogger(__name__)
_WORTH_SHOWN = 5
_ATTEMPTS = 4  # choices for a latency, each asking for what the last one was short of


def prune(source: Checkpoint, config: PruneConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes out_dir/model.safetensors; interrupted, the same call goes on from what it had measured and learnt.

    Raises InputError for unknown names, a goal that is met already or cannot be met (with the best reachable).
    """
    recorder = Recorder("prune", config, source)
    config.check()
    table = latency_table_from(config.latency) if config.latency is not None else None
    if table is not None:
        check_table(table, source.spec)
    elif config.target_latency is not None:
        measured = f"edgeres bench --per-module {typed(source.path)}"
        raise InputError(f"--target-latency needs a latency table (--latency FILE); measure one: {measured}")
    path = out_dir / "model.safetensors"
    if config.modules:
        check_module_names(source.spec, config.modules)
        chosen, done = config.modules, cut_and_recovered(source, config.modules, config, path)
    else:
        chosen, done = _for_a_goal(source, config, table, path)
    recorder.results |= done.results | {"chosen": list(chosen)}
    recorder.notes += [*_what_is_left(source.spec, chosen), *done.notes, *_shares_of(source.spec, config)]
    recorder.warnings += done.warnings
    if config.macs is not None:
        before, after = source.card.cost.macs, done.output.card.cost.macs
        figures, said = macs_outcome(config.macs, before=before, after=after)
        recorder.results |= figures
        recorder.notes.append(said)
    if table is not None:
        now, then = predicted_ms(table, source.spec.dropped), predicted_ms(table, (*source.spec.dropped, *chosen))
        recorder.results["predicted_ms"] = then.model_dump()
        recorder.notes.append(
            f"by the latency table {now.value:.3f} ms become {then.value:.3f} ms ({then.value / now.value:.3f};"
            f" {table.runtime}{', INT8' if table.is_int8 else ''}, batch {table.conditions.batch})"
        )
    return StageResult(done.output, recorder.finish(done.output))


def _for_a_goal(
    source: Checkpoint, config: PruneConfig, table: LatencyTable | None, path: Path
) -> tuple[tuple[str, ...], Cut]:
    """The modules that go, the network without them, and what there is to say about the choice."""
    chooser, checked = Chooser(source, config, path.parent), None
    if config.max_loss is not None:
        config = leaving_some(config, len(chooser.dataset.train))
        chooser = Chooser(source, config, path.parent)
        found, done = within_loss(source, config, chooser, path)
    else:
        goal = goal_from(config, chooser.candidates, source.spec, table)
        if config.target_latency is not None and table is not None:
            found, checked = _fast_enough(source, chooser, goal, table, target=target_from(config.target_latency))
        else:
            found = chooser.choose(goal)
        done = cut_and_recovered(source, found.best.dropped, config, path)
    results, notes = choice_results(chooser, found, config), choice_notes(chooser, found, config)
    warnings: list[str] = []
    if table is not None:
        dear = worth(table, chooser.lost_by_module(), chooser.lost_are)
        notes += [f"not worth dropping: {line}" for line in dear[:_WORTH_SHOWN]]
    if table is not None and checked is not None:
        results["prediction"] = checked.model_dump(mode="json")
        notes.insert(0, f"{config.target_latency} asked for: {checked.line()}")
        warnings = [*doubts(table), *checked.warnings]
    chooser.close()
    return found.best.dropped, Cut(
        done.output, results | done.results, (*notes, *done.notes), (*warnings, *done.warnings)
    )


def _fast_enough(
    source: Checkpoint, chooser: Chooser, goal: Goal, table: LatencyTable, *, target: Target
) -> tuple[Searched, Checked]:
    """Chooses, measures what was chosen and, where it is too slow, asks for that much more and chooses again."""
    tried: list[Checked] = []
    with tempfile.TemporaryDirectory(prefix="edgeres-") as name:
        while len(tried) < _ATTEMPTS and goal.is_reached(frozenset(goal.useful(chooser.candidates))):
            found = chooser.choose(goal)
            pruned = checkpoint_without(source, found.best.dropped, Path(name) / f"{len(tried)}.safetensors")
            tried.append(check_prediction(pruned, source, table, folder=Path(name), target=target))
            log.info("%s: %s", ", ".join(found.best.dropped), tried[-1].line())
            missing_ms = tried[-1].missing_ms(target)
            if missing_ms == 0:
                return found, tried[-1]
            goal = replace(goal, needed=found.best.gain + missing_ms)
    nearest = min(tried, key=lambda one: one.missing_ms(target))
    reached = nearest.pruned_ms or nearest.predicted_ms
    raise InputError(
        f"--target-latency {target}: not met by {'the clock' if nearest.is_measured else 'the table'}; best reached"
        f" {reached.value:.3f} ms ({nearest.share:.3f} of the whole) without {', '.join(nearest.dropped)}"
    )


def _shares_of(spec: ModelSpec, config: PruneConfig) -> list[str]:
    """What a share such as 0.8x is taken of, where the network lacks modules already."""
    option = f"--macs {config.macs}" if config.macs else f"--target-latency {config.target_latency}"
    if not spec.dropped or not option.lower().endswith("x"):
        return []
    return [f"{option} is taken of the network given, which already lacked {len(spec.dropped)} of its modules"]


def _what_is_left(spec: ModelSpec, chosen: tuple[str, ...]) -> list[str]:
    kinds = {info.name: info.kind for info in modules_of(spec)}
    notes = [
        f"dropped {', '.join(chosen)}; modules left: {len(kinds) - len(spec.dropped) - len(chosen)} of {len(kinds)}"
    ]
    if projections := [name for name in chosen if kinds[name] == "projection"]:
        notes.append(f"of {', '.join(projections)} the shortcut and the final activation stay (shapes change there)")
    return notes
