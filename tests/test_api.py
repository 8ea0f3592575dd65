"""The Python interface: every name resolves, nothing heavy is imported before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeres import api
from edgeres.pipeline.stages import STAGES


def test_every_name_of_the_stub_resolves_to_what_it_says():
    for name in dir(api):
        assert getattr(api, name).__name__ == name


def test_a_name_that_is_not_listed_is_none():
    with pytest.raises(AttributeError, match="has no attribute 'prun'"):
        _ = api.prun


def test_every_stage_and_its_config_can_be_reached():
    reachable = {getattr(api, name) for name in dir(api)}
    for row in STAGES.values():
        assert row.config_class() in reachable


def test_importing_the_interface_is_free():
    code = (
        "import sys; from edgeres import api; print(sorted(m for m in ('torch', 'onnx', 'numpy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
