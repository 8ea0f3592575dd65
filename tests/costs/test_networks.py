"""Shortened networks on a made-up board; nothing here was near hardware."""

from __future__ import annotations

import pytest

from edgeres.bench.stage import BenchConfig
from edgeres.core.artifacts import OnnxModel, properties_of
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import LatencyConfig, latency_table_from
from edgeres.core.resuming import Kept
from edgeres.costs.networks import NetworkTime, as_executed, on_board
from edgeres.costs.stage import latency_table

pytestmark = pytest.mark.usefixtures("exported_once")
SAVED_MS = {"layer1.0": 0.4, "layer2.0": 0.1, "layer3.0": 0.2}


def latency_of(samples_ms, artifact="0", batch=1):
    return Latency(
        samples_ms=tuple(samples_ms),
        batch=batch,
        runtime="tensorrt 10.3.0",
        threads=0,
        session="s",
        artifact=artifact,
        warmup=1,
        machine="orin: Jetson Orin Nano",
    )


def test_shortened_networks_are_timed_on_the_board_in_drawn_order(checkpoint_of, spec_of, tmp_path):
    asked: list[OnnxModel] = []

    def measure_one(model):
        asked.append(model.spec.dropped)
        whole = 1.0 - sum(SAVED_MS[name] for name in model.spec.dropped)
        return latency_of([whole] * 45, model.sha256), ()

    config = LatencyConfig(runtime="tensorrt", networks=4, precision="int8")
    result = latency_table(checkpoint_of(spec_of()), config, tmp_path / "out", measure=on_board(measure_one))
    table = latency_table_from(result.output.path)
    assert table.saved_ms == pytest.approx(SAVED_MS)
    assert table.is_of_board
    assert table.method == "networks"
    assert len(asked) == 3 + 4
    assert len(table.timed[0].rounds_ms) == 20
    assert asked[:3] != [(), (), ()]
    assert not any("says nothing of INT8" in note for note in result.report.notes)


@pytest.mark.parametrize(("newest", "opset"), [(None, 17), (13, 13), (24, 17)])
def test_a_network_of_ones_own_has_the_usual_opset_or_what_the_board_reads(gated, tmp_path, newest, opset):
    (model,) = as_executed([gated], LatencyConfig(), tmp_path, newest=newest)
    assert model.proto.opset_import[0].version == opset
    assert "Sigmoid" in {node.op_type for node in model.proto.graph.node}


def test_every_latency_of_a_session_stands_where_its_network_does(onnx_of):
    models = [onnx_of()] * 5
    counter = iter(range(5))
    session = on_board(lambda model: (latency_of([float(next(counter))] * 3), ()))(models, BenchConfig(seed=1))
    assert sorted(latency.samples_ms[0] for latency in session.latencies) == [0, 1, 2, 3, 4]
    assert {latency.session for latency in session.latencies} == {session.latencies[0].session}
    assert {latency.rounds for latency in session.latencies} == {(1, 1, 1)}


def boards_table(checkpoint, folder, measure_one, kept):
    config = LatencyConfig(runtime="tensorrt", networks=4)
    return latency_table(checkpoint, config, folder, measure=on_board(measure_one, kept)).output


def test_an_interrupted_table_goes_on_with_the_networks_that_were_timed(checkpoint_of, spec_of, tmp_path, caplog):
    caplog.set_level("INFO", logger="edgeres")
    checkpoint, path = checkpoint_of(spec_of()), tmp_path / "networks.json"
    asked, interrupted_at = [], [5]

    def measure_one(model):
        if interrupted_at and len(asked) == interrupted_at[0]:
            raise KeyboardInterrupt
        asked.append(model.spec.dropped)
        return latency_of([1.0 - 0.1 * len(model.spec.dropped)] * 45, model.sha256), ("doubtful",)

    with pytest.raises(KeyboardInterrupt):
        boards_table(checkpoint, tmp_path / "a", measure_one, Kept(path, "key", NetworkTime))
    before, kept = list(asked), Kept(path, "key", NetworkTime)
    asked.clear()
    interrupted_at.clear()
    table = latency_table_from(boards_table(checkpoint, tmp_path / "b", measure_one, kept).path)
    assert (len(before), kept.reused, len(asked)) == (5, 5, 2)
    assert [one.warnings for one in kept.records.values()] == [("doubtful",)] * 7
    assert "5 of 7 networks measured before, reused" in caplog.messages
    assert caplog.messages[-2].startswith("network 6 of 7: ")
    assert "s left" in caplog.messages[-1]
    assert len(set(kept.records)) == 7
    assert all(name.partition(" ")[2] == " ".join(one.dropped) for name, one in kept.records.items())
    undisturbed = boards_table(checkpoint, tmp_path / "c", measure_one, None)
    assert table.saved_ms == latency_table_from(undisturbed.path).saved_ms


def test_int8_networks_are_written_for_who_runs_them(checkpoint_of, spec_of, tmp_path):
    for runtime, profile in (("ort", "ort-cpu"), ("tensorrt", "tensorrt")):
        how = LatencyConfig(precision="int8", runtime=runtime)
        (model,) = as_executed([checkpoint_of(spec_of())], how, tmp_path / runtime)
        assert properties_of(model.proto)["edgeres.profile"] == profile
