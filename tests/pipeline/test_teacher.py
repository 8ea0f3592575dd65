"""A checkpoint written by --out finds its teacher through the report beside it, or says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.core.errors import InputError
from edgeres.core.lineage import teacher_of
from edgeres.core.runs import latest_run
from edgeres.pipeline.calls import Call, call

QUICK = {"data": "digits", "images": 60, "epochs": 1, "batch": 16, "threads": 1}


@pytest.fixture
def whole(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8", width=4), "whole.safetensors")


@pytest.fixture
def cut(whole, tmp_path):
    """Written by --out, outside of any run."""
    return call(
        Call("prune", source=whole.path, out=tmp_path / "cut.safetensors", values={"modules": "layer2.0"})
    ).output


def recovered(cut, tmp_path, **values):
    return call(Call("recover", source=cut.path, out=tmp_path / "r.safetensors", values={**QUICK, **values}))


def test_the_report_beside_the_file_names_the_teacher(whole, cut, tmp_path):
    result = recovered(cut, tmp_path)
    assert result.report.results["teacher_sha256"] == whole.sha256
    again = call(Call("recover", source=result.output.path, out=tmp_path / "r2.safetensors", values=QUICK))
    assert again.report.results["teacher_sha256"] == whole.sha256


def test_the_teacher_is_found_where_both_were_moved(whole, cut, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in (whole.path, cut.path, cut.path.with_name("cut.safetensors.report.json")):
        path.rename(folder / path.name)
    result = recovered(type(cut)(folder / "cut.safetensors"), tmp_path)
    assert result.report.config["teacher"] == str(folder / "whole.safetensors")


def test_another_file_at_the_recorded_place_is_not_the_teacher(whole, cut, tmp_path, checkpoint_of):
    sha256 = whole.sha256
    checkpoint_of(whole.spec, "whole.safetensors", seed=1)
    with pytest.raises(
        InputError, match=rf"whole\.safetensors \(sha256 {sha256[:12]}.*is gone or has changed; .*--teacher FILE"
    ):
        recovered(cut, tmp_path)


def test_a_replaced_file_of_the_run_is_not_the_teacher_and_a_copy_in_another_stage_is(whole, checkpoint_of):
    first = call(Call("import", values={"file": whole.path})).output
    pruned = call(Call("prune", values={"modules": "layer2.0"})).output
    again = call(Call("import", run=latest_run().name, values={"file": whole.path})).output
    assert teacher_of(pruned) == first.path
    first.path.write_bytes(checkpoint_of(whole.spec, "other.safetensors", seed=1).path.read_bytes())
    assert teacher_of(pruned) == again.path
    again.path.unlink()
    whole.path.unlink()
    with pytest.raises(InputError, match="is gone or has changed"):
        teacher_of(pruned)


def test_a_whole_network_is_told_that_nothing_was_dropped_from_it(whole, tmp_path):
    with pytest.raises(InputError, match=r"^nothing was dropped from .*whole\.safetensors, .*edgeres prune"):
        recovered(whole, tmp_path)


def test_without_a_report_the_message_names_what_was_looked_for(cut, tmp_path):
    report = cut.path.with_name("cut.safetensors.report.json")
    report.unlink()
    with pytest.raises(InputError, match=r"--teacher FILE \(looked for .*cut\.safetensors\.report\.json"):
        recovered(cut, tmp_path)
    assert recovered(cut, tmp_path, method="bn").report.results["teacher_sha256"] is None


def test_a_teacher_of_the_run_that_is_gone_is_called_that(whole):
    call(Call("import", values={"file": whole.path}))
    call(Call("prune", values={"modules": "layer2.0"}))
    (path,) = whole.path.parent.glob("runs/whole/00-import/model.safetensors")
    path.unlink()
    with pytest.raises(InputError, match=r"the teacher .* is gone or has changed; .*--teacher FILE"):
        call(Call("recover", values=QUICK))
    with pytest.raises(InputError, match=r"--teacher gone\.safetensors does not exist"):
        call(Call("recover", values={**QUICK, "teacher": Path("gone.safetensors")}))


def test_another_teacher_than_the_recorded_one_is_a_warning_with_both_hashes(whole, cut, tmp_path, checkpoint_of):
    other = checkpoint_of(whole.spec, "other.safetensors", seed=1)
    (said,) = [text for text in recovered(cut, tmp_path, teacher=other.path).report.warnings if "teacher" in text]
    assert other.sha256 in said
    assert whole.sha256 in said
    assert not [text for text in recovered(cut, tmp_path, teacher=whole.path).report.warnings if "teacher" in text]


def test_a_run_that_began_with_a_copy_of_the_pruned_file_finds_the_teacher_too(whole, cut):
    call(Call("import", values={"file": cut.path}))
    first = call(Call("recover", values=QUICK))
    second = call(Call("recover", values=QUICK))
    for result in (first, second):
        assert result.report.results["teacher_sha256"] == whole.sha256


def test_a_file_recovered_in_a_new_run_is_recovered_again_by_the_same_teacher(whole, cut):
    call(Call("recover", source=cut.path, values=QUICK))
    assert call(Call("recover", values=QUICK)).report.results["teacher_sha256"] == whole.sha256
