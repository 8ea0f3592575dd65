"""A real ssh server on loopback with a pretend Jetson behind it, and a wire between that can be cut.

OpenSSH's where it is installed, otherwise one made of a library (`ssh_server.py`).
"""

import contextlib
import functools
import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from edgeres.bench import boards

_PLACES = "/usr/sbin:/usr/local/sbin:/sbin"
SSHD = shutil.which("sshd", path=os.environ.get("EDGERES_SSHD_PLACES", _PLACES)) if os.access("/run", os.W_OK) else None


@functools.cache
def loaded(name):
    """A file of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(is_so, seconds=20.0):
    for _ in range(int(seconds / 0.02)):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


class Wire:
    """Passes bytes on to `port`; cut after so many of them on their way there, as often as `cuts` has numbers."""

    def __init__(self, port, cuts=()):
        self.to, self.cuts, self.port, self.opened = port, list(cuts), free_port(), 0
        self.swallows_after = None  # so many bytes on their way back, all connections together: the rest is kept
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._live = []
        self.carried = []  # bytes outwards, by connection
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Now, and all that is open."""
        for one in self._live:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._live = []

    def close(self):
        self._listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.opened += 1
            far = socket.create_connection(("127.0.0.1", self.to))
            limit = self.cuts.pop(0) if self.cuts else None
            self._live += [near, far]
            self.carried.append(0)
            outwards = len(self.carried) - 1
            threading.Thread(target=self._pass, args=(near, far, limit, outwards), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, None), daemon=True).start()

    def _pass(self, source, target, limit, outwards=None):
        with contextlib.suppress(OSError):
            while some := source.recv(1 << 14):
                if outwards is not None:
                    self.carried[outwards] += len(some)
                if limit is not None:
                    limit -= len(some)
                    if limit < 0:
                        break
                if outwards is None and self.swallows_after is not None:
                    self.swallows_after -= len(some)
                    if self.swallows_after < 0:
                        continue
                target.sendall(some)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Server:
    """The ssh server of all tests of a process, with the keys `host`, `me` and `other` in its folder."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        for name in ("host", "me", "other"):
            _write_key(folder / name)

    def serve(self, environment):
        """From now on `me` is let in, to programs with this environment."""
        options = ",".join(f'environment="{name}={value}"' for name, value in environment.items())
        (self.folder / "authorized_keys").write_text(f"{options} {(self.folder / 'me.pub').read_text()}")
        if self.process is None:
            self.process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL, cwd=Path.home())
            wait_until(self._answers)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def _command(self):
        if SSHD is None:
            program = Path(__file__).with_name("ssh_server.py")
            return [sys.executable, str(program), str(self.port), str(self.folder)]
        settings = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.folder}/host", f"PidFile {self.folder}/pid",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "PermitUserEnvironment yes", "StrictModes no",
            "UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "MaxStartups 100",
            "Subsystem sftp internal-sftp",
        ]  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(settings) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        return [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]

    def _answers(self):
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", self.port)) == 0


def _write_key(path):
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()))
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b"\n")


class Host:
    """Host `orin` of ~/.ssh/config (in `root`), its key known; `wire` cuts the connection."""

    def __init__(self, server, root):
        self.server, self.root, self.home = server, root, root / ".ssh"
        self.wire, self.environment = None, {}
        self.port = free_port()  # where nobody answers
        self.board_tmp = root / "board-tmp"

    def start(self, *, jetpack="6.2", cuts=None, **more):
        fakes = loaded("fakes")
        self.fakes = fakes
        own = fakes.pretend_jetson(self.root / "jetson", jetpack=jetpack, networks=self.server.folder)
        environment = self.environment = {**own, **more}
        environment.setdefault("TMPDIR", str(self.board_tmp))
        environment.setdefault("HOME", str(self.root / "jetson"))  # bash reads ~/.bashrc for every command of ssh
        self.board_tmp.mkdir()
        environment["PATH"] = f"{environment['PATH']}:{Path(sys.executable).parent}"
        self.server.serve(environment)
        self.port = self.server.port
        if cuts is not None:
            self.wire = Wire(self.port, cuts)
            self.port = self.wire.port
        self.keys()

    def mode(self, mode):
        """From now on this goes wrong on the board ("" nothing)."""
        self.fakes.set_mode(self.root / "jetson", mode)

    def keys(self):
        user, key = f"User {getpass.getuser()}", f"IdentityFile {self.server.folder}/me"
        config = [
            "Host orin", "HostName 127.0.0.1", f"Port {self.port}", user, key,
            "Host jumped", "HostName 127.0.0.1", f"Port {self.port}", user, key, "ProxyJump stranger",
            "Host stranger", "HostName localhost", f"Port {self.port}", user, key,
        ]  # fmt: skip
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / "config").write_text("\n".join(config) + "\n")
        self.know("host")

    def know(self, key):
        kind, value = (self.server.folder / f"{key}.pub").read_text().split()[:2]
        (self.home / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def clock(self):
        """Lowest and highest clock of the GPU in Hz."""
        folder = next((self.root / "jetson" / "sys/class/devfreq").iterdir())
        return tuple((folder / key).read_text().strip() for key in ("min_freq", "max_freq"))

    def left_behind(self):
        """The folders of runs that lie in the board's folder for temporary files."""
        return [path for path in self.board_tmp.iterdir() if path.name.startswith("edgeres-run-")]

    def programs(self):
        """Process ids and command lines of this board's programs that still run."""
        return self.fakes.programs_with(f"{self.root}/jetson/bin", f"{self.board_tmp}/")

    def stop(self):
        if self.wire is not None:
            self.wire.close()


@contextlib.contextmanager
def serving(server, tmp_path, monkeypatch):
    """A Host in a home of its own, with a board `desk` that is it; not started."""
    root = tmp_path / "home"
    root.mkdir()
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("EDGERES_BOARDS", str(root / "boards.toml"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (root / "boards.toml").write_text('[desk]\nhost = "orin"\n')
    agent = loaded("fakes").compiled(boards.agent_bytes())
    monkeypatch.setattr("edgeres.bench.board_session.agent_bytes", lambda: agent)
    host = Host(server, root)
    try:
        yield host
    finally:
        host.stop()


def onnx_file(folder, *, arch="resnet8", batch=1, seed=0, opset=17):
    """A float ONNX file of a network with random weights for the digits data set."""
    import torch

    from edgeres.core.spec import Preprocess
    from edgeres.export.stage import ExportConfig, export
    from edgeres.models import network_from, spec_from_arch
    from edgeres.models.weights import save_checkpoint

    torch.manual_seed(seed)
    grey = Preprocess(mean=(0.3,), std=(0.4,))
    spec = spec_from_arch(arch, num_classes=10, input_shape=(1, 8, 8), preprocess=grey, options={})
    checkpoint = save_checkpoint(network_from(spec).state_dict(), spec, folder / "m.safetensors", stage="test")
    config = ExportConfig(dynamic=True, opset=opset) if batch is None else ExportConfig(batch=batch, opset=opset)
    folder.mkdir(exist_ok=True)
    return export(checkpoint, config, folder).output
