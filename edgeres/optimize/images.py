"""Which train images are for what: few to choose, refit, train and calibrate on, the others to judge on."""

from __future__ import annotations

from edgeres.core.errors import InputError
from edgeres.data import Split
from edgeres.optimize.config import OptimizeConfig
from edgeres.quantize.config import CalibrateConfig

FEWEST_JUDGED = 200
TRAINING_SHARE = 0.3  # of the budget, for the training of one network
_REFINED_ON, _REFINED_A_SECOND = 2000, 20  # images: as many as `recover` takes unless told, more where there is time


def held_out_of(train: Split, config: OptimizeConfig) -> Split:
    """The images that nothing is chosen, refitted or calibrated on; raises InputError if they are too few to judge."""
    calibration, third = calibration_of(train, config), len(train) // 3
    used = {*train.sample(calibration.images, calibration.seed).ids}
    for most in (config.images, 2 * config.images, refined_on(config)):
        used.update(train.sample(min(most, third), config.seed).ids)
    left = train.subset([place for place, name in enumerate(train.ids) if name not in used])
    if len(left) < FEWEST_JUDGED:
        raise InputError(
            f"{config.data} has {len(train)} train images, of which {len(used)} are chosen, refitted and"
            f" calibrated on: {len(left)} are left to judge on, {FEWEST_JUDGED} are needed; add images"
        )
    return left


def refined_on(config: OptimizeConfig) -> int:
    """Images of train to train on at most: of few, more time than they need is of no use."""
    return max(_REFINED_ON, int(_REFINED_A_SECOND * TRAINING_SHARE * config.budget_s))


def calibration_of(train: Split, config: OptimizeConfig) -> CalibrateConfig:
    """As usual, on a third of the images where they are few."""
    usual = CalibrateConfig(data=config.data)
    return usual.model_copy(update={"images": min(usual.images, max(1, len(train) // 3))})
