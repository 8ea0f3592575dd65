"""The Python interface: every name resolves, nothing heavy is imported before it is used."""

from __future__ import annotations

import subprocess
import sys

from edgeres import api
from edgeres.pipeline.stages import STAGES


def test_every_name_resolves_to_what_its_type_stub_says():
    for name in api._HOME:
        assert getattr(api, name).__name__ == name


def test_every_stage_and_its_config_can_be_reached():
    reachable = {getattr(api, name) for name in api._HOME}
    for row in STAGES.values():
        assert row.config_class() in reachable


def test_importing_the_interface_is_free():
    code = (
        "import sys; from edgeres import api; print(sorted(m for m in ('torch', 'onnx', 'numpy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
