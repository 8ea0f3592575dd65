"""How well the networks of a run agree with what they were made from, on the images both were judged on.

from eval.npy of two stages      same first guess, who alone is right, the exact McNemar test
from agree.json of a stage       what `edgeres agree` found: noise of the logits and of every module
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.statistics import Interval
from edgeres.evaluate.agreement import Agreement, Pair
from edgeres.report.folder import Figure, RunFolder
from edgeres.report.networks import Network, line_of, pair_of

AGREE_NAME = "agree.json"


class AgreementFigure(Figure):
    """B against A on the same `n` images; `points`: top-1 of B minus that of A, paired, in percentage points."""

    a: str
    b: str
    runtime_a: str
    runtime_b: str
    n: int
    same: Interval
    only_a: int
    only_b: int
    points: Interval
    p_value: float


def agreements_in(networks: Sequence[Network]) -> tuple[AgreementFigure, ...]:
    """Each network against the nearest one of its line judged on the same images, and the last against the first."""
    found = [next((one for one in _against_line(networks, index)), None) for index in range(1, len(networks))]
    rows = [one for one in found if one]
    judged = [one for one in networks if one.accuracy]
    if len(judged) > 1 and (whole := _figure(judged[0], judged[-1])):
        rows += [whole] if (whole.a, whole.b) not in {(one.a, one.b) for one in rows} else []
    return tuple(rows)


def kept_agreements(folder: RunFolder) -> tuple[tuple[Agreement, ...], tuple[str, ...]]:
    """Results of `edgeres agree` that lie beside the networks, and what could not be read."""
    found, problems = [], []
    for stage in folder.stages:
        if (stage.path / AGREE_NAME).is_file():
            one = _kept(stage.path / AGREE_NAME)
            if one is None:
                problems.append(f"{stage.name}: {AGREE_NAME} cannot be read; make it again: edgeres agree")
            else:
                found.append(one)
    return tuple(found), tuple(problems)


def _kept(path: Path) -> Agreement | None:
    try:
        one = record_from_json(Agreement, path)
    except InputError:
        return None
    is_possible = one.n > 0 and max(one.same_top1, one.only_a + one.only_b) <= one.n
    return one if is_possible and min(one.same_top1, one.only_a, one.only_b) >= 0 else None


def _against_line(networks: Sequence[Network], index: int) -> Iterator[AgreementFigure]:
    """Against parent, grandparent, ..., as far as they are in the run."""
    one, earlier = networks[index], {other.sha256: other for other in networks[:index]}
    parents = {sha256: other.parent for sha256, other in earlier.items()}
    yield from filter(None, (_figure(earlier[sha256], one) for sha256 in line_of(one.parent, parents)))


def _figure(a: Network, b: Network) -> AgreementFigure | None:
    pair = pair_of(a, b)
    if not isinstance(pair, Pair) or a.accuracy is None or b.accuracy is None:
        return None
    return AgreementFigure(
        a=a.name,
        b=b.name,
        runtime_a=a.accuracy.runtime,
        runtime_b=b.accuracy.runtime,
        same=pair.agreement,
        points=pair.points,
        p_value=pair.p_value,
        **pair.model_dump(include={"n", "only_a", "only_b"}),
    )
