"""`auto`: for each tensor the calibrator whose bound disturbs the logits least, confirmed on held-out images.

    error(t, m) = sum (z - z_float)^2   with tensor t alone quantized, by the bound of method m

The mixture is kept only if it beats every fixed method on images that it was not chosen on; else the best of those is
taken. So on these images it is never worse than the best fixed method.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor

from edgeres.core.distances import kept
from edgeres.core.progress import track
from edgeres.evaluate.distance import evened
from edgeres.graph.execute import GraphNetwork
from edgeres.quantize.config import AUTO
from edgeres.quantize.decide import Chosen
from edgeres.quantize.decision import Decision
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.placement import Placement
from edgeres.quantize.simulate import Images, Simulation, batch_for, batches_of, fake_quantizer, live_after

HELD_OUT_SHARE, _MOST_HELD_OUT = 0.25, 256  # of the calibration images
_CHOOSING_IMAGES = 128  # errors of one tensor differ by far more between methods than between samples of this size
_BATCH = 64

Bounds = Mapping[str, float]


def auto(model: onnx.ModelProto, placement: Placement, bounds: Mapping[str, Bounds], *, images: Images) -> Chosen:
    """Chooses among `bounds` (method -> tensor -> amax) on calibration images float32 (N, C, H, W).

    Tensors that the placement does not observe get the bounds of the best method for all. The results: `auto`, or the
    fixed method that was better; logit SQNR on the held-out images, of every method and of `auto`; each tensor's
    method.
    """
    chosen_on, held_out = held_out_parts(images)
    errors = tensor_errors(model, placement, bounds, images=chosen_on[:_CHOOSING_IMAGES])
    method_of = {tensor: min(by_method, key=lambda name: by_method[name]) for tensor, by_method in errors.items()}
    mixed = {tensor: bounds[method][tensor] for tensor, method in method_of.items()}
    candidates = {**bounds, AUTO: mixed}
    found = decibels_of(model, placement, {name: Decision(one) for name, one in candidates.items()}, images=held_out)
    chosen = max(found, key=lambda name: found[name])  # a tie goes to the fixed method, which comes first
    best = max(bounds, key=lambda name: found[name])
    figures = f"{found[AUTO]:.2f} dB against {found[best]:.2f} dB of {best}"
    note = f"auto: the best method of each tensor, {figures} on held-out calibration images"
    if chosen != AUTO:
        method_of = dict.fromkeys(placement.observed, chosen)
        note = f"auto: {best} for all tensors, the best method of each was no better: {figures}"
    results = {
        "auto": chosen,
        "held_out_sqnr_db": {name: round(value, 2) for name, value in found.items()},
        "method_of": method_of,
    }
    return Chosen(Decision({**bounds[best], **candidates[chosen]}), results=results, notes=[note])


def tensor_errors(
    model: onnx.ModelProto, placement: Placement, bounds: Mapping[str, Bounds], *, images: Images
) -> dict[str, dict[str, float]]:
    """error(t, m) relative to the power of the float logits: every observed tensor t, every method m.

    A tensor's error is computed from there on; equal bounds of two methods are tried once.
    """
    network = GraphNetwork(model)
    fronts = {name: live_after(network, name) for name in placement.observed}
    wanted = sorted({name for front in fronts.values() for name in front} | {network.output})
    errors: dict[str, dict[str, float]] = {name: dict.fromkeys(bounds, 0.0) for name in placement.observed}
    batch = batch_for(images, _BATCH)
    with torch.inference_mode():
        for x in track(batches_of(images, batch), "auto", -(-len(images) // batch)):
            network.readers = {}
            values = network.run({network.input: x}, wanted)
            logits = values[network.output]
            even = evened(logits, network.sizes)
            for tensor, by_method in errors.items():
                feeds = {name: values[name] for name in fronts[tensor]}
                noise: dict[float, float] = {}
                for method in bounds:
                    amax = bounds[method][tensor]
                    if amax not in noise:
                        points = [point for point in placement.points if point.scale_of == tensor]
                        network.substitutes = {point.tensor: fake_quantizer(amax) for point in points}
                        network.readers = {reader: point.tensor for point in points for reader in point.readers}
                        changed = network.run(feeds, [network.output])[network.output]
                        noise[amax] = float(((changed - logits).square() / even).sum())
                    by_method[method] += noise[amax]
    return errors


def decibels_of(
    model: onnx.ModelProto, placement: Placement, candidates: Mapping[str, Decision], *, images: Images
) -> dict[str, float]:
    """SQNR of the logits of `images` under each of the `candidates`, against the float model's."""
    network = GraphNetwork(model)
    reference = logits_of(network, images)
    simulated = {name: Simulation(model, placement, decision) for name, decision in candidates.items()}
    return {
        name: fidelity_of(reference, logits_of(one, images), network.sizes).sqnr_db for name, one in simulated.items()
    }


def closest_of(
    model: onnx.ModelProto, placement: Placement, candidates: Mapping[str, Decision], *, what: str, images: Images
) -> Chosen:
    """The candidate whose logits of `images` are closest to float's, of equal ones the first; the note is of `what`."""
    decibels = decibels_of(model, placement, candidates, images=images)
    best = max(decibels, key=lambda name: decibels[name])
    figures = ", ".join(f"{value:.2f} dB {name}" for name, value in decibels.items())
    return Chosen(candidates[best], notes=[f"{what}: taken {best} ({figures}, on held-out calibration images)"])


def logits_of(network: GraphNetwork | Simulation, images: Images) -> Tensor:
    """What is `kept` of the logits (N, K) of all images."""
    with torch.inference_mode():
        return torch.cat([kept(network(x), network.sizes) for x in batches_of(images, _BATCH)])


def fidelity_of(reference: Tensor, logits: Tensor, sizes: tuple[int, ...] = ()) -> Fidelity:
    """How far `logits` are from `reference`, (N, K) each, of several outputs by their `sizes`."""
    fidelity = Fidelity(sizes=sizes)
    fidelity.add(reference, logits)
    return fidelity


def held_out_parts(images: Images) -> tuple[Images, Images]:
    """(all but the last quarter, 256 at most, to choose on, those to confirm on); images are in random order."""
    n = min(max(1, round(HELD_OUT_SHARE * len(images))), _MOST_HELD_OUT)
    return images[:-n], images[-n:]
