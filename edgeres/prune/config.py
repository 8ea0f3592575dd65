"""Options of `edgeres prune` and `recover`: how to choose, how far to go, how to recover. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr
from typing_extensions import Self

from edgeres.core.amounts import macs_from, target_from
from edgeres.core.config import Config, Record, read_by
from edgeres.core.errors import InputError
from edgeres.core.names import DATA_NAMES
from edgeres.core.progress import seconds_from
from edgeres.core.records.recovery import WITHOUT_STEPS
from edgeres.train.config import LoopConfig

Score = Literal["kl", "adaptive", "solved"]
GOALS = ("drop", "modules", "target_latency", "macs", "max_loss")
FEWEST_TO_CHOOSE_ON = 16
Method = Literal["bn", "solve", "mimic", "distill", "finetune"]
USUAL_EPOCHS = 10
MOST_EPOCHS = 1000  # with a budget, which is what ends it
OF_THE_RESULT, AFTER_REPAIRS = "of the result", "after repairs"  # points that a choice reports
FEWEST_TO_RECOVER_ON = 8  # a batch norm needs a batch


class Timetable(Record):
    """What the clock decided in a recovery, by the results of its report: a run made again does not ask it."""

    planned_steps: int = 0
    end_moved: tuple[tuple[int, int], ...] = ()
    out_of_time: tuple[str, ...] = ()


class RecoverConfig(LoopConfig):
    """What to learn from, and for how long; nothing is selected on val."""

    _course: Timetable | None = PrivateAttr(None)

    gone: ClassVar[dict[str, Any]] = dict.fromkeys(("mimic", "distill", "finetune"), 1.0)

    data: str = Field(description=DATA_NAMES)
    teacher: Path | None = Field(
        default=None, description="checkpoint before pruning; default: the pruned one's source"
    )
    method: tuple[Method, ...] = Field(default=("solve", "mimic"), description="of bn, solve, mimic, distill, finetune")
    images: int = Field(
        default=2000,
        gt=0,
        description="of train, each class in its share; all if there are fewer; only finetune learns from labels",
    )
    budget: str | None = Field(default=None, description="time for all of it: 90s, 3m, 1h")
    scope: Literal["behind", "all"] = Field(
        default="behind", description="train what comes after the first dropped module, or all"
    )
    temperature: float = Field(default=2.0, gt=0, description="softening of the logits")
    epochs: int = Field(
        default=0, ge=0, description="passes over the images at most; 0: 10, or what fits into the budget"
    )
    batch: int = Field(default=64, ge=1, description="images per step")
    lr: float = Field(default=0.01, gt=0, description="learning rate after the warm-up")
    warmup_epochs: float = Field(
        default=0.5, ge=0, description="epochs of linear warm-up, a tenth of the steps at most"
    )
    download: bool = Field(default=False, description="fetch the data set if it is not here")

    _reads_budget = read_by(seconds_from, "budget")

    @property
    def trains(self) -> bool:
        """Whether any method takes gradient steps."""
        return not WITHOUT_STEPS.issuperset(self.method)

    @property
    def imitates(self) -> bool:
        """Whether a teacher is needed."""
        return bool({"solve", "mimic", "distill"} & {*self.method})

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds."""
        return None if self.budget is None else seconds_from(self.budget)

    @property
    def course(self) -> Timetable | None:
        """What is made again, whatever the clock says."""
        return self._course

    def following(self, results: Mapping[str, Any]) -> RecoverConfig:
        """The same recovery as in the report with these results, to the step."""
        copy, late = self.model_copy(), (results.get("solved") or {}).get("out_of_time", ())
        known = {name: results[name] for name in ("planned_steps", "end_moved") if name in results}
        copy._course = Timetable(out_of_time=late, **known)
        return copy

    def check(self) -> None:
        """Each method is named once, and there are images."""
        if not self.method or len({*self.method}) < len(self.method):
            raise InputError(
                f"--method {','.join(self.method)}: name each of bn, solve, mimic, distill, finetune at most once"
            )
        if self.images < FEWEST_TO_RECOVER_ON:
            raise InputError(f"--images {self.images} are too few to recover on; take {FEWEST_TO_RECOVER_ON} or more")
        if self.teacher is not None and not self.teacher.is_file():
            raise InputError(f"--teacher {self.teacher} does not exist")


class ChoiceConfig(Config):
    """What prune and its sweep have in common; only training images are looked at."""

    incidental: ClassVar[frozenset[str]] = frozenset({"download", "cache_mib"})
    gone: ClassVar[dict[str, Any]] = {"search": "beam", "swaps": True, "screen": 250}

    _courses: dict[int, Mapping[str, Any]] = PrivateAttr(default_factory=dict)

    keep: tuple[str, ...] = Field((), description="never drop these")
    data: str | None = Field(None, description=DATA_NAMES)
    images: int = Field(2000, gt=0, description="of train, to choose and to recover on; all if there are fewer")
    choose_on: int = Field(1000, gt=0, description="of these images, to choose on")
    score: Score | None = Field(
        None, description="what a set costs; default: kl, solved if --recover solve follows, adaptive if another does"
    )
    width: int | None = Field(
        None, ge=1, description="sets the beam carries from one size to the next; default: 4, 1 if each is repaired"
    )
    cache_mib: int = Field(512, ge=0, description="memory for activations that sets share")
    batch: int = Field(250, gt=0, description="images at a time")
    recover: tuple[Method, ...] = Field(
        (), description="bring back: bn, solve, mimic, distill, finetune; default: not at all"
    )
    budget: str | None = Field(None, description="time for recovering: 90s, 3m, 1h")
    epochs: int = Field(0, ge=0, description="passes while recovering; 0: 10, or what fits into the budget")
    seed: int = Field(0, ge=0, description="of the choice of images and of recovering")
    download: bool = Field(False, description="fetch the data set if it is not here")

    _reads_budget = read_by(seconds_from, "budget")

    def check(self) -> None:
        """Images are named and enough, and a budget is for something."""
        for option, value in (("budget", self.budget), ("epochs", self.epochs)):
            if value and not self.recover:
                raise InputError(f"--{option} {value} is for recovering: say how, --recover solve,mimic")
        if self.recover:
            self.recovery().check()
        if self.data is not None and min(self.images, self.choose_on) < FEWEST_TO_CHOOSE_ON:
            few, option = min((self.images, "images"), (self.choose_on, "choose-on"))
            raise InputError(f"{few} images are too few to choose on: --{option} {FEWEST_TO_CHOOSE_ON} or more")

    @property
    def ranks_by(self) -> Score:
        """The score: what is left as it is, is judged as it is."""
        if self.score is not None or not self.recover:
            return self.score or "kl"
        return "solved" if "solve" in self.recover else "adaptive"

    @property
    def carried(self) -> int:
        """The width of the beam."""
        return self.width or (1 if self.ranks_by == "solved" else 4)

    @property
    def points_are(self) -> str:
        """Of which network the points are that a choice reports."""
        if self.ranks_by == "solved":
            return AFTER_REPAIRS
        return "before recovery" if self.recover else OF_THE_RESULT

    @property
    def is_again(self) -> bool:
        """Whether the clock has nothing to say, as what it said is known."""
        return bool(self._courses)

    def following(self, results: Mapping[str, Any]) -> Self:
        """The same recoveries as in the report with these results, to the step."""
        copy, tries = self.model_copy(), results.get("tries", ())
        copy._courses = {one["count"]: one["recovery"] for one in tries if one.get("recovery")}
        if not tries and results.get("recovery"):
            copy._courses = {len(results["chosen"]): results["recovery"]}
        return copy

    def recovery(self, dropped: int = 0) -> RecoverConfig:
        """What `recover` is asked for after dropping so many; what is not named here as `edgeres recover` has it."""
        asked = RecoverConfig(
            data=self.data or "",
            method=self.recover,
            images=self.images,
            budget=self.budget,
            epochs=self.epochs,
            seed=self.seed,
            download=self.download,
        )
        return asked.following(self._courses[dropped]) if dropped in self._courses else asked


class PruneConfig(ChoiceConfig):
    """Exactly one goal: a number, names, a latency, a share of the work, or a loss that is not to be passed."""

    drop: int | None = Field(None, gt=0, description="number of modules to drop")
    modules: tuple[str, ...] = Field((), description="drop exactly these, by name")
    target_latency: str | None = Field(None, description="3ms or 0.8x of the whole, by the latency table")
    macs: str | None = Field(None, description="0.5x or 60M multiply-accumulates an image")
    max_loss: float | None = Field(
        None, gt=0, le=100, description="points of top-1 that may go, after recovering, on train images not used"
    )
    latency: Path | None = Field(None, description="latency table; default: the run's newest for this network")

    _reads_target_latency, _reads_macs = read_by(target_from, "target_latency"), read_by(macs_from, "macs")

    def check(self) -> None:
        """One goal, and images to choose on if a choice is left."""
        given = [name for name in GOALS if getattr(self, name) not in (None, ())]
        if len(given) != 1:
            shown = " and ".join("--" + name.replace("_", "-") for name in given) or "none"
            raise InputError(
                "say exactly one of --drop K, --modules layer2.1,layer3.4, --target-latency 3ms, --macs 0.5x,"
                f" --max-loss 0.5 (or --sweep 1..12); got {shown}"
            )
        if both := sorted({*self.modules} & {*self.keep}):
            raise InputError(f"{', '.join(both)} cannot be both in --modules and in --keep")
        if self.data is None and (not self.modules or self.recover):
            what = "recovering" if self.modules else "choosing modules"
            raise InputError(f"{what} needs images: --data folder:PATH (its train split is used)")
        super().check()


class SweepConfig(ChoiceConfig):
    """A range of numbers of modules, each judged on val and timed."""

    sweep: str = Field(description="numbers of modules to drop, from..to: 1..12")

    _reads_sweep = read_by(lambda text: counts_from(text), "sweep")

    def check(self) -> None:
        """There are images."""
        if self.data is None:
            raise InputError("choosing modules needs images: --data folder:PATH (its train split is used)")
        super().check()


def counts_from(text: str) -> range:
    """`1..12` -> 1, 2, ..., 12; raises InputError for anything else."""
    first, dots, last = (part.strip() for part in text.partition(".."))
    if not (dots and first.isdigit() and last.isdigit()):
        raise InputError(f"--sweep {text}: say a range such as 1..12")
    low, high = int(first), int(last)
    if low < 1:
        raise InputError(f"--sweep {text}: begin with 1 module (0 is the whole network, which is in every sweep)")
    if low > high:
        raise InputError(f"--sweep {text}: the range runs backwards; say {high}..{low}")
    return range(low, high + 1)
