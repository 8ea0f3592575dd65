import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeres.bench.measure import Turn
from edgeres.bench.session import Worker, measure_interleaved, orders
from edgeres.bench.watch import Watch
from edgeres.bench.worker import Job
from edgeres.core.errors import StageError

TURN = Turn(seconds=0, least=2, most=2)
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def fake_worker(tmp_path, monkeypatch):
    """Writes a module that stands in for the worker process."""

    def write(body):
        (tmp_path / "fake_worker.py").write_text(f"import sys, json, os\njob = json.loads(input())\n{body}")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr("edgeres.bench.session._WORKER", "fake_worker")

    return write


READY = "print(json.dumps({'runtime': 'fake', 'warmup': 5, 'stable': True}), flush=True)\n"


def job(name="model.onnx", threads=1):
    return Job(path=Path(name), batch=1, threads=threads)


def drawn(models, rounds, seed):
    return list(itertools.islice(orders(models, seed), rounds))


def test_every_round_has_every_model_once_in_a_new_order():
    found = drawn(4, 50, seed=0)
    assert all(sorted(order) == [0, 1, 2, 3] for order in found)
    assert len({tuple(order) for order in found}) > 10
    assert {order[0] for order in found} == {0, 1, 2, 3}
    assert found == drawn(4, 50, seed=0) != drawn(4, 50, seed=1)


def test_exactly_one_worker_runs_at_a_time(fake_worker, tmp_path):
    journal = tmp_path / "journal"
    body = (
        "for line in sys.stdin:\n"
        f"    log = open({str(journal)!r}, 'a'); log.write('+' + job['path']); log.flush()\n"
        "    log.write('-' + job['path'] + ' '); log.flush()\n"
        "    print(json.dumps({'samples_ms': [1.0, 2.0]}), flush=True)\n"
    )
    fake_worker(READY + body)
    session, measured = measure_interleaved([job("a"), job("b"), job("c")], TURN, rounds=4, seed=0)
    turns = journal.read_text().split()
    assert sorted(turns) == ["+a-a"] * 4 + ["+b-b"] * 4 + ["+c-c"] * 4
    assert [one.rounds for one in measured] == [[[1.0, 2.0]] * 4] * 3
    assert session


def test_two_sessions_have_two_names(fake_worker):
    fake_worker(READY + "for line in sys.stdin: print(json.dumps({'samples_ms': [1.0]}), flush=True)\n")
    sessions = {measure_interleaved([job()], TURN, rounds=1, seed=0)[0] for _ in range(2)}
    assert len(sessions) == 2


def test_rounds_go_on_in_whole_until_enough_is_said(fake_worker):
    fake_worker(READY + "for line in sys.stdin: print(json.dumps({'samples_ms': [1.0]}), flush=True)\n")
    asked = []

    def enough(measured):
        asked.append([len(one.rounds) for one in measured])
        return len(asked) == 3

    _, measured = measure_interleaved([job("a"), job("b")], TURN, rounds=2, seed=0, enough=enough)
    assert asked == [[2, 2], [3, 3], [4, 4]]
    assert [len(one.rounds) for one in measured] == [4, 4]


def test_a_job_may_ask_for_fewer_calls_than_the_turn(fake_worker):
    body = "for line in sys.stdin: print(json.dumps({'samples_ms': [float(json.loads(line)['least'])]}), flush=True)\n"
    fake_worker(READY + body)
    few = job("b").model_copy(update={"least": 1})
    _, measured = measure_interleaved([job("a"), few], TURN, rounds=1, seed=0)
    assert [one.samples_ms for one in measured] == [(2.0,), (1.0,)]


def test_the_machine_is_looked_at_between_rounds_with_the_workers_known_as_ours(fake_worker):
    fake_worker(READY + "for line in sys.stdin: print(json.dumps({'samples_ms': [1.0]}), flush=True)\n")
    seen = []

    class FakeWatch(Watch):
        def start(self, pids):
            seen.append(len(set(pids)))

        def look(self):
            seen.append("look")

    measure_interleaved([job("a"), job("b")], TURN, rounds=3, seed=0, watch=FakeWatch())
    assert seen == [2, "look", "look", "look"]


def test_a_worker_sleeps_between_turns_and_knows_its_threads(fake_worker):
    names = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    body = READY.replace("'fake'", f"'/'.join(os.environ[n] for n in {names})")
    fake_worker(body)
    with Worker(job(threads=3)) as worker:
        assert worker.ready.runtime == "PASSIVE/0/3"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print(json.dumps({'error': 'the graph is broken'}))\n", "bench: model.onnx: the graph is broken"),
        ("raise ImportError('no torch here')\n", r"bench: model.onnx was lost: .*exit 1.*no torch here"),
        ("os.kill(os.getpid(), 9)\n", r"bench: model.onnx was lost: .*signal 9.*it said nothing"),
        ("print('hello')\n", "bench: model.onnx: its process answered 'hello'"),
    ],
)
def test_a_worker_that_cannot_load_is_one_clear_line(fake_worker, body, message):
    fake_worker(body)
    with pytest.raises(StageError, match=message) as caught, Worker(job()):
        pass
    assert "\n" not in str(caught.value)


def test_a_worker_that_dies_between_turns_is_named(fake_worker):
    fake_worker(READY + "sys.stdin.readline(); print('out of memory', file=sys.stderr); sys.exit(7)\n")
    with (
        pytest.raises(StageError, match=r"model.onnx was lost: .*exit 7.*out of memory"),
        Worker(job()) as worker,
    ):
        worker.measure(TURN)


def test_no_worker_is_left_behind(fake_worker):
    fake_worker(READY + "for line in sys.stdin: pass\n")
    with Worker(job()) as worker:
        process = worker._process
        assert process.poll() is None
    assert process.returncode == 0


def test_the_real_worker_answers_a_missing_file_in_one_line(tmp_path):
    with (
        pytest.raises(StageError, match=r"nowhere\.onnx does not exist"),
        Worker(job(str(tmp_path / "nowhere.onnx"))),
    ):
        pass


@pytest.mark.slow
def test_the_real_worker_rests_from_its_answer_to_its_next_turn(checkpoint_of, spec_of):
    def used_s(pid):
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / TICKS

    with Worker(job(str(checkpoint_of(spec_of("resnet8")).path))) as worker:
        before, used = used_s(worker.pid), []
        for _ in range(5):
            worker.measure(TURN)
            answered = used_s(worker.pid)
            time.sleep(0.3)
            used.append(used_s(worker.pid) - answered)
    assert before > 0.1  # it is counted
    assert max(used) <= 0.02  # torch's heap takes longer to look through, while another worker is timed


def test_a_worker_finds_the_package_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(StageError, match=r"absent\.onnx does not exist"), Worker(job("absent.onnx")):
        pass


def test_the_parent_process_needs_neither_torch_nor_onnx():
    heavy = "{'torch', 'onnx', 'onnxruntime'}"
    code = f"import sys, edgeres.bench.stage; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
