"""The options and marks of tests/conftest.py, on tests that are none."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("conftest_itself", Path(__file__).parent / "conftest.py")
assert _SPEC
assert _SPEC.loader
conftest = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(conftest)


@dataclass(eq=False)
class Case:
    """What the hooks use of a pytest.Item."""

    nodeid: str
    params: dict[str, Any] = field(default_factory=dict)
    covering: int | None = None
    marks: list[str] = field(default_factory=list)

    @property
    def callspec(self) -> Any:
        return self

    def get_closest_marker(self, name: str) -> Any:
        return SimpleNamespace(args=(self.covering,)) if name == "covering" and self.covering else None

    def add_marker(self, mark: Any) -> None:
        self.marks.append(mark.name)


def collected(cases: list[Case], tenth: int | None = None) -> tuple[list[Case], list[Case]]:
    """(left, deselected) of `cases`."""
    left, gone = list(cases), []
    hook = SimpleNamespace(pytest_deselected=lambda items: gone.extend(items))
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption={"tenth": tenth}.get, hook=hook), left)
    return left, gone


VALUES = {"op": ["Conv", "Gemm"], "bits": [2, 4, 8], "signed": [True, False], "seed": [0, 1]}
PRODUCT = [dict(zip(VALUES, values, strict=True)) for values in itertools.product(*VALUES.values())]


def together(params: dict[str, Any], n: int) -> set[tuple[Any, ...]]:
    return set(itertools.combinations(params.items(), n))


def taken(most: int, *, in_a_dict: bool) -> list[dict[str, Any]]:
    """Values of the cases that `make test` takes of the whole product; the others are marked."""
    cases = [Case(f"t.py::test[{i}]", {"options": one} if in_a_dict else one, most) for i, one in enumerate(PRODUCT)]
    collected(cases)
    assert {tuple(case.marks) for case in cases} == {(), ("exhaustive",)}
    return [one for one, case in zip(PRODUCT, cases, strict=True) if not case.marks]


@pytest.mark.parametrize("in_a_dict", [False, True])
@pytest.mark.parametrize(("most", "fewest"), [(1, 3), (2, 6), (3, 12)])
def test_a_covering_set_shows_every_n_values_together_in_about_as_few_cases_as_can(most, fewest, in_a_dict):
    cases = taken(most, in_a_dict=in_a_dict)
    shown = set().union(*(together(case, most) for case in cases))
    assert shown == set().union(*(together(case, most) for case in PRODUCT))
    assert fewest <= len(cases) <= 1.5 * fewest < len(PRODUCT)


def test_each_function_is_covered_by_itself_and_others_are_let_be():
    cases = [Case("t.py::a[0]", {"x": 0}, 1), Case("t.py::b[0]", {"x": 0}, 1), Case("t.py::c[0]", {"x": 0})]
    collected(cases)
    assert [case.marks for case in cases] == [[], [], []]


def test_the_ten_tenths_are_disjoint_and_together_everything():
    cases = [Case(f"tests/t.py::test[{i}]") for i in range(200)]
    parts = [collected(cases, tenth) for tenth in range(10)]
    assert sorted((case.nodeid for left, _ in parts for case in left)) == sorted(case.nodeid for case in cases)
    for left, gone in parts:
        assert 0 < len(left) < 50
        assert {*left, *gone} == {*cases}
        assert len(left) + len(gone) == len(cases)


def test_a_test_is_in_the_same_tenth_in_every_process():
    cases = [Case(f"tests/t.py::test[{i}]") for i in range(5)]
    assert [next(k for k in range(10) if case in collected(cases, k)[0]) for case in cases] == [6, 1, 0, 7, 4]


def test_without_a_tenth_all_are_left_and_those_of_the_readme_come_first():
    cases = [Case("tests/a.py::a"), Case("tests/test_readme.py::b"), Case("tests/c.py::c")]
    assert collected(cases) == ([cases[1], cases[0], cases[2]], [])


@pytest.mark.parametrize(
    ("outcome", "reason", "asked", "found"),
    [
        ("skipped", "could not import 'tensorrt_rtx'", True, "failed"),
        ("skipped", "needs an NVIDIA GPU", True, "skipped"),
        ("skipped", "could not import 'tensorrt_rtx'", False, "skipped"),
        ("passed", "", True, "passed"),
    ],
)
def test_a_skip_for_want_of_anything_but_a_gpu_fails_if_asked_to(outcome, reason, asked, found):
    item = SimpleNamespace(nodeid="t.py::test", config=SimpleNamespace(getoption={"only_gpu_skips": asked}.get))
    report = SimpleNamespace(outcome=outcome, skipped=outcome == "skipped", longrepr=reason)
    hook = conftest.pytest_runtest_makereport(item)
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(report)
    assert ended.value.value is report
    assert report.outcome == found
    assert report.longrepr == (reason if found == outcome else f"t.py::test was skipped: {reason}")
