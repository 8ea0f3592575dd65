"""Quantization-aware training: the folded float graph learns under the fake quantization it will be written with.

It starts from the bounds of a scale table, batch norms are folded already, and weights, biases and bounds are trained
together against the float graph's own outputs, as far apart as their task says (`core.distances`); labels are optional.
A part of the train images is held out: the weights closest to float there are kept (with labels, those with the
smallest sum of both losses), so that on these images the result is never worse than PTQ. val is never looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from edgeres.core.artifacts import SCALED_KEY, OnnxModel
from edgeres.core.distances import kept
from edgeres.core.errors import InputError
from edgeres.core.records.scales import ScaleTable
from edgeres.core.spec import Task
from edgeres.core.stage import Recorder, StageResult
from edgeres.data import Split, dataset_for
from edgeres.evaluate.distance import distance_for
from edgeres.graph.execute import GraphNetwork
from edgeres.models.network import Network
from edgeres.quantize.auto import logits_of
from edgeres.quantize.config import FEWEST_TO_LEARN, QUICK, QatConfig
from edgeres.quantize.decide import CalibrationImages, Chosen, bounds_by
from edgeres.quantize.decision import Decision
from edgeres.quantize.improving import improved
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import ALL_INT8, Placement, placement_of
from edgeres.quantize.profiles import set_metadata
from edgeres.quantize.simulate import Simulation, batches_of
from edgeres.quantize.stage import DEAD_AMAX, begun, moved_notes, write_quantized
from edgeres.train.batches import batches_for
from edgeres.train.loop import Fitted, Training, fit
from edgeres.train.objectives import Objective, apart
from edgeres.train.schedule import Plan
from edgeres.train.state import clear_state

FILE_NAME = "model.int8.onnx"
_HELD_OUT = 0.1
_MOST_HELD_OUT = 500
_FEW_HELD_OUT = 100  # fewer choose the weights by the luck of single images
_LOOKS = 10
_TEMPERATURE = 2.0  # softening of the logits
_WARMUP_SHARE = 0.1  # of the steps, at most


def qat(source: OnnxModel, config: QatConfig, out_dir: Path) -> StageResult[OnnxModel]:
    """Writes out_dir/model.int8.onnx; interrupted, the same call goes on from out_dir/state.pt.

    Raises:
        InputError: no scale table, one of another model, a model that is quantized already, too few train images.
        StageError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    recorder = Recorder("qat", config, source)
    config.check()
    source, table = begun(source, config.scales, config.method, ALL_INT8)
    placement = placement_of(source.proto)
    start = _start(source, table, placement, config)
    decision, fitted, judged = _trained(source, placement, start.decision, config=config, out_dir=out_dir)
    path = out_dir / FILE_NAME
    model = with_pairs(source.proto, placement, decision)
    if start.is_scaled:
        set_metadata(model, SCALED_KEY, "1")
    write_quantized(model, source, path)
    clear_state(out_dir)
    recorder.results |= start.results
    recorder.notes += [*moved_notes(source), *start.notes]
    _record(recorder, fitted, judged, config)
    output = OnnxModel(path)
    return StageResult(output, recorder.finish(output))


def _trained(
    source: OnnxModel, placement: Placement, start: Decision, *, config: QatConfig, out_dir: Path
) -> tuple[Decision, Fitted, tuple[str, int]]:
    """(`start` with the best weights, how the training went, judged by what on how many); its state is in `out_dir`."""
    learn, held_out = _parts(source, config)
    config = config.model_copy(update={"batch": min(config.batch, len(learn))})
    teacher = GraphNetwork(source.proto).requires_grad_(False)
    simulation = Simulation(source.proto, placement, start)
    plan, measure = _plan(teacher, (held_out, source), len(learn), config)
    data = batches_for(learn, source.spec, config)
    objective = _objective(teacher, source.spec.task, config)
    fitted = fit(Training(cast("Network", simulation), objective, data, config, out_dir), plan)
    simulation.cpu().load_state_dict(fitted.weights)
    return simulation.decision(), fitted, (measure, len(held_out))


def _start(source: OnnxModel, table: ScaleTable, placement: Placement, config: QatConfig) -> Chosen:
    """The table's bounds by the method; tensors that were always zero get a usual one."""
    bounds = bounds_by(table, config.method, placement.observed)
    start = Chosen(Decision({name: amax or DEAD_AMAX for name, amax in bounds.items()}))
    if config.effort == QUICK:
        return start
    return improved(source, placement, start, CalibrationImages(source, table, config.data), effort=config.effort)


def _parts(source: OnnxModel, config: QatConfig) -> tuple[Split, Split]:
    """(images to learn from, images held out)."""
    train = dataset_for(source.spec, config.data, download=config.download).train
    if len(train) < FEWEST_TO_LEARN:
        raise InputError(f"{config.data} has {len(train)} train images; training needs {FEWEST_TO_LEARN} or more")
    if config.finetune:
        source.spec.check_classes("--finetune")
        train.check_labelled("--finetune")
    sample = train.sample(min(config.images, len(train)), config.seed)
    n = min(round(_HELD_OUT * len(sample)), _MOST_HELD_OUT)
    return sample.subset(range(n, len(sample))), sample.subset(range(n))


def _plan(teacher: Any, held_out: tuple[Split, OnnxModel], learned: int, config: QatConfig) -> tuple[Plan, str]:
    """(how many steps, with a look at the distance from float on held-out images now and then, what that is called)."""
    split, source = held_out
    pieces = list(split.batches(source.spec, config.batch))
    images = np.concatenate([x for x, _ in pieces])
    labels = torch.from_numpy(np.concatenate([y for _, y in pieces]))
    reference = logits_of(teacher, images)
    distance = distance_for(source.spec.task, [reference], teacher.sizes)

    def score(network: Any) -> float:
        device = next(network.parameters()).device
        with torch.inference_mode():
            batches = batches_of(images, -(-len(images) // _LOOKS))
            outputs = torch.cat([kept(network(x.to(device)), teacher.sizes).cpu() for x in batches])
        loss = float(functional.cross_entropy(outputs, labels)) if config.finetune else 0.0
        return distance.total(outputs, reference) / len(images) + loss

    per_epoch = learned // config.batch
    steps = config.epochs * per_epoch
    warmup = min(round(config.warmup_epochs * per_epoch), round(_WARMUP_SHARE * steps))
    return Plan(steps, warmup, score=score, look_every=max(1, steps // _LOOKS)), distance.name


def _objective(teacher: Any, task: Task, config: QatConfig) -> Objective:
    def objective(network: Any, images: Any, labels: Any) -> Any:
        outputs = network(images)
        teacher.to(images.device)
        with torch.no_grad():
            goal = teacher(images)
        loss = apart(outputs, goal, task, _TEMPERATURE, sizes=teacher.sizes)
        return loss + functional.cross_entropy(outputs, labels) if config.finetune else loss

    return objective


def _record(recorder: Recorder, fitted: Fitted, judged: tuple[str, int], config: QatConfig) -> None:
    """The figures, and what makes the choice of weights doubtful or the training useless."""
    measure, held_out = judged
    (_, first), (best_step, best) = fitted.looks[0], min(fitted.looks, key=lambda look: look[1])
    recorder.results |= fitted.results() | {"held_out_loss": best, "held_out_loss_first": first}
    recorder.results |= {"method": config.method, "held_out": held_out, "best_step": best_step}
    what = f"loss ({measure} from float and cross-entropy)" if config.finetune else f"{measure} from float"
    where = f"on {held_out} held-out train images"
    recorder.notes.append(f"{what} {where}: {first:.2g} before training, {best:.2g} after")
    if held_out < _FEW_HELD_OUT:
        usual = round(_FEW_HELD_OUT / _HELD_OUT)
        found = f"only {held_out} held-out images chose the weights; {usual} --images or more make it sure"
        recorder.warnings.append(found)
    if best >= first:
        recorder.warnings.append(
            "training gained nothing: no weights were better than those it began with, kept as they were; try another"
            " --lr, more --epochs or more --images"
        )
