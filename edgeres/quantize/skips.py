"""Which skips stay float so that the logits keep a signal-to-noise ratio: the cheapest set that is enough.

Every INT8 skip rounds the residual stream once more, with 7 bits behind a ReLU; in a deep network this is most of the
noise. A module whose skip stays float keeps its INT8 convolutions: its addition ends in float16 (float32 in a file
without float16), and the input of the next convolution is quantized by a kernel of its own. What that takes was not
measured on hardware, so a skip's cost is the number of values that are moved so.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch

from edgeres.core.errors import StageError
from edgeres.core.progress import track
from edgeres.graph.blocks import skips_in
from edgeres.graph.execute import GraphNetwork
from edgeres.graph.view import GraphView
from edgeres.quantize.decision import Decision
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.partial import Images, PlacementArgs, QuantizedNetwork, batches_of
from edgeres.quantize.search import HeldOut, KeptUnit, MixedChoice, Search


def choose_float_skips(
    model: onnx.ModelProto, args: PlacementArgs, decision: Decision, *, rank: Images, judge: Images, min_sqnr: float
) -> MixedChoice:
    """The skips to leave float so that logits keep `min_sqnr` dB against float on the images `judge` (N, C, H, W).

    `rank`: other images, which say what each skip does; neither are those the scales come from.

    Raises:
        InputError: `decision` has no bound for a tensor.
        StageError: the noise is larger even with every skip float.
    """
    network = QuantizedNetwork(model, args, decision)
    search = Search(network, HeldOut(judge), lambda fidelity: fidelity.sqnr_db >= min_sqnr)
    noise, costs = _noise(network, rank), _values(model, network.skips, rank[:1])
    order = sorted(network.skips, key=lambda skip: -noise[skip] / costs[skip])
    keep = search.cheapest(order)
    if keep is None:
        most = search.fidelity(frozenset(order)).sqnr_db
        raise StageError(
            f"quantize: the logits keep {most:.1f} dB with every skip float, less than {min_sqnr:g}; ask for less,"
            " or add --improve channels,rounding, or --keep modules"
        )
    rows = tuple(KeptUnit(skip, costs[skip], noise[skip], skip in keep) for skip in network.skips)
    reason = _reason(search, keep, costs=costs, min_sqnr=min_sqnr)
    return MixedChoice(tuple(skip for skip in network.skips if skip in keep), rows, search.fidelity(keep), reason)


def _noise(network: QuantizedNetwork, images: Images) -> dict[str, float]:
    """Skip -> what its rounding alone adds to the noise of the logits, as a share of their power."""
    every = frozenset(network.skips)
    without, alone = Fidelity(), {skip: Fidelity() for skip in network.skips}
    batches = batches_of(images, None)
    for x, _ in track(batches, "skips", len(batches)):
        reached = network.reached(x, every)
        without.add(network.reference(x), network.logits(x, every), None)
        for skip, fidelity in alone.items():
            fidelity.add(network.reference(x), network.logits_from(reached, skip, every - {skip}), None)
    return {skip: max(one.noise_power - without.noise_power, 0.0) / one.power for skip, one in alone.items()}


def _values(model: onnx.ModelProto, skips: tuple[str, ...], image: Images) -> dict[str, float]:
    """Skip -> number of values it holds for one image."""
    view = GraphView(model)
    nodes, sums = {node.name: node for node in view.nodes}, skips_in(view)
    outputs = {skip: str(nodes[sums[skip]].output[0]) for skip in skips}
    with torch.inference_mode():
        values = GraphNetwork(model).values(torch.from_numpy(image), list(outputs.values()))
    return {skip: float(values[output].numel()) for skip, output in outputs.items()}


def _reason(search: Search, keep: frozenset[str], *, costs: Mapping[str, float], min_sqnr: float) -> str:
    before, after = search.fidelity(frozenset()), search.fidelity(keep)
    start = f"logits keep {before.sqnr_db:.1f} dB with every skip in INT8, {min_sqnr:g} asked for"
    if not keep:
        return f"{start}: no skip is left float ({before.n} train images)"
    share = sum(costs[skip] for skip in keep) / sum(costs.values())
    return (
        f"{start}; left float: {', '.join(skip for skip in costs if skip in keep)} ({len(keep)} of {len(costs)} skips,"
        f" {share:.0%} of their values): {after.sqnr_db:.1f} dB on the {after.n} train images they were"
        " chosen by; the time this takes was never measured on hardware"
    )
