import numpy as np
import pytest

from edgeres.evaluate.agreement import Agreement, Likeness, Side
from edgeres.report.rows import rows_from


def agreements(run):
    return {(one.b, one.a): one for one in rows_from(run.path).agreements}


def test_each_network_is_held_against_its_parent_and_the_last_against_the_first(whole_run):
    assert list(agreements(whole_run)) == [
        ("02-prune", "00-import"),
        ("03-recover", "02-prune"),
        ("04-export", "03-recover"),
        ("05-quantize", "04-export"),
        ("05-quantize", "00-import"),
    ]


def test_the_share_counts_equal_guesses_and_the_points_are_paired(whole_run, paired):
    a, b = (np.load(whole_run.path / name / "eval.npy") for name in ("04-export", "05-quantize"))
    one = agreements(whole_run)["05-quantize", "04-export"]
    change, half = paired(a, b)
    assert one.same.value == pytest.approx(float((a[:, 0] == b[:, 0]).mean()))
    assert (one.points.value, one.points.high) == pytest.approx((change, change + half))
    assert one.runtime_a == "onnxruntime 1.20.0 cpu"
    assert one.n == 5000


def test_an_unjudged_parent_is_passed_over(whole_run):
    (whole_run.path / "04-export/eval.json").unlink()
    assert ("05-quantize", "03-recover") in agreements(whole_run)


def test_lost_predictions_leave_the_network_out_and_are_told(whole_run):
    (whole_run.path / "05-quantize/eval.npy").unlink()
    assert not any("05-quantize" in pair for pair in agreements(whole_run))
    assert any("eval.npy is missing or damaged" in problem for problem in rows_from(whole_run.path).problems)


def test_what_edgeres_agree_left_in_the_run_is_read(whole_run):
    side = Side(path="model.onnx", sha256="0", precision="int8", runtime="literal", correct_top1=4000)
    logits = Likeness(name="logits", sqnr_db=35.0, cosine=0.99)
    agreement = Agreement(
        a=side, b=side, dataset="x", split="val", n=5000, same_top1=4990, only_a=3, only_b=2, logits=logits, kl=0.01
    )
    path = whole_run.path / "05-quantize/agree.json"
    path.write_text(agreement.model_dump_json())
    assert rows_from(whole_run.path).kept_agreements == (agreement,)
    path.write_text("[]")
    assert any("agree.json cannot be read" in problem for problem in rows_from(whole_run.path).problems)
