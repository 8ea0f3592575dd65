import json
import subprocess
import sys

import pytest

from edgeres.core.errors import InputError, MissingDependency
from edgeres.report.stage import ReportConfig, report
from edgeres.report.summary import RunSummary


def written_files(run):
    return {path.name for path in run.path.iterdir() if path.is_file()}


def test_the_four_files_are_written(whole_run):
    report(whole_run.path, ReportConfig())
    assert written_files(whole_run) == {"report.html", "report.md", "report.json", "report.csv"}


def test_the_json_is_the_summary_with_its_schema_version(whole_run):
    summary = report(whole_run.path, ReportConfig(html=False))
    text = (whole_run.path / "report.json").read_text()
    assert json.loads(text)["schema_version"] == 1
    assert RunSummary.model_validate_json(text) == summary


def test_writing_it_twice_changes_nothing(whole_run):
    report(whole_run.path, ReportConfig())
    first = {name: (whole_run.path / name).read_bytes() for name in written_files(whole_run)}
    report(whole_run.path, ReportConfig())
    assert first == {name: (whole_run.path / name).read_bytes() for name in written_files(whole_run)}


def test_without_the_extra_everything_but_the_page_is_written_and_that_is_told(whole_run, monkeypatch):
    def refuse(summary):
        raise MissingDependency("jinja2", "report")

    monkeypatch.setattr("edgeres.report.stage.page_from", refuse)
    summary = report(whole_run.path, ReportConfig())
    assert written_files(whole_run) == {"report.md", "report.json", "report.csv"}
    (problem,) = summary.problems
    assert "report.html was not written" in problem
    assert "pip install 'edgeres[report]'" in problem
    assert problem in (whole_run.path / "report.md").read_text()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="holds no finished stage"):
        report(tmp_path, ReportConfig())
    assert list(tmp_path.iterdir()) == []


def test_the_base_install_can_report(whole_run):
    """Torch, ONNX, matplotlib and jinja2 cannot be imported; all but the page comes out."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'matplotlib', 'jinja2', 'markupsafe', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from edgeres.report.stage import ReportConfig, report\n"
        f"print(len(report(Path({str(whole_run.path)!r}), ReportConfig()).rows))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6"
    assert written_files(whole_run) == {"report.md", "report.json", "report.csv"}
