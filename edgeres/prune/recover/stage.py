"""`edgeres recover`: a pruned network learns to imitate the one it was cut from. `losses` says how.

    bn        batch norms estimated anew, no gradient         mimic     features before pooling
    distill   the teacher's logits                            finetune  the labels
    solve     layers by least squares, no gradient

Given together, batch norms come first, then solving, then one training whose loss is the sum. A part of the train
images is held out: the weights that do best on it are kept, val is never looked at.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from edgeres.core.amounts import counted
from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.core.lineage import advised, check_cut, parents_of
from edgeres.core.processes import together
from edgeres.core.progress import budget_began
from edgeres.core.records.recovery import NOTHING_LEFT, WITHOUT_STEPS, WORSE, marks_in, undone_in
from edgeres.core.runs import StageFolder
from edgeres.core.stage import Recorder, StageResult
from edgeres.data import Split, dataset_for
from edgeres.models.weights import save_checkpoint
from edgeres.prune.config import FEWEST_TO_RECOVER_ON, RecoverConfig
from edgeres.prune.recover.budget import FEWEST_STEPS
from edgeres.prune.recover.planning import Job, Planned, clear_start, prepared, timed_network
from edgeres.train.loop import Fitted, Training, fit
from edgeres.train.schedule import Plan
from edgeres.train.state import clear_state

_FEWEST_TO_SHARE = 50
_OF_TRAINING = ("final_loss", "images_per_s", "first_step", "device", "precision")
_OVERRUN = 1.1  # of a budget: what the steps are planned by is no more certain
_HELD_OUT = 0.1
_HELD_OUT_BETWEEN = (30, 500)  # fewer say nothing, more cost time


@dataclass(frozen=True)
class Recovered:
    """The weights for the pruned network's spec, and what to report."""

    weights: dict[str, Tensor]
    results: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def recover(source: Checkpoint, config: RecoverConfig, out_dir: Path) -> StageResult[Checkpoint]:
    """Writes out_dir/model.safetensors; raises InputError if the teacher is not the same network, less pruned."""
    recorder = Recorder("recover", config, source)
    config.check()
    if config.teacher is None and config.imitates:
        check_cut(source)
        raise InputError(f"say which network {source.path} was cut from: --teacher FILE")
    teacher = None if config.teacher is None else Checkpoint(config.teacher)
    done = recovered(source, teacher, config, out_dir, spent_s=time.perf_counter() - budget_began())
    output = Checkpoint(out_dir / "model.safetensors")
    save_checkpoint(done.weights, source.spec, output.path, stage="recover", parent=source.sha256)
    clear_state(out_dir)
    clear_start(out_dir)
    recorder.results |= done.results
    recorder.notes += done.notes
    recorder.warnings += [*_doubts_on(teacher, source), *done.warnings]
    return StageResult(output, recorder.finish(output))


@together
def recovered(
    source: Checkpoint,
    teacher: Checkpoint | None,
    config: RecoverConfig,
    out_dir: Path,
    *,
    spent_s: float = 0.0,
) -> Recovered:
    """`source` after what `config.method` asks for; interrupted, the same call goes on from what is in `out_dir`.

    The state stays in `out_dir`, whose started.json tells what was spent before. `teacher` may be None if nothing is
    imitated. `spent_s`: of the budget before this call.

    Raises:
        InputError: the teacher is not what `source` was cut from, there are too few images, the budget is too short.
        StageError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    course = config.course
    started_s = time.perf_counter()
    begun_s = started_s - spent_s
    job = _job(source, teacher, config if course is None else config.model_copy(update={"budget": None}), begun_s)
    network, planned = prepared(job, out_dir)
    fitted = None
    if planned.steps:
        until_s = None if job.config.budget_s is None else job.begun_s + job.config.budget_s
        moves = () if course is None else course.end_moved
        plan = Plan(planned.steps, planned.warmup, job.score, planned.look_every, until_s=until_s, moves=moves)
        training = Training(network, job.objective, job.data, job.config, out_dir, refines=planned.refines)
        fitted = fit(training, plan)
    weights = fitted.weights if fitted else network.state_dict()
    results = _results(job, planned, fitted)
    took_s = time.perf_counter() - started_s
    results["duration_s"] = round(took_s + StageFolder(out_dir, 0, "recover").spent_s, 3)
    return Recovered(weights, results, *_remarks(results, config, took_s, source))


def check_budget(whole: Checkpoint, config: RecoverConfig) -> None:
    """Raises InputError if the budget is too short for whatever is left of `whole`: to be called before that is chosen.

    The network to be cut stands for what is left of it, which its own time at least is taken for half of.
    """
    if config.budget is not None:
        timed_network(_job(whole, whole, config, time.perf_counter()))


def _job(source: Checkpoint, teacher: Checkpoint | None, config: RecoverConfig, begun_s: float) -> Job:
    """Raises InputError unless `source` is `teacher` with modules dropped."""
    config.check()
    if teacher is not None and (
        teacher.spec.origin != source.spec.origin or not set(teacher.spec.dropped) <= set(source.spec.dropped)
    ):
        raise InputError(
            f"{teacher.path} ({teacher.spec.variant}, {len(teacher.spec.dropped)} dropped) is not what"
            f" {source.path} ({source.spec.variant}, {len(source.spec.dropped)} dropped) was cut from"
        )
    learn, held_out = _parts(source, config)
    config = config.model_copy(update={"batch": min(config.batch, len(learn))})
    return Job(source, teacher, config, learn, held_out, begun_s)


def _doubts_on(teacher: Checkpoint | None, source: Checkpoint) -> list[str]:
    """A warning if the teacher is another file than the one that `source` says it was cut from."""
    cut_from = source.card.parent if source.card.stage == "prune" else None
    if teacher is None or cut_from in {None, teacher.sha256}:
        return []
    said = (
        f"the teacher {teacher.path} (sha256 {teacher.sha256}) is not the network that {source.path} was cut from"
        f" (sha256 {cut_from}): what is left was not trained with it"
    )
    return [said]


def _parts(source: Checkpoint, config: RecoverConfig) -> tuple[Split, Split | None]:
    """(images to learn from, images held out); None if there are too few to share."""
    train = dataset_for(source.spec, config.data, download=config.download).train
    if len(train) < FEWEST_TO_RECOVER_ON:
        raise InputError(
            f"{config.data} has {len(train)} train images, too few to recover on; {FEWEST_TO_RECOVER_ON} are the least"
        )
    if "finetune" in config.method:
        source.spec.check_classes("--method finetune")
        train.check_labelled("--method finetune")
    sample = train.sample(min(config.images, len(train)), config.seed)
    if len(sample) < _FEWEST_TO_SHARE:
        return sample, None
    fewest, most = _HELD_OUT_BETWEEN
    n = min(max(round(_HELD_OUT * len(sample)), fewest), most)
    return sample.subset(range(n, len(sample))), sample.subset(range(n))


def _results(job: Job, planned: Planned, fitted: Fitted | None) -> dict[str, Any]:
    learnt, held_out = len(job.learn), len(job.held_out or ())
    results: dict[str, Any] = {
        "methods": list(job.config.method),
        "images": learnt + held_out,
        "held_out": held_out,
        "teacher_sha256": job.teacher.sha256 if job.teacher else None,
        "steps": fitted.steps if fitted else 0,
        **planned.figures,
    }
    if planned.solved is not None:
        results["solved"] = planned.solved.model_dump()
    if fitted is not None:
        results |= {"planned_steps": planned.steps, "end_moved": [list(leg) for leg in fitted.moved]}
        results |= {name: getattr(fitted, name) for name in _OF_TRAINING}
        results["epochs"] = round(fitted.steps * job.config.batch / learnt, 3)
    if fitted is not None and fitted.looks:
        best = min(fitted.looks, key=lambda look: look[1])
        results |= {"held_out_best": best[1], "best_step": best[0], "held_out_last": fitted.looks[-1][1]}
        results["looks"] = [list(look) for look in fitted.looks]
        results["stopped_early"] = fitted.steps < (fitted.moved or [(0, planned.steps)])[-1][1]
    return results | {"measure": job.score.measure if job.score else None}


def _remarks(
    results: dict[str, Any], config: RecoverConfig, took_s: float, source: Checkpoint
) -> tuple[list[str], list[str]]:
    """(notes, warnings); `took_s`: this call alone, as a budget counts."""
    notes: list[str] = []
    warnings: list[str] = []
    if results["images"] < config.images:
        notes.append(f"there are {results['images']} train images, fewer than --images {config.images}")
    if config.trains and not results["steps"]:
        steps = ", ".join(name for name in config.method if name not in WITHOUT_STEPS)
        warnings.append(f"no time was left for {steps}: give more than --budget {config.budget}")
    if config.trains and not results["held_out"]:
        notes.append(f"{results['images']} images are too few to hold some out: judged on those it learned from")
    limit_s = config.budget_s if config.course is None else None
    if limit_s is not None and took_s > _OVERRUN * limit_s:
        took = f"took {took_s:.0f} s of a --budget of {config.budget}"
        warnings.append(f"{took}: single steps or looks at held-out images last too long here")
    if (moved := results.get("end_moved")) and moved[-1][1] < results["planned_steps"]:
        fit = f"{moved[-1][1]} of the {results['planned_steps']} planned steps fit into --budget {config.budget}"
        notes.append(f"{fit}: each took longer than when they were planned")
    if results.get("stopped_early"):
        notes.append(
            f"stopped after {results['steps']} of {results['planned_steps']} steps: no gain {_judged_on(results)}"
        )
    if "held_out_best" in results:
        said, is_gain = _gain(results, config)
        (notes if is_gain else warnings).append(said)
    solving = _said_of_solving(results, source)
    notes, warnings = [*solving[0], *notes], [*solving[1], *warnings]
    before, after = results.get("held_out_first"), results.get("held_out_bn")
    if before is not None and after is not None and after > before:
        warnings.append(
            f"estimating batch norms anew made it worse {_judged_on(results)} ({before:.4g} -> {after:.4g});"
            " leave bn out of --method"
        )
    return notes, warnings


def _judged_on(results: dict[str, Any]) -> str:
    return f"on {results['held_out']} held-out train images" if results["held_out"] else "on the images learned from"


def _said_of_solving(results: dict[str, Any], source: Checkpoint) -> tuple[list[str], list[str]]:
    """(notes, warnings) on what became of the modules."""
    if (solved := results.get("solved")) is None:
        return [], []
    refitted, alone, late = (solved[name] for name in ("refitted", "left_alone", "out_of_time"))
    why = undone_in(results).get("solve")
    if why == NOTHING_LEFT:
        return [], [f"solve {why}: no module is left behind the first gap"]
    on, after = _judged_on(results), results.get("held_out_solve")
    notes = [f"solve: {counted(len(refitted), 'module')} refitted"]
    if after is not None:
        before = results.get("held_out_bn", results["held_out_first"])
        change = f"{results['measure']} {on} {before:.4g} before, {after:.4g} after (0 is best)"
        if why == WORSE:
            return [], [f"solve {why} ({change}): weights as before; {_instead_of_solving(source)}"]
        notes = [f"{notes[0]}, {change}"]
    if alone:
        notes.append(f"left as they were, no better on held-out images: {', '.join(alone)}")
    return notes, [f"no time was left to solve {', '.join(late)}: a longer --budget"] if late else []


def _instead_of_solving(source: Checkpoint) -> str:
    """What to do where solve did harm: more images, or solving first if gradients trained `source` since its cut."""
    for parent in parents_of(source.path, source.sha256):
        made = parent.report.results
        if not WITHOUT_STEPS.issuperset(marks_in(made.get("recovery", made))):
            data = str(parent.report.config.get("data") or "")
            again = f"{advised('edgeres recover', parent.path, data=data)} --method"
            of = again if parent.stage == "recover" else "--recover"
            return f"{source.path} was trained back before, and solve comes before training: {of} solve,mimic"
        if parent.stage == "prune":
            break
    return "give it more --images"


def _gain(results: dict[str, Any], config: RecoverConfig) -> tuple[str, bool]:
    """What the training did to the score on held-out images, and whether it was any good."""
    before = results["looks"][0][1]
    best, steps = results["held_out_best"], results["steps"]
    on = _judged_on(results)
    if "gained nothing" not in undone_in(results).values():
        start = results["held_out_first"] if "solve" not in config.method else before
        return f"{results['measure']} {on}: {start:.4g} before, {best:.4g} after (0 is best)", True
    weights = "as they were before the training" if WITHOUT_STEPS & {*config.method} else "as before"
    advice = f"lower the learning rate (--lr of edgeres recover, here {config.lr:g})"
    if {"solve", "distill"} <= {*config.method}:
        advice = "leave distill out: what was solved gains by mimic alone"
    elif config.budget is not None and steps < FEWEST_STEPS:
        advice = f"those are few: a longer --budget, or fewer --images (here {config.budget} and {config.images})"
    said = (
        f"nothing gained in {counted(steps, 'step')} {on} ({before:.4g} before, {results['held_out_last']:.4g} at the"
        f" end): weights {weights}; {advice}"
    )
    return said, False
