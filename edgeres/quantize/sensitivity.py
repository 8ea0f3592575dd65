"""What quantizing each unit of a network does to its logits: only this unit in INT8, and everything but it.

What lies before the unit is computed once. For n units this costs two passes over the images and 2 n suffixes, about
n + 2 passes. Units and the figures: see `partial` and `fidelity`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from edgeres.core.progress import track
from edgeres.quantize.decision import Decision
from edgeres.quantize.fidelity import Fidelity
from edgeres.quantize.partial import Images, Labels, PlacementArgs, QuantizedNetwork, batches_of


@dataclass(frozen=True)
class Sensitivity:
    """`alone`: only `unit` in INT8; `spared`: everything in INT8 but `unit`."""

    unit: str
    alone: Fidelity
    spared: Fidelity

    @property
    def row(self) -> dict[str, str | float | None]:
        """One line of a table."""
        both = {"alone": self.alone, "spared": self.spared}
        row: dict[str, str | float | None] = {"unit": self.unit}
        for name, fidelity in both.items():
            row |= {
                f"{name}_sqnr_db": fidelity.sqnr_db if fidelity.noise_power else None,
                f"{name}_kl": fidelity.kl,
                f"{name}_disagreement": fidelity.disagreement,
                f"{name}_loss_points": fidelity.loss,
            }
        return row


def sensitivities(
    model: onnx.ModelProto,
    args: PlacementArgs,
    decision: Decision,
    images: Images,
    labels: Labels | None = None,
) -> tuple[Sensitivity, ...]:
    """Of every unit that `args` lets be quantized, on `images` (N, C, H, W): train images, not those of the scales.

    Raises:
        InputError: `decision` has no bound for a tensor.
    """
    probe = QuantizedNetwork(model, args, decision)
    units = probe.units
    found = {unit: (Fidelity(), Fidelity()) for unit in units}
    batches = batches_of(images, labels)
    for x, y in track(batches, "sensitivity", len(batches)):
        everything = probe.reached(x, frozenset(units))
        whole = probe.reached(x, frozenset())
        for unit in units:
            alone = probe.logits_from(everything, unit, frozenset(units) - {unit})
            spared = probe.logits_from(whole, unit, frozenset({unit}))
            for fidelity, logits in zip(found[unit], (alone, spared), strict=True):
                fidelity.add(probe.reference(x), logits, y)
    return tuple(Sensitivity(unit, *both) for unit, both in found.items())
