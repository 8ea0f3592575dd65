import json

import pytest

from edgeres.bench.stage import Session
from edgeres.bench.validity import Around
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import LatencyConfig, LatencyTable, latency_table_from
from edgeres.core.spec import TRACED
from edgeres.costs.stage import latency_table
from edgeres.costs.table import check_table, doubts, predicted_ms

pytestmark = pytest.mark.usefixtures("exported_once")
SAVED_MS = {"layer1.0": 0.4, "layer2.0": 0.1, "layer3.0": 0.2}
WHOLE_MS = 1.0
FEW = LatencyConfig(networks=4, rounds=5, threads=1)


class FakeMachine:
    """Takes WHOLE_MS less what each dropped module saves; keeps what it was asked to time."""

    def __init__(self, factor=1.0):
        self.factor, self.models, self.config = factor, [], None

    def __call__(self, models, config):
        self.models, self.config = list(models), config
        self.precisions = [model.precision for model in models]
        self.kinds = [type(model) for model in models]
        return Session(tuple(self.latency(model) for model in models), ("the same words",) * 9, Around(0.0, 0.0))

    def latency(self, model):
        whole = WHOLE_MS - sum(SAVED_MS[name] for name in model.spec.dropped)
        return Latency(
            samples_ms=tuple(self.factor * whole for _ in range(10)),
            rounds=(2,) * 5,
            batch=self.config.batch,
            runtime="fake",
            threads=self.config.threads,
            session="s",
            artifact=model.sha256,
            warmup=1,
            machine="another machine",
        )


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8"))


def table_of(checkpoint, out_dir, config=FEW, machine=None):
    result = latency_table(checkpoint, config, out_dir, measure=machine or FakeMachine())
    return latency_table_from(result.output.path), result.report


def test_the_table_says_what_each_module_saves(checkpoint, tmp_path):
    table, report = table_of(checkpoint, tmp_path / "out")
    assert table.saved_ms == pytest.approx(SAVED_MS)
    assert table.whole_ms.value == pytest.approx(WHOLE_MS)
    assert table.rest_ms == pytest.approx(WHOLE_MS - sum(SAVED_MS.values()))
    assert table.model_sha256 == checkpoint.sha256
    assert table.kind == "latencies"
    assert len(table.timed) == 3 + 4
    assert report.output.path.endswith("latency.json")
    assert any("layer2.0 (projection 16x8x8 to 32x4x4): 0.1000 ms" in note for note in report.notes)
    assert report.warnings == ("the same words",)


def test_what_no_module_accounts_for_has_the_interval_of_a_network_without_any(checkpoint, tmp_path):
    table, _ = table_of(checkpoint, tmp_path / "out")
    places = range(1 + len(table.shapes))
    cells = tuple(tuple(0.01**2 * (a == b) for b in places) for a in places)
    uncertain = table.model_copy(update={"covariance": cells, "fit_error": 0.0})
    none_left = predicted_ms(uncertain, [*table.saved_ms])
    half = none_left.high - none_left.value
    assert none_left.value == pytest.approx(table.rest_ms)
    assert f"of which {table.rest_ms:.3f} ± {half:.3f} ms" in uncertain.lines()[-1]
    assert "±" not in uncertain.model_copy(update={"degrees": 0}).lines()[-1]


def test_what_was_timed_has_the_whole_batch_and_leaves_no_file(checkpoint, tmp_path):
    machine = FakeMachine()
    config = LatencyConfig(networks=4, rounds=5, threads=1, batch=2)
    table_of(checkpoint, tmp_path / "out", config, machine)
    assert machine.kinds == [OnnxModel] * 7
    assert machine.config.batch == 2
    assert machine.config.include_qdq
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["latency.json"]


def test_int8_times_graphs_with_pairs_and_says_what_that_is_worth(checkpoint, tmp_path):
    machine = FakeMachine()
    _, report = table_of(checkpoint, tmp_path, FEW.model_copy(update={"precision": "int8"}), machine)
    assert set(machine.precisions) == {"int8"}
    assert any("says nothing of INT8 speed on a GPU" in note for note in report.notes)


def test_torch_times_the_checkpoints_themselves_and_no_int8(checkpoint, tmp_path):
    machine = FakeMachine()
    table_of(checkpoint, tmp_path, FEW.model_copy(update={"runtime": "torch"}), machine)
    assert {kind.suffix for kind in machine.kinds} == {".safetensors"}
    with pytest.raises(InputError, match="--runtime ort"):
        LatencyConfig(runtime="torch", precision="int8").check()


def test_too_few_networks_for_the_shapes_and_no_module_at_all(checkpoint, checkpoint_of, spec_of, tmp_path):
    with pytest.raises(InputError, match="--networks 3 cannot tell 3 shapes apart; use 4"):
        latency_table(checkpoint, FEW.model_copy(update={"networks": 3}), tmp_path, measure=FakeMachine())
    bare = checkpoint_of(spec_of("resnet8").without(tuple(SAVED_MS)), "bare.safetensors")
    with pytest.raises(InputError, match="no module left"):
        latency_table(bare, FEW, tmp_path, measure=FakeMachine())


def test_a_prediction_is_the_sum_with_an_interval(checkpoint, tmp_path):
    table, _ = table_of(checkpoint, tmp_path)
    predicted = predicted_ms(table, ("layer1.0", "layer3.0"))
    assert predicted.value == pytest.approx(0.4)
    assert predicted.low == pytest.approx(predicted.high, abs=1e-6)
    doubtful = table.model_copy(update={"fit_error": 0.1, "degrees": 1000})
    wide = predicted_ms(doubtful, ("layer1.0", "layer3.0"))
    assert wide.high - wide.value == pytest.approx(1.96 * 0.1 * 0.4, rel=0.01)


def test_a_table_of_a_pruned_network_counts_from_there(checkpoint_of, spec_of, tmp_path):
    pruned = checkpoint_of(spec_of("resnet8").without(("layer1.0",)))
    table, _ = table_of(pruned, tmp_path)
    assert predicted_ms(table, ("layer1.0",)).value == pytest.approx(0.6)
    assert predicted_ms(table, ("layer1.0", "layer2.0")).value == pytest.approx(0.5)


def test_a_table_serves_its_network_and_what_is_cut_from_it_only(checkpoint_of, spec_of, tmp_path):
    spec = spec_of("resnet8").without(("layer1.0",))
    table, _ = table_of(checkpoint_of(spec), tmp_path)
    check_table(table, spec)
    check_table(table, spec.without(("layer2.0",)))
    with pytest.raises(InputError, match=r"measured without layer1\.0"):
        check_table(table, spec_of("resnet8"))
    with pytest.raises(InputError, match="another network: variant resnet8, here resnet14"):
        check_table(table, spec_of("resnet14"))
    with pytest.raises(InputError, match=r"knows no module layer9\.9"):
        predicted_ms(table, ("layer9.9",))


def test_a_network_that_brought_its_graph_is_known_by_it_whatever_its_file_is_called(checkpoint, spec_of, tmp_path):
    table, _ = table_of(checkpoint, tmp_path)
    graph = spec_of("resnet8").model_copy(update={"family": TRACED, "variant": "net", "structure": "width 12"})
    table = table.model_copy(update={"spec": graph})
    check_table(table, graph.model_copy(update={"variant": "net2"}).without(("layer2.0",)))
    with pytest.raises(InputError, match="of another network: its graph is not net's; measure this one"):
        check_table(table, graph.model_copy(update={"structure": "width 16"}))


def test_a_table_of_a_board_is_measured_again_on_that_board(checkpoint_of, spec_of, tmp_path):
    table, _ = table_of(checkpoint_of(spec_of("resnet8").without(("layer1.0",))), tmp_path)
    conditions = table.conditions.model_copy(update={"runtime": "tensorrt"})
    there = table.model_copy(update={"conditions": conditions, "machine": "desk: Jetson Orin Nano"})
    command = "edgeres bench --per-module MODEL.safetensors --on desk"
    for other in ("resnet8", "resnet14"):
        with pytest.raises(InputError, match=f": {command}$"):
            check_table(there, spec_of(other))
    with pytest.raises(InputError, match=f": {command}$"):
        predicted_ms(there, ("layer9.9",))


def test_another_machine_and_a_poor_fit_are_said(checkpoint, tmp_path):
    table, _ = table_of(checkpoint, tmp_path)
    assert "another machine" in doubts(table)[0]
    assert "5.0 %" in doubts(table.model_copy(update={"fit_error": 0.05}))[1]


def test_something_else_is_no_table(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"kind": "scales"}))
    with pytest.raises(InputError, match="not a readable LatencyTable"):
        latency_table_from(path)


@pytest.mark.exhaustive
def test_on_this_machine_deeper_takes_longer(checkpoint, tmp_path):
    result = latency_table(checkpoint, LatencyConfig(networks=4, rounds=5, seconds=0.2, threads=1), tmp_path)
    table: LatencyTable = latency_table_from(result.output.path)
    assert table.runtime.startswith("onnxruntime")
    assert sum(table.saved_ms.values()) > 0
    assert result.report.duration_s > 0
