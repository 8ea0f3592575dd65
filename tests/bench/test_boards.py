import getpass
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeres.bench import boards
from edgeres.cli.board import board as board_command
from edgeres.core.errors import DeviceError, InputError, MissingDependency

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


def fakes():
    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).with_name("fakes.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """A home without boards and without keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)


class Host:
    """A real OpenSSH server on this machine, a pretend Jetson behind it."""

    def __init__(self, root, port):
        self.root, self.port = root, port
        self.home = root / ".ssh"
        self.process = None

    def start(self, **more):
        self._keys()
        environment = {**fakes().pretend_jetson(self.root / "jetson"), **more}
        environment["TMPDIR"] = str(self.root / "board-tmp")
        (self.root / "board-tmp").mkdir()
        environment["PATH"] = f"{environment['PATH']}:{Path(sys.executable).parent}"
        settings = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.root}/host", "StrictModes no", "UsePAM no",
            f"AuthorizedKeysFile {self.root}/me.pub", "PasswordAuthentication no", f"PidFile {self.root}/pid",
            "PermitRootLogin prohibit-password", "Subsystem sftp internal-sftp",
            "SetEnv " + " ".join(f'{name}="{value}"' for name, value in environment.items()),
        ]  # fmt: skip
        (self.root / "sshd_config").write_text("\n".join(settings) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        command = [SSHD, "-D", "-e", "-f", str(self.root / "sshd_config")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._wait()

    def _keys(self):
        for name in ("host", "me", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / name)]
            subprocess.run(command, check=True)
        config = [
            "Host orin", "HostName 127.0.0.1", f"Port {self.port}", f"User {getpass.getuser()}",
            f"IdentityFile {self.root}/me", "Host jumped", "HostName 127.0.0.1", f"Port {self.port}",
            f"User {getpass.getuser()}", f"IdentityFile {self.root}/me", "ProxyJump stranger",
            "Host stranger", "HostName localhost", f"Port {self.port}", f"User {getpass.getuser()}",
            f"IdentityFile {self.root}/me",
        ]  # fmt: skip
        (self.home / "config").write_text("\n".join(config) + "\n")
        self.know("host")

    def know(self, key):
        kind, value = (self.root / f"{key}.pub").read_text().split()[:2]
        (self.home / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def _wait(self):
        for _ in range(200):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("sshd did not start")

    def left_behind(self):
        return list((self.root / "board-tmp").iterdir())

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def host(tmp_path):
    if SSHD is None or not os.access("/run", os.W_OK):
        pytest.skip("no OpenSSH server that may be started here")
    pytest.importorskip("fabric")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = Host(tmp_path, port)
    yield one
    if one.process is not None:
        one.stop()


def test_boards_are_kept_by_name(own_home):
    boards.add_board("desk", "orin")
    boards.add_board("shelf", "me@192.168.1.5")
    boards.add_board("desk", "orin2")
    assert {one.name: one.host for one in boards.boards().values()} == {"desk": "orin2", "shelf": "me@192.168.1.5"}
    with pytest.raises(InputError, match="no board 'dusk'; did you mean desk"):
        boards.board_named("dusk")


@pytest.mark.parametrize(
    ("name", "host"),
    [("-x", "orin"), ("a b", "orin"), ("../a", "orin"), ("desk", "-oProxyCommand=x"), ("desk", "a;b"), ("desk", "")],
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


def test_without_fabric_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fabric", None)
    with pytest.raises(MissingDependency, match=r"edgeres\[boards\]"), boards.session(boards.checked_board("a", "b")):
        pass


def test_a_board_is_looked_at_over_real_ssh_and_left_as_it_was(host):
    host.start()
    boards.add_board("desk", "orin")
    result = CliRunner().invoke(board_command, ["check", "desk"], catch_exceptions=False)
    assert "jetson-orin-nano-super, sm87" in result.output
    assert "power mode: MAXN_SUPER (id 2)" in result.output
    assert host.left_behind() == []


def test_a_model_is_built_and_measured_over_real_ssh(host, tmp_path):
    host.start()
    (tmp_path / "model.onnx").write_bytes(b"onnx" * 1000)
    with boards.session(boards.checked_board("desk", "orin")) as opened:
        onnx = opened.upload(tmp_path / "model.onnx", "model.onnx")
        engine = f"{opened.folder}/model.plan"
        built = opened.agent("build", "--onnx", onnx, "--engine", engine)
        short = ["--warmup-s", "0", "--idle-s", "0.5", "--folder", opened.folder]
        result = opened.agent("measure", "--engine", engine, *short)
    assert built["engine_sha256"] == result["engine_sha256"]
    assert result["is_valid"]
    assert result["energy"]["source"] == "VDD_IN"
    assert host.left_behind() == []
    json.dumps(result)


def test_a_failure_on_the_board_is_one_line_and_leaves_nothing(host):
    host.start(FAKE_MODE="bad")
    with (
        pytest.raises(DeviceError, match=r"desk: the build failed: .*Failed to parse onnx file"),
        boards.session(boards.checked_board("desk", "orin")) as opened,
    ):
        opened.agent("build", "--onnx", "x.onnx", "--engine", "x.plan")
    assert host.left_behind() == []


def test_a_wrong_host_key_is_refused(host):
    host.start()
    host.know("other")
    with (
        pytest.raises(DeviceError, match="shows another host key"),
        boards.session(boards.checked_board("desk", "orin")),
    ):
        pass


def test_an_unknown_host_key_is_refused_with_what_to_do(host):
    host.start()
    (host.home / "known_hosts").unlink()
    with (
        pytest.raises(DeviceError, match="is not known; look at it and accept it: ssh orin"),
        boards.session(boards.checked_board("desk", "orin")),
    ):
        pass


def test_a_jump_host_works_and_its_key_is_verified_too(host):
    host.start()
    with pytest.raises(DeviceError, match="not known"), boards.session(boards.checked_board("desk", "jumped")):
        pass
    known = host.home / "known_hosts"
    known.write_text(known.read_text() + known.read_text().replace("127.0.0.1", "localhost"))
    with boards.session(boards.checked_board("desk", "jumped")) as opened:
        assert opened.agent("detect")["jetpack"] == "6.2"
    assert host.left_behind() == []


def test_a_board_that_is_off_is_one_line(host):
    host._keys()
    with (
        pytest.raises(DeviceError, match="desk: cannot reach orin over ssh"),
        boards.session(boards.checked_board("desk", "orin")),
    ):
        pass


def test_words_with_shell_characters_stay_words(host):
    host.start()
    with boards.session(boards.checked_board("desk", "orin")) as opened:
        words = ["printf", "%s", "$(id) `id` ; 'x' \"y\" *"]
        assert boards._run(opened._connection, words, opened.board)[1] == words[2]


def test_a_connection_that_is_cut_leaves_nothing_on_the_board(host):
    host.start(FAKE_MODE="slowly")
    with boards.session(boards.checked_board("desk", "orin")) as opened:
        agent = f"{opened.folder}/agent.pyz"
        words = ["python3", agent, "--leash", "--remove", opened.folder, "measure", "--engine", "x", "--idle-s", "0"]
        kept = opened._connection.client.exec_command(" ".join(words))
        wait_until(lambda: (host.root / "jetson" / "state" / "load").exists())
        opened._connection.client.get_transport().sock.close()
    wait_until(lambda: host.left_behind() == [])
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert agent not in listed
    assert f"{host.root}/jetson/bin" not in listed
    assert kept


def wait_until(is_so):
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")
