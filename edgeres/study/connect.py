"""`edgeres study connect`: what a shortcut should span, and what it should be made of.

    one layer     y = W x + x alone is a linear layer: no advantage over a plain network was seen
    connected     the shortcut serves fully connected layers as it does convolutions
    projections   A zero-pad, B projection where shapes differ, C projection everywhere: the differences are small

Source: He et al. 2015, arXiv 1512.03385, sections 3.2 and 4.1 with table 3 (ResNet-34 on ImageNet, where A, B and C
have 25.03, 24.52 and 24.19 % top-1 error). Here all networks are of the CIFAR kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgeres.core.artifacts import StudyFile
from edgeres.core.errors import InputError
from edgeres.core.stage import Recorder, StageResult
from edgeres.study.claims import Claim, in_words, weakest
from edgeres.study.result import Study, finish
from edgeres.study.seeds import Row, by_seed, difference, judged, shown
from edgeres.study.training import Job, TrainingConfig, spec_on, train_all

if TYPE_CHECKING:
    from edgeres.data import Dataset
    from edgeres.models.network import Network
    from edgeres.train.config import LoopConfig

ADVANTAGE_POINTS = 1.0  # of test error: what is smaller does not count as one; table 3's largest difference is 0.84
_HE_2015 = "He et al. 2015, arXiv 1512.03385"
_PUBLISHED_ERROR_PERCENT = {"A": 25.03, "B": 24.52, "C": 24.19}
_PANELS = {
    "one layer": ("test_error_percent", "layers in a module"),
    "connected": ("train_error_percent", "fully connected"),
    "projections": ("test_error_percent", "shortcuts"),
}
_ABREAST = 11.0  # width of the three panels in inches


class ConnectConfig(TrainingConfig):
    """Which networks; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**TrainingConfig.paper, "depth": 56}

    depth: int = Field(20, ge=8, description="of every network, 6n + 2; with --full 56")
    fc_lr: float = Field(0.02, gt=0, description="learning rate of the fully connected networks")

    def check(self) -> None:
        """The networks exist in every form."""
        from edgeres.models import spec_from_arch

        spec_from_arch(f"resnet{self.depth}cifar", num_classes=2)


@dataclass(frozen=True)
class Kind:
    """One kind of network and the claim (a key of the table above) it serves."""

    claim: str
    name: str
    arch: str
    options: dict[str, str | int]
    change: Callable[[Network], None] | None = None


def connect(source: None, config: ConnectConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    from edgeres.data import dataset_from

    recorder = Recorder("connect", config, source)
    dataset = dataset_from(config.data, download=config.download)
    rows = _all_rows(dataset, config, out_dir)
    claims = claims_of(rows)
    study = Study(
        name="connect",
        claim="; ".join(claim.claim for claim in claims.values()),
        source=f"{_HE_2015}, sections 3.2 and 4.1",
        verdict=weakest(list(claims.values())),
        because=in_words(list(claims.values())),
        setting=config.setting,
        data=dataset.name,
        n=len(dataset.val),
        seeds=tuple(range(config.seeds)),
        networks=tuple(kind.name for kind in kinds_of(config.depth)),
        rows=rows,
        summary={
            "claims": [claim.model_dump() for claim in claims.values()],
            "advantage_points": ADVANTAGE_POINTS,
            "published_resnet34_imagenet_error_percent": _PUBLISHED_ERROR_PERCENT,
        },
    )
    return finish(study, recorder, out_dir, lambda axes: _draw(axes, study), panels=len(_PANELS), width_in=_ABREAST)


def _all_rows(dataset: Dataset, config: ConnectConfig, out_dir: Path) -> tuple[Row, ...]:
    cases = [(kind, seed) for kind in kinds_of(config.depth) for seed in range(config.seeds)]
    jobs = [_job(kind, seed, dataset, config) for kind, seed in cases]
    networks = train_all(jobs, dataset, out_dir)
    return tuple(
        {"claim": kind.claim, "network": kind.name, "seed": seed, **one.figures}
        for (kind, seed), one in zip(cases, networks, strict=True)
    )


def kinds_of(depth: int) -> tuple[Kind, ...]:
    """All kinds of networks of that depth."""
    return (
        Kind("one layer", "plain", f"plain{depth}cifar", {}),
        Kind("one layer", "1 layer", f"resnet{depth}cifar", {"layers": 1}),
        Kind("one layer", "2 layers", f"resnet{depth}cifar", {}),
        Kind("connected", "fc plain", f"fcresnet{depth}", {}, without_skips),
        Kind("connected", "fc residual", f"fcresnet{depth}", {}),
        Kind("projections", "A", f"resnet{depth}cifar", {}),
        *(Kind("projections", option, f"resnet{depth}cifar", {"shortcut": option}) for option in "BC"),
    )


def without_skips(network: Network) -> None:
    """Makes a residual network plain: only the branches are left, projections go."""
    from edgeres.models.resnet_net import Residual

    for name, unit in network.units():
        if not isinstance(unit, Residual):
            raise InputError(f"{name} has no skip to remove")
        unit.skips, unit.downsample = False, None


def claims_of(rows: Sequence[Row]) -> dict[str, Claim]:
    """The claims with their verdicts."""
    return {
        "one layer": _no_advantage_of_one_layer(rows),
        "connected": _gain_of_connected(rows),
        "projections": _small_differences(rows),
    }


def _no_advantage_of_one_layer(rows: Sequence[Row]) -> Claim:
    """Supported if plain networks are worse by less than ADVANTAGE_POINTS, not if by more, with the whole interval."""
    values = {name: _errors(rows, "one layer", name) for name in ("plain", "1 layer", "2 layers")}
    gain = difference(values["plain"], values["1 layer"])
    verdict = judged(holds=gain.high < ADVANTAGE_POINTS, fails=gain.low > ADVANTAGE_POINTS, seeds=len(values["plain"]))
    two = difference(values["plain"], values["2 layers"])
    return Claim(
        claim="modules of one layer have no advantage over a plain network",
        source=f"{_HE_2015}, section 3.2",
        verdict=verdict,
        because=f"test error of plain minus residual {shown(gain)} with one layer, {shown(two)} with two",
    )


def _gain_of_connected(rows: Sequence[Row]) -> Claim:
    """Supported if shortcuts lower the training error, not supported if they raise it, with the whole interval."""
    plain, residual = _errors(rows, "connected", "fc plain"), _errors(rows, "connected", "fc residual")
    gain = difference(plain, residual)
    verdict = judged(holds=gain.low > 0, fails=gain.high < 0, seeds=len(plain))
    return Claim(
        claim="shortcuts serve fully connected layers too",
        source=f"{_HE_2015}, section 3.2",
        verdict=verdict,
        because=f"training error of fully connected plain minus residual {shown(gain)}",
    )


def _small_differences(rows: Sequence[Row]) -> Claim:
    """Supported if B and C differ from A by less than ADVANTAGE_POINTS, not if one by more, with the whole interval."""
    option_a = _errors(rows, "projections", "A")
    changes = {name: difference(_errors(rows, "projections", name), option_a) for name in "BC"}
    verdict = judged(
        holds=all(max(abs(each.low), abs(each.high)) < ADVANTAGE_POINTS for each in changes.values()),
        fails=any(each.low > ADVANTAGE_POINTS or each.high < -ADVANTAGE_POINTS for each in changes.values()),
        seeds=len(option_a),
    )
    return Claim(
        claim="projection shortcuts are not essential",
        source=f"{_HE_2015}, section 4.1 and table 3",
        verdict=verdict,
        because="test error minus A's: " + ", ".join(f"{name} {shown(each)}" for name, each in changes.items()),
    )


def _errors(rows: Sequence[Row], claim: str, network: str) -> list[float]:
    return by_seed(rows, _PANELS[claim][0], claim=claim, network=network)


def _job(kind: Kind, seed: int, dataset: Dataset, config: ConnectConfig) -> Job:
    """A network that serves two claims has one name, and is trained once."""
    options = [f"{name}-{value}" for name, value in kind.options.items()]
    changes = [] if kind.change is None else [kind.change.__name__.replace("_", "-")]
    name = "-".join([kind.arch, *options, *changes, f"seed{seed}"])
    return Job(name, spec_on(dataset, kind.arch, **kind.options), _loop(kind, seed, config), kind.change)


def _loop(kind: Kind, seed: int, config: ConnectConfig) -> LoopConfig:
    """Fully connected layers know no shifted images: their rate is lower and nothing is shifted."""
    loop = config.loop(seed)
    if kind.claim != "connected":
        return loop
    return loop.model_copy(update={"lr": config.fc_lr, "augment": "none"})


def _draw(axes: Any, study: Study) -> None:
    for panel, (claim, (column, title)) in zip(axes, _PANELS.items(), strict=True):
        names = list(dict.fromkeys(str(row["network"]) for row in study.rows if row["claim"] == claim))
        for place, name in enumerate(names):
            values = by_seed(study.rows, column, claim=claim, network=name)
            panel.plot([place] * len(values), values, "o", color="C0", alpha=0.5)
            panel.plot(place, sum(values) / len(values), "_", color="C0", markersize=24, markeredgewidth=2)
        of = "training" if column.startswith("train") else "test"
        panel.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, None), ylabel=f"{of} error (%)")
        panel.set_xticks(range(len(names)), names)
        panel.set_title(title, loc="left", fontsize=10)
    axes[1].set_xlabel(f"{study.data}, {len(study.seeds)} seeds and their mean, n = {study.n:,}")
