"""Options of `edgeres optimize`, and which train images are for what by them. Imports no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from edgeres.core.amounts import Target, target_from
from edgeres.core.config import Config, read_by
from edgeres.core.errors import InputError
from edgeres.core.names import DATA_NAMES
from edgeres.core.progress import seconds_from
from edgeres.data import Split
from edgeres.optimize.plan import plan_in
from edgeres.prune.config import FEWEST_TO_CHOOSE_ON, USUAL_EPOCHS, PruneConfig
from edgeres.quantize.config import CalibrateConfig

_SAFE = 0.98  # of the latency asked for: by so much, and more, sessions of one machine differed
_LEAST_IMAGES = 2 * FEWEST_TO_CHOOSE_ON  # half of them repair what the other half judges
FEWEST_JUDGED = 200
TRAINING_SHARE = 0.3  # of the budget, for the training of one network
_REFINED_ON, _REFINED_A_SECOND = 2000, 20  # images: as many as `recover` takes unless told, more where there is time


class OptimizeConfig(Config):
    """What is to be reached, and the time there is for it."""

    incidental: ClassVar[frozenset[str]] = Config.incidental | {"plan_only"}
    unsaid: ClassVar[frozenset[str]] = frozenset({"plan"})

    data: str = Field(description=f"{DATA_NAMES}; train is used, val is looked at once, for the last table")
    latency: str | None = Field(None, description="what balanced may take: 0.6x of the float network, or 4ms")
    max_loss: float = Field(
        2.0,
        gt=0,
        le=100,
        description="points of top-1 that fast may lose; without labels of other first guesses, of cosine or of error",
    )
    budget: str = Field("30m", description="time for all of it: 3m, 1h; it ends by the clock")
    images: int = Field(
        500, ge=_LEAST_IMAGES, description="of train, to refit on; twice as many, if time allows, to choose modules on"
    )
    keep: tuple[str, ...] = Field((), description="never drop these modules")
    batch: int = Field(1, ge=1, description="images a call where latency is measured")
    threads: int | None = Field(None, ge=1, description="CPU threads; OMP_NUM_THREADS or else all cores if not given")
    seed: int = Field(0, ge=0, description="of the choice of images and the order of turns")
    plan: Path | None = Field(None, description="try the networks of this plan.toml, instead of choosing them")
    plan_only: bool = Field(False, description="choose, write plan.toml and stop")
    download: bool = Field(False, description="fetch the data set if it is not here")

    _reads_budget = read_by(seconds_from, "budget")
    _reads_latency = read_by(partial(target_from, option="--latency"), "latency")

    @property
    def budget_s(self) -> float:
        """The budget in seconds."""
        return seconds_from(self.budget)

    @property
    def target(self) -> Target | None:
        """What `balanced` may take."""
        return None if self.latency is None else target_from(self.latency, "--latency")

    @property
    def aim(self) -> Target | None:
        """What networks are tried and trained for: a little less, as the last session may tell otherwise."""
        return self.target and self.target._replace(value=_SAFE * self.target.value)

    def check(self) -> None:
        """The plan can be read, and one of --plan and --plan-only is given at most."""
        if self.plan is not None and self.plan_only:
            raise InputError("--plan gives a plan, --plan-only makes one; leave one out")
        if self.plan is not None and not self.plan.is_file():
            raise InputError(f"--plan {self.plan} does not exist; make one: edgeres optimize ... --plan-only")
        _ = self.plan and plan_in(self.plan)

    def cut(self, modules: tuple[str, ...], images: int, refined: str = "") -> PruneConfig:
        """What `prune` is asked for so that just these modules go, and what is left is refitted.

        `refined`: the time in which it is refitted and then trained by imitation, for ten epochs at most; how many
        steps the clock allowed is in its report, by which a rerun goes.
        """
        trained = {"recover": ("solve", "mimic"), "budget": refined, "epochs": USUAL_EPOCHS}
        how = trained if refined else {"recover": ("solve",)}
        own = {"modules": modules, "data": self.data, "images": images, "seed": self.seed, "download": self.download}
        return PruneConfig(**own, **how)


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
