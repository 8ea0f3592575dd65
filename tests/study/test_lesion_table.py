"""Verdicts on Veit's claims from made-up tables."""

from __future__ import annotations

import pytest

from edgeres.core.metrics import Accuracy
from edgeres.core.records.lesion import Lesion
from edgeres.study.lesion_table import LesionTable, NetworkLesions, claims_of, stages_of

N = 1000


def _lesion(module, right, *, kind="identity", change=0.0, half=0.3):
    accuracy = Accuracy(
        correct_top1=right, correct_top5=right, n=N, dataset="x", split="val", runtime="torch", artifact="a"
    )
    return Lesion(
        module=module, kind=kind, accuracy=accuracy, loss=0, kl=0, change_points=change, half_width_points=half
    )


def _lesions(name, costs, *, whole=900, half=0.3, kinds=None):
    rows = tuple(
        _lesion(f"layer1.{i}", whole - round(10 * cost), kind=(kinds or {}).get(i, "identity"), change=-cost, half=half)
        for i, cost in enumerate(costs)
    )
    return NetworkLesions(model_sha256="a", network=name, num_classes=10, whole=_lesion("", whole), table=rows)


def _verdicts(costs, control=None, **options):
    table = LesionTable(**dict(_lesions("resnet20", costs, **options)), control=control)
    return [claim.verdict for claim in claims_of(table)]


@pytest.mark.parametrize(
    ("costs", "half", "verdict"),
    [
        ([0.1, 0.2, 0.3, 9.0], 0.3, "supported"),
        ([0.1, 8.0, 9.0, 3.0], 0.3, "not supported"),
        ([0.5, 1.5, 1.2, 0.8], 2.0, "undecided"),
    ],
)
def test_most_modules_must_surely_cost_little(costs, half, verdict):
    assert _verdicts(costs, half=half) == [verdict]


def test_modules_that_change_the_shape_are_told_apart():
    lesions = _lesions("resnet20", [0.1, 0.2, 30.0], kinds={2: "projection"})
    (claim,) = claims_of(LesionTable(**dict(lesions)))
    assert claim.verdict == "supported"
    assert "of 2 identity modules 2 surely cost at most 1 point" in claim.because
    assert "the 1 that change the shape 30.0 to 30.0" in claim.because
    assert "54 modules, this one 3" in claim.because


@pytest.mark.parametrize(
    ("costs", "verdicts"),
    [
        ([79.0, 80.0, 78.0], ["supported", "supported"]),
        ([79.0, 80.0, 30.0], ["not supported", "supported"]),
        ([70.0, 80.0, 78.0], ["undecided", "supported"]),
        ([0.0, 0.1, 0.0], ["not supported", "undecided"]),
    ],
)
def test_a_control_collapses_when_every_layer_leaves_it_near_chance(costs, verdicts):
    assert _verdicts([0.1, 0.2, 0.3], _lesions("vgg11", costs))[1:] == verdicts


def test_a_residual_network_may_suffer_more_than_its_control():
    assert _verdicts([60.0, 70.0], _lesions("vgg11", [1.0, 2.0]))[2] == "not supported"


def test_stages_are_summed_up_by_kind():
    lesions = _lesions("resnet20", [0.5, 2.0, 1.0, 30.0], kinds={3: "projection"}).table
    identity, projection = stages_of(lesions)
    assert (identity.stage, identity.kind, identity.modules) == ("layer1", "identity", 3)
    assert (identity.median_change_points, identity.worst_change_points, identity.worst) == (-1.0, -2.0, "layer1.1")
    assert (projection.kind, projection.modules, projection.worst_change_points) == ("projection", 1, -30.0)
