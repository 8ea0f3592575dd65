"""What stands in a report; instead of processes, every call takes as long as the test says."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from edgeres.bench.figures import lines_from
from edgeres.bench.session import Measured
from edgeres.bench.stage import BenchConfig, bench_report
from edgeres.bench.worker import Ready, Samples
from edgeres.core.artifacts import CARD_KEY, OnnxModel
from edgeres.core.stage import StageReport

onnx = pytest.importorskip("onnx")


@pytest.fixture
def models(tmp_path, checkpoint_of, spec_of):
    """A checkpoint, which takes any batch, and a graph whose batch is fixed to 1."""
    checkpoint = checkpoint_of(spec_of("resnet8"))
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    ports = [helper.make_tensor_value_info(name, number, [1, 1, 8, 8]) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph)
    model.metadata_props.add(key=CARD_KEY, value=checkpoint.card.model_dump_json())
    onnx.save(model, tmp_path / "fixed.onnx")
    return [checkpoint, OnnxModel(tmp_path / "fixed.onnx")]


@pytest.fixture
def calls(monkeypatch):
    """`calls(n, ms, other_cores)`: n calls a round of about `ms` times the batch, on so busy a machine."""
    generator = np.random.default_rng(0)

    def fake(n=20, ms=lambda round_number: 1.0, other_cores=0.0):
        def measure(jobs, turn, *, rounds, seed, enough, watch):
            held = [Measured(job, Ready(runtime="fake", warmup=1, stable=True)) for job in jobs]
            number = 0
            while number < rounds or (enough is not None and not enough(held)):
                for one in held:
                    samples = one.job.batch * ms(number) * (1 + 0.01 * generator.standard_normal(n))
                    one.add(Samples(samples_ms=samples.tolist()))
                number += 1
            return "session", held

        monkeypatch.setattr("edgeres.bench.stage.measure_interleaved", measure)
        monkeypatch.setattr("edgeres.bench.stage.busy_cores", lambda: other_cores)

    return fake


def report_of(models, **options):
    return bench_report(models, BenchConfig.model_validate(options))


def test_percentiles_come_with_intervals_in_results_and_text(models, calls):
    calls(n=20)
    report = report_of(models[:1])
    (row,) = report.results["models"]
    for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms"):
        assert row[name]["low"] < row[name]["value"] < row[name]["high"]
        assert f"  {name[:3]} {row[name]['value']:.3f} ms (95 %: {row[name]['low']:.3f} to" in "\n".join(
            lines_from(report)
        )
    assert row["precision"] < 0.01
    assert report.notes == ()


def test_a_percentile_of_too_few_calls_is_not_given_but_how_many_it_takes(models, calls):
    calls(n=4)
    report = report_of(models)
    for row in report.results["models"]:
        assert row["p95_ms"] is not None
        assert row["p99_ms"] is None
    assert "  p99 takes 368 calls: --samples 368" in lines_from(report)
    (note,) = report.notes
    assert note.startswith("p99 takes 368 calls, had: ")
    assert "fixed.onnx 80" in note


def test_a_steady_session_on_a_quiet_machine_is_not_doubted(models, calls):
    calls()
    report = report_of(models)
    assert report.warnings == ()
    assert lines_from(report)[-1] == "verdict: steady"


def test_a_hog_started_in_the_middle_is_told_by_the_samples_alone(models, calls):
    calls(ms=lambda number: 1.0 if number < 10 else 1.4)
    report = report_of(models[:1])
    assert report.results["verdict"].startswith("doubtful: ")
    assert any("from round 11 of 20 on 1.40 times as slow as before" in warning for warning in report.warnings)
    assert any("NOT steady" in line for line in lines_from(report))


def test_a_busy_machine_makes_the_verdict_invalid(models, calls):
    calls(other_cores=64.0)
    report = report_of(models[:1])
    assert report.results["verdict"].startswith("invalid: machine busy: other programs kept 64.0 of")
    assert any(warning.startswith("machine busy") and "run again" in warning for warning in report.warnings)


def test_a_precision_out_of_reach_is_not_reached_and_says_so(models, calls):
    calls()
    report = report_of(models[:1], precision="0.001%", max_seconds=1)
    assert report.results["precision"]["reached"] is False
    assert report.results["rounds"] == pytest.approx(50, abs=5)
    assert any("precision 0.001% was not reached in 1 s" in warning for warning in report.warnings)
    assert any("NOT reached" in line for line in lines_from(report))


def test_a_precision_within_reach_takes_more_rounds_and_is_reached(models, calls):
    calls(n=5)
    report = report_of(models, precision="0.1%")
    assert report.results["precision"]["reached"] is True
    assert report.results["precision"]["worst"] <= 0.001
    assert report.results["rounds"] > 20
    assert [len(latency.rounds) for latency in report.latency] == [report.results["rounds"]] * 2


def test_throughput_stands_beside_latency_and_a_fixed_batch_says_so(models, calls):
    calls()
    report = report_of(models, batches="8,1,32")
    seen = [(Path(row["path"]).name, row["batch"]) for row in report.results["throughput"]]
    assert seen == [("model.safetensors", 1), ("model.safetensors", 8), ("model.safetensors", 32), ("fixed.onnx", 1)]
    assert [latency.batch for latency in report.latency] == [1, 1]
    assert any(note.endswith("fixed.onnx: takes batch 1 only, not timed at batch 8, 32") for note in report.notes)
    table = [line for line in lines_from(report) if "fixed.onnx" in line or "model.safetensors" in line]
    assert len(table) == 2 + 4


def test_only_the_batch_asked_for_is_no_throughput_table(models, calls):
    calls()
    report = report_of(models, batches="1")
    assert report.results["throughput"] == []


@pytest.mark.parametrize("sizes", ["0,8", "-1", "a"])
def test_batches_are_whole_numbers(sizes):
    with pytest.raises(ValueError, match="batches"):
        BenchConfig.model_validate({"batches": sizes})


def test_without_image_files_the_way_from_file_to_class_is_left_out_with_the_reason(models, calls):
    calls()
    for data, reason in ((None, "no images named: --data"), ("digits", "digits holds arrays, not image files")):
        report = report_of(models, data=data)
        assert report.results["end_to_end"]["not_timed"].startswith(reason)
        assert any(line.startswith(f"end to end: not timed, {reason}") for line in lines_from(report))


def test_the_machine_is_described(models, calls, monkeypatch):
    calls()
    monkeypatch.setattr("edgeres.bench.figures.governor", lambda: "powersave")
    (line,) = [line for line in lines_from(report_of(models)) if "governor" in line]
    assert "governor powersave" in line
    assert "clock not readable here" in line
    assert f"(cores {min(os.sched_getaffinity(0))}" in line


def test_a_report_is_plain_json_and_reads_back_to_the_same_text(models, calls):
    calls()
    report = report_of(models, batches="1,2")
    again = StageReport.model_validate_json(json.dumps(json.loads(report.model_dump_json())))
    assert lines_from(again) == lines_from(report)
