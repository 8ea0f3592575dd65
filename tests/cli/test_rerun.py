"""`edgeres rerun`: what the clock or the user's own Python decided is as it was."""

from __future__ import annotations

import json

import pytest

from edgeres.core.stage import REPORT_NAME

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.conv(x).relu()).mean((2, 3)))
"""


@pytest.mark.parametrize("use", ["prune", "recover"])
def test_a_recovery_takes_the_steps_it_took_before(use, checkpoint_of, spec_of, runs_folder, edgeres):
    source = checkpoint_of(spec_of("resnet8"), "mine.safetensors").path
    assert edgeres("import", source, "--run", "once")[0] == 0
    how = ("--data", "digits", "--images", 64, "--budget", "1h", "--epochs", 2)
    if use == "prune":
        assert edgeres("prune", "--drop", 1, "--recover", "mimic", *how)[0] == 0
    else:
        assert edgeres("prune", "--modules", "layer2.0")[0] == 0
        assert edgeres("recover", "--method", "mimic", "--batch", 8, *how)[0] == 0
    (path,) = (runs_folder / "once").glob(f"*-{use}/{REPORT_NAME}")
    report = json.loads(path.read_text())
    results = report["results"] if use == "recover" else report["results"]["recovery"]
    results.update(planned_steps=2, end_moved=[[1, 2]])
    path.write_text(json.dumps(report))
    edgeres("rerun", "once", "--name", "again")
    results = json.loads((runs_folder / "again" / path.parent.name / REPORT_NAME).read_text())["results"]
    results = results if use == "recover" else results["recovery"]
    assert (results["planned_steps"], results["steps"], results["end_moved"]) == (2, 2, [[1, 2]])


def test_a_run_that_began_with_a_function_is_made_again_by_the_function_named_again(edgeres, tmp_path):
    (tmp_path / "mynet.py").write_text(NET)
    code, _, err = edgeres("import", "mynet:Net", "--size", 8, "--mean", "0.5", "--std", "0.25", "--run", "mine")
    assert code == 0, err
    code, _, err = edgeres("rerun", "mine")
    assert (code, err.count("\n")) == (2, 1)
    assert "if you trust it, name it yourself: edgeres rerun mine --source mynet:Net" in err
    assert edgeres("rerun", "mine", "--source", "mynet.py:Net")[2].endswith("did you mean mynet:Net?\n")
    code, out, err = edgeres("rerun", "mine", "--source", "mynet:Net")
    assert (code, out.split()[:2]) == (0, ["identical", "00-import"]), err
