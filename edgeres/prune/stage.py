"""`edgeres prune`: whole residual modules go; what remains keeps its original names and weights.

Modules are chosen on training images for one goal: a number, a latency by the clock, a share of the multiply-
accumulates, or a loss of accuracy that is not to be passed. With `--recover` the network is trained back by its parent.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.core.records.latency import LatencyTable, latency_table_from
from edgeres.core.spec import ModelSpec
from edgeres.core.stage import Recorder, StageResult
from edgeres.costs.check import Checked, check_prediction, target_from
from edgeres.costs.table import check_table, doubts, predicted_ms
from edgeres.models import check_module_names, modules_of
from edgeres.prune.choice import Chooser, choice_notes, choice_results
from edgeres.prune.config import PruneConfig
from edgeres.prune.cutting import Cut, cut_and_recovered
from edgeres.prune.goals import goal_from, macs_outcome, worth
from edgeres.prune.plan import Goal, Searched
from edgeres.prune.within import leaving_some, within_loss

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
    path = out_dir / "model.safetensors"
    if config.modules:
        check_module_names(source.spec, config.modules)
        chosen = config.modules
        done = cut_and_recovered(source, chosen, config, path)
    else:
        chosen, done = _for_a_goal(source, config, table, recorder=recorder, path=path)
        recorder.notes += _shares_of(source.spec, config)
    if config.macs is not None:
        before, after = source.card.cost.macs, done.output.card.cost.macs
        figures, said = macs_outcome(config.macs, before=before, after=after)
        recorder.results |= figures
        recorder.notes.append(said)
    recorder.results["chosen"] = list(chosen)
    if done.recovery:
        recorder.results["recovery"] = done.recovery
        recorder.notes.append(f"trained back by {', '.join(config.recover)}{_how_long(done.recovery)}")
    recorder.notes = [*_notes(source.spec, chosen), *recorder.notes, *done.notes]
    recorder.warnings += done.warnings
    if table is not None:
        _record_prediction(recorder, table, source.spec, chosen)
    return StageResult(done.output, recorder.finish(done.output))


def _for_a_goal(
    source: Checkpoint, config: PruneConfig, table: LatencyTable | None, *, recorder: Recorder, path: Path
) -> tuple[tuple[str, ...], Cut]:
    chooser = Chooser(source, config, path.parent)
    if config.max_loss is not None:
        config = leaving_some(config, len(chooser.dataset.train))
        chooser = Chooser(source, config, path.parent)
        found, done = within_loss(source, config, chooser, recorder=recorder, path=path)
    else:
        found = _found(source, config, chooser, table, recorder=recorder)
        done = cut_and_recovered(source, found.best.dropped, config, path)
    recorder.results |= choice_results(chooser, found, config)
    recorder.results["chosen"] = list(found.best.dropped)
    recorder.notes += choice_notes(recorder.results)
    if table is not None:
        recorder.notes += [f"not worth dropping: {line}" for line in worth(table, chooser.points_lost())[:_WORTH_SHOWN]]
    chooser.close()
    return found.best.dropped, done


def _found(
    source: Checkpoint, config: PruneConfig, chooser: Chooser, table: LatencyTable | None, *, recorder: Recorder
) -> Searched:
    goal = goal_from(config, chooser.candidates, source.spec, table)
    if config.target_latency is None or table is None:
        return chooser.choose(goal)
    found, checked = _for_a_latency(source, chooser, goal, table, target=config.target_latency)
    recorder.results["prediction"] = checked.model_dump(mode="json")
    recorder.notes.append(f"{config.target_latency} asked for: {checked.line()}")
    recorder.warnings += [*doubts(table), *checked.warnings]
    return found


def _for_a_latency(
    source: Checkpoint, chooser: Chooser, goal: Goal, table: LatencyTable, *, target: str
) -> tuple[Searched, Checked]:
    """Chooses, measures what was chosen and, where it is too slow, asks for that much more and chooses again."""
    from edgeres.models.weights import checkpoint_without

    wanted, nearest = target_from(target), None
    with tempfile.TemporaryDirectory(prefix="edgeres-") as name:
        for attempt in range(_ATTEMPTS):
            found = chooser.choose(goal)
            pruned = checkpoint_without(source, found.best.dropped, Path(name) / f"{attempt}.safetensors")
            checked = check_prediction(pruned, source, table, folder=Path(name), target=wanted)
            log.info("%s: %s", ", ".join(found.best.dropped), checked.line())
            missing_ms = checked.missing_ms(wanted)
            if missing_ms == 0:
                return found, checked
            goal = replace(goal, needed=found.best.gain + missing_ms)
            nearest = min(nearest or checked, checked, key=lambda one: one.missing_ms(wanted))
            if not goal.is_reached(frozenset(goal.useful(chooser.candidates))):
                break
    assert nearest is not None
    raise InputError(
        f"--target-latency {wanted}: not met by {'the clock' if nearest.is_measured else 'the table'}; best reached"
        f" {nearest.reached_ms:.3f} ms ({nearest.share:.3f} of the whole) without {', '.join(nearest.dropped)}"
    )


def _shares_of(spec: ModelSpec, config: PruneConfig) -> list[str]:
    """What a share such as 0.8x is taken of, where the network lacks modules already."""
    goals = [
        f"--{name} {text}" for name, text in (("macs", config.macs), ("target-latency", config.target_latency)) if text
    ]
    if not spec.dropped or not goals or not goals[0].lower().endswith("x"):
        return []
    return [f"{goals[0]} is taken of the network given, which already lacked {len(spec.dropped)} modules"]


def _record_prediction(recorder: Recorder, table: LatencyTable, spec: ModelSpec, chosen: tuple[str, ...]) -> None:
    before, after = predicted_ms(table, spec.dropped), predicted_ms(table, (*spec.dropped, *chosen))
    recorder.results["predicted_ms"] = after.model_dump()
    recorder.notes.append(
        f"by the latency table {before.value:.3f} ms become {after.value:.3f} ms"
        f" ({after.value / before.value:.3f}; {table.runtime}{', INT8' if table.is_int8 else ''}, batch"
        f" {table.conditions.batch})"
    )


def _how_long(recovery: dict[str, object]) -> str:
    return f": {recovery['images']} train images, {recovery['steps']} steps, {recovery['duration_s']:.0f} s"


def _notes(spec: ModelSpec, chosen: tuple[str, ...]) -> list[str]:
    kinds = {info.name: info.kind for info in modules_of(spec)}
    notes = [
        f"dropped {', '.join(chosen)}; {len(kinds) - len(spec.dropped) - len(chosen)} of {len(kinds)} modules left"
    ]
    if projections := [name for name in chosen if kinds[name] == "projection"]:
        notes.append(f"of {', '.join(projections)} the shortcut and the final activation stay (shapes change there)")
    return notes
