"""How well the networks of a run agree, which is seen twice.

eval.npy of two stages      same first guess, who alone is right, the exact McNemar test
agree.json of a stage       what `edgeres agree` found: noise of the logits and of every module
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.lineage import advised, line_of, source_of
from edgeres.core.metrics import Interval
from edgeres.evaluate.agreement import Agreement, Pair
from edgeres.report.folder import Figure, RunFolder
from edgeres.report.networks import StageNetwork, pair_of

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


def agreements_in(networks: Sequence[StageNetwork]) -> tuple[AgreementFigure, ...]:
    """Each network against the nearest one of its line judged on the same images, and the last against the first."""
    rows = [one for index in range(1, len(networks)) if (one := _against_line(networks, index))]
    judged = [one for one in networks if one.accuracy]
    whole = _figure(judged[0], judged[-1]) if len(judged) > 1 else None
    return (*rows, whole) if whole and (whole.a, whole.b) not in {(one.a, one.b) for one in rows} else tuple(rows)


def kept_agreements(folder: RunFolder) -> tuple[tuple[Agreement, ...], tuple[str, ...]]:
    """Results of `edgeres agree` that lie beside the networks, and what could not be read."""
    found, problems = [], []
    for stage in folder.stages:
        path = stage.path / AGREE_NAME
        if path.is_file() and (one := _kept(path)):
            found.append(one)
        elif path.is_file():
            file = stage.path / Path(stage.report.output.path if stage.report.output else "B").name
            again = advised("edgeres agree", source_of(file) or "A", file)
            problems.append(f"{stage.name}: {AGREE_NAME} cannot be read; make it again: {again}")
    return tuple(found), tuple(problems)


def _kept(path: Path) -> Agreement | None:
    try:
        one = record_from_json(Agreement, path)
    except InputError:
        return None
    counts = one.same_top1 or 0, one.only_a, one.only_b
    is_possible = one.n > 0 and max(counts[0], one.only_a + one.only_b) <= one.n and min(counts) >= 0
    return one if is_possible and (one.same_top1 is None) == (one.closeness is not None) else None


def _against_line(networks: Sequence[StageNetwork], index: int) -> AgreementFigure | None:
    """Against parent, grandparent, ..., the first of them that it can be held against."""
    one, earlier = networks[index], {other.sha256: other for other in networks[:index]}
    parents = {sha256: other.parent for sha256, other in earlier.items()}
    return next(filter(None, (_figure(earlier[sha256], one) for sha256 in line_of(one.parent, parents))), None)


def _figure(a: StageNetwork, b: StageNetwork) -> AgreementFigure | None:
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
