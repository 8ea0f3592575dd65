"""`edgeres show` on every model of the onnx package's own tests."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import onnx
import pytest

from edgeres.pipeline.show import exhibit_of

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FILES = sorted(DATA.rglob("*.onnx"))
A_DOZEN = [path for path in FILES if path.parent.name in {"test_Softsign", "test_Softmin", "test_operator_add_size1"}]
A_DOZEN += FILES[:: len(FILES) // 9]


def show(path: Path) -> None:
    exhibit = exhibit_of(str(path))
    json.dumps(exhibit.content)
    assert exhibit.lines


@pytest.mark.parametrize("path", A_DOZEN, ids=lambda path: path.relative_to(DATA).as_posix())
def test_a_file_of_the_onnx_package_is_shown(path):
    show(path)


@pytest.mark.exhaustive
def test_every_file_of_the_onnx_package_is_shown():
    for path in FILES:
        show(path)


@pytest.mark.exhaustive
def test_every_operator_of_the_onnx_package_is_shown(tmp_path):
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    assert len(cases) > 1000
    for case in cases:
        path = tmp_path / f"{case.name}.onnx"
        onnx.save(case.model, path)
        show(path)
        path.unlink()
