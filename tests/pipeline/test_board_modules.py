"""The table of a board that is interrupted and typed again, in a run and beside --out; no board is asked."""

import json
import os
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from edgeres.core.errors import DeviceError, InputError
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import latency_table_from
from edgeres.core.runs import process_began, started_text
from edgeres.core.stage import Recorder
from edgeres.pipeline import board_stages
from edgeres.pipeline.calls import Call, call

pytestmark = pytest.mark.usefixtures("exported_once")
NETWORKS = 3 + 4
ORIN = {"model": "Orin", "l4t": "36.4.3", "power_mode": {"name": "15W", "id": 0}}


class FakeBoard:
    """A fake of a board at work: a module takes 0.1 ms, and after `lasts` networks the connection is lost."""

    def __init__(self, found):
        self.lasts, self.asked, self.found = NETWORKS, [], found

    def bench(self, opened, config):
        return SimpleNamespace(run=self.run, session=SimpleNamespace(found=self.found))

    def run(self, model):
        if len(self.asked) == self.lasts:
            raise DeviceError("desk: the connection was lost")
        self.asked.append(model.spec.dropped)
        recorder = Recorder("board", board_stages.LatencyConfig(), None)
        made_up = {"batch": 1, "runtime": "tensorrt 10.3.0", "threads": 0, "session": "s", "warmup": 0}
        samples = (1.0 - 0.1 * len(model.spec.dropped),) * 40
        recorder.latency.append(Latency(samples_ms=samples, artifact=model.sha256, machine="desk: Orin", **made_up))
        return recorder.finish(None)

    def opened(self, board):
        self.asked = []
        return nullcontext(SimpleNamespace(board=board, found=self.found))


@pytest.fixture
def board(tmp_path, monkeypatch, found_of):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    board = FakeBoard(found_of(**ORIN))
    monkeypatch.setattr(board_stages, "session", board.opened)
    monkeypatch.setattr(board_stages, "Bench", board.bench)
    return board


@pytest.fixture
def table(checkpoint_of, spec_of, tmp_path):
    """`table(...)` types the command again, with options."""
    checkpoint, out = checkpoint_of(spec_of()), tmp_path / "latency.json"

    def make(**values):
        options = {"networks": 4, "duration_s": 1, **values}
        return call(Call("latency", checkpoint.path, out=out, values=options, on="desk")).report

    make.out = out
    return make


def hidden(folder):
    return sorted(path.name for path in folder.glob(".latency.json.*"))


def lost_after(board, table, networks, **values):
    board.lasts = networks
    with pytest.raises(DeviceError, match="lost"):
        table(**values)
    board.lasts = NETWORKS


def test_the_same_command_goes_on_with_the_networks_that_were_timed(board, table, tmp_path, caplog):
    lost_after(board, table, 5)
    (name,) = hidden(tmp_path)
    assert f"what was done is kept in {tmp_path / name}; the same command goes on from there" in caplog.messages
    assert not table.out.exists()
    report = table()
    assert len(board.asked) == 2
    assert report.notes[-1] == "5 of 7 networks had been timed by an earlier call of this command"
    saved_ms = latency_table_from(table.out).saved_ms
    assert saved_ms == pytest.approx(dict.fromkeys(("layer1.0", "layer2.0", "layer3.0"), 0.1))
    assert hidden(tmp_path) == []


def test_a_table_that_is_not_interrupted_leaves_nothing_and_measures_all_again(board, table, tmp_path):
    for _ in range(2):
        assert "had been timed" not in " ".join(table().notes)
        assert len(board.asked) == NETWORKS
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("change", [{"duration_s": 2}, {"seed": 1}, {"power_mode": "25W"}])
def test_other_options_begin_a_table_of_their_own(board, table, change):
    lost_after(board, table, 5)
    table(**change)
    assert len(board.asked) == NETWORKS


def test_a_limit_of_time_or_a_name_is_no_other_measurement(board, table):
    lost_after(board, table, 5)
    table(timeout_s=99)
    assert len(board.asked) == 2


@pytest.mark.parametrize(
    "change", [{"l4t": "36.5"}, {"power_mode": {"name": "25W", "id": 1}}, {"packages": {"libnvinfer-bin": "10.7.0-1"}}]
)
def test_a_board_that_is_not_as_it_was_is_measured_anew(board, table, change, tmp_path, found_of):
    lost_after(board, table, 5)
    board.found = found_of(**{**ORIN, **change})
    table()
    assert len(board.asked) == NETWORKS
    assert hidden(tmp_path) == []


def test_a_failure_before_the_first_network_leaves_nothing(board, table, tmp_path):
    lost_after(board, table, 0)
    assert hidden(tmp_path) == []


def test_two_calls_do_not_make_the_same_file(board, table, tmp_path):
    lost_after(board, table, 1)
    (name,) = hidden(tmp_path)
    living = {"pid": os.getppid(), "began": process_began(os.getppid())}
    started = json.loads(started_text("latency", "key")) | living
    (tmp_path / name / "started.json").write_text(json.dumps(started))
    with pytest.raises(InputError, match=r"another edgeres is making .*latency\.json"):
        table()


def test_in_a_run_the_folder_that_was_begun_is_gone_on_in(board, checkpoint_of, spec_of, runs_folder):
    checkpoint, folder = checkpoint_of(spec_of()), runs_folder / "r" / "00-train"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("{}")
    source = checkpoint.path.rename(folder / "model.safetensors")
    typed = Call("latency", source, values={"networks": 4}, on="desk")
    board.lasts = 5
    with pytest.raises(DeviceError):
        call(typed)
    begun = runs_folder / "r" / "01-latency"
    assert sorted(path.name for path in begun.iterdir()) == ["networks.json", "started.json"]
    board.lasts = NETWORKS
    report = call(typed).report
    assert len(board.asked) == 2
    assert sorted(path.name for path in begun.iterdir()) == ["latency.json", "report.json"]
    assert report.output.path.endswith("01-latency/latency.json")
