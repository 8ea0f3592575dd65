import json
import sys

import pytest
from click.testing import CliRunner

from edgeres.bench import board_session, boards
from edgeres.bench.board_answers import BuildDone, JobDone
from edgeres.bench.board_session import session
from edgeres.cli.board import board as board_command
from edgeres.core.errors import DeviceError, InputError, MissingDependency

DESK = boards.checked_board("desk", "orin")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """A home without boards and without keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("EDGERES_BOARDS", raising=False)


def test_boards_are_kept_by_name():
    with pytest.raises(InputError, match="no board can be called 'here'"):
        boards.add_board("here", "me@localhost")
    boards.add_board("desk", "orin")
    boards.add_board("shelf", "me@192.168.1.5")
    boards.add_board("desk", "orin2")
    assert {one.name: one.host for one in boards.boards().values()} == {"desk": "orin2", "shelf": "me@192.168.1.5"}
    for name in ("dusk", "orin2"):  # the latter is where it lies
        with pytest.raises(InputError, match=rf"no board '{name}'; did you mean desk\?$"):
            boards.board_named(name)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("-x", "orin"),
        ("a b", "orin"),
        ("../a", "orin"),
        ("desk", "-oProxyCommand=x"),
        ("desk", "a;b"),
        ("desk", ""),
        ("x", "h:99999999"),
    ],
)
def test_a_name_that_ssh_could_misread_is_refused(name, host):
    with pytest.raises(InputError, match=r"^(board name|host) "):
        boards.add_board(name, host)
    assert not boards.boards_file().exists()


@pytest.mark.parametrize("text", ["[desk]\n", "desk = 3\n", "[desk]\nhost = 3\n", "[desk\n"])
def test_a_damaged_list_of_boards_is_named(text):
    boards.boards_file().parent.mkdir(parents=True)
    boards.boards_file().write_text(text)
    with pytest.raises(InputError, match=r"boards\.toml"):
        boards.boards()


def test_boards_are_added_listed_and_forgotten_on_the_command_line():
    def call(*words):
        return CliRunner().invoke(board_command, words, catch_exceptions=False).output

    assert json.loads(call("list", "--json")) == []
    assert call("list").startswith("no boards yet; keep one: edgeres board add NAME HOST")
    assert call("add", "desk", "orin").startswith("desk: orin; look at it: ")
    assert call("add", "desk", "orin").startswith("desk: orin; look at it: ")
    assert call("add", "desk", "me@orin2").startswith("desk: me@orin2 instead of orin; look at it: ")
    assert json.loads(call("list", "--json")) == [{"name": "desk", "host": "me@orin2"}]
    assert call("remove", "desk") == "desk (me@orin2) is no longer kept\n"
    assert boards.boards() == {}
    with pytest.raises(InputError, match=r"no board 'desk' \(see: edgeres board list\)"):
        boards.remove_board("desk")


def test_without_fabric_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fabric", None)
    with pytest.raises(MissingDependency, match=r"edgeres\[boards\]"), session(DESK):
        pass


def test_a_board_is_looked_at_over_real_ssh_and_left_as_it_was(host):
    host.start()
    result = CliRunner().invoke(board_command, ["check", "desk"], catch_exceptions=False)
    assert "jetson-orin-nano-super, sm87" in result.output
    assert "power mode: MAXN_SUPER (id 2)" in result.output
    result = CliRunner().invoke(board_command, ["check", "desk", "--json"], catch_exceptions=False)
    found = json.loads(result.output)
    assert (found["schema_version"], found["jetpack"], found["power_mode"]["id"]) == (1, "6.2", 2)
    assert (found["capability"], found["target"], found["tensorrt"]) == (None, "sm87", "10.3.0.30")
    assert host.left_behind() == []


def test_a_failure_on_the_board_is_one_line_and_leaves_nothing(host):
    host.start(FAKE_MODE="bad")
    with session(DESK) as opened:
        onnx = opened.write(b"no network", "x.onnx")
        with pytest.raises(DeviceError, match=r"^desk: the build failed: .*Failed to parse onnx file"):
            opened.agent(BuildDone, "--onnx", onnx, "--engine", f"{opened.folder}/x.plan")
    assert host.left_behind() == []


def test_an_unknown_host_key_is_refused_with_what_to_do(host):
    host.start()
    (host.home / "known_hosts").unlink()
    with pytest.raises(DeviceError, match="is not known; look at it and accept it: ssh orin"), session(DESK):
        pass


def test_a_jump_host_works_and_its_key_is_verified_too(host):
    host.start()
    jumped = boards.checked_board("desk", "jumped")
    with pytest.raises(DeviceError, match="not known"), session(jumped):
        pass
    known = host.home / "known_hosts"
    known.write_text(known.read_text() + known.read_text().replace("127.0.0.1", "localhost"))
    with session(jumped) as opened:
        assert opened.found.jetpack == "6.2"
    assert host.left_behind() == []


def test_a_board_that_is_off_is_one_line(host):
    host.keys()
    with pytest.raises(DeviceError, match=r"^desk: cannot reach orin over ssh"), session(DESK):
        pass


def test_words_with_shell_characters_stay_words(host):
    host.start()
    with session(DESK) as opened:
        words = ["printf", "%s", "$(id) `id` ; 'x' \"y\" *"]
        assert opened.link.run(words).out == words[2]


class Nonsense(JobDone):
    job = "nonsense"


def test_an_answer_that_is_none_says_what_the_program_said_last(host):
    host.start()
    with session(DESK) as opened, pytest.raises(DeviceError, match=r"^desk: the agent ended with exit 2: .*nonsense"):
        opened.agent(Nonsense)
    assert host.left_behind() == []


def test_a_keeper_that_cannot_run_is_named(host, monkeypatch, tmp_path):
    (tmp_path / "keeper.py").write_text("raise SystemExit('no such thing here')\n")
    monkeypatch.setattr(board_session, "_KEEPER_SOURCE", tmp_path / "keeper.py")
    host.start()
    with pytest.raises(DeviceError, match="cannot be kept there, python3 said: no such thing here"), session(DESK):
        pass
    assert host.left_behind() == []


def test_a_session_serves_many_jobs(host):
    host.start()
    with session(DESK) as opened:
        assert opened.found.jetpack == "6.2"
        assert opened.found is opened.found
        assert opened.write(b"abc", "a b") == f"{opened.folder}/a b"
        assert opened.link.run(["cat", f"{opened.folder}/a b"]).out == "abc"
    assert host.left_behind() == []
