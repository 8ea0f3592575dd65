"""The plan: which sets of modules may go, in the order of what they save, and what is predicted of each; plan.toml.

    model_sha256 = "..."        of the network it is for
    precision = "int8"          the one that was priced
    images = 250                of train, that losses were predicted on

    [[tries]]
    drop = ["layer1.3", "layer2.4"]
    ratio = [0.46, 0.44, 0.48]  of the whole float network's latency: what modules cost, how far one session knows it
    lost = 0.4                  points, after no more than the modules right behind the gaps were refitted

A plan may be edited: `ratio` and `lost` of a set may be left out, they only say where to begin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, field_validator

from edgeres.core.config import Config, config_from, toml_from
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, fixed
from edgeres.core.records.frontier import Precision

PLAN_NAME = "plan.toml"
_INTERVAL = 3
_ORDER = "they say which set is faster, not by how much; the clock decides"
_BY_PROFILE = f"added up from the profile of one engine, and every other is fused anew: {_ORDER}"
_IN_DOUBT = f"added up from a doubtful session (see the warnings): {_ORDER}"
_BY_NETWORKS = (
    "added up from what each module costs: brackets hold what one session did not know of that sum, not what another"
    " finds on a machine that is busier or less; the clock decides"
)


class Shortened(NamedTuple):
    """What the network is to lack, and the time, as `90s`, in which the rest is trained after its refit if at all."""

    dropped: tuple[str, ...] = ()
    refined: str = ""

    @property
    def name(self) -> str:
        """As one string."""
        return " ".join((*sorted(self.dropped), self.refined))


WHOLE = Shortened()


class PlannedSet(Config):
    """One set to be tried."""

    drop: tuple[str, ...] = Field(min_length=1)
    ratio: tuple[float, ...] = Field((), description="predicted, low, high")
    lost: float | None = None

    @field_validator("drop")
    @classmethod
    def _are_different(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len({*names}) < len(names):
            raise ValueError(f"names a module twice: {', '.join(names)}")
        return names

    @field_validator("ratio")
    @classmethod
    def _is_interval(cls, figures: tuple[float, ...]) -> tuple[float, ...]:
        if len(figures) not in {0, 1, _INTERVAL}:
            raise ValueError(f"has {len(figures)} figures; write value, low, high, or the value alone, or leave it out")
        return figures

    @property
    def predicted(self) -> Interval | None:
        """Share of the whole float network's latency."""
        if len(self.ratio) == _INTERVAL:
            return Interval(**dict(zip(("value", "low", "high"), self.ratio, strict=True)))
        return Interval.around(self.ratio[0]) if self.ratio else None


class Plan(Config):
    """Content of plan.toml, the mildest set first."""

    model_sha256: str
    precision: Precision = "fp32"
    images: int = 0
    tries: tuple[PlannedSet, ...] = ()

    def lines(self, lost_are: str = "points", *, by_profile: bool = False) -> Iterable[str]:
        """What will be tried, a line a set; `by_profile`: what modules cost was told by one engine's."""
        width = len(lost := f"{lost_are} lost") + 3
        yield f"{'drop':>4}   {'of whole, predicted':<24}{lost:<{width}}the modules"
        for one in self.tries:
            share = (
                f"{one.ratio[0]:.3f}" if len(one.ratio) == 1 else one.predicted.text(".3f") if one.predicted else "–"
            )
            lost = fixed(one.lost, 1) if one.lost is not None else "–"
            yield f"{len(one.drop):4}   {share:<24}{lost:<{width}}{', '.join(one.drop)}"
        is_unbounded = any(len(one.ratio) == 1 for one in self.tries)
        told = _BY_NETWORKS if not is_unbounded else _BY_PROFILE if by_profile else _IN_DOUBT
        yield (
            f"shares are of the whole float network's latency, in {self.precision}, {told}; {lost_are} on {self.images}"
            " train images, refitted right behind the gaps only: a whole refit loses less"
        )


def plan_in(path: Path) -> Plan:
    """The plan in the file; raises InputError for one without tries, or what cannot be read."""
    plan = config_from(Plan, toml_from(path), str(path))
    if not plan.tries:
        raise InputError(f"{path} has no [[tries]]: nothing is to be tried; make one: edgeres optimize ... --plan-only")
    return plan


def plan_from(path: Path, model_sha256: str) -> Plan:
    """The same; raises InputError for another network's."""
    plan = plan_in(path)
    if plan.model_sha256 != model_sha256:
        raise InputError(
            f"{path} is a plan for another network (sha256 {plan.model_sha256[:12]}..., this one is"
            f" {model_sha256[:12]}...); make one: edgeres optimize ... --plan-only"
        )
    return plan


def toml_text(plan: Plan) -> str:
    """The plan as TOML that reads back to the same."""
    lines = ["# edgeres optimize MODEL --plan plan.toml: take sets out, or change their modules"]
    lines += [f"{key} = {json.dumps(getattr(plan, key))}" for key in ("model_sha256", "precision", "images")]
    for one in plan.tries:
        values = one.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        lines += ["", "[[tries]]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"
