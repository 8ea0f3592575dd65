"""A real OpenSSH server on loopback with a pretend Jetson behind it, and a wire between that can be cut."""

import contextlib
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

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
CAN_SERVE = SSHD is not None and os.access("/run", os.W_OK)


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
                target.sendall(some)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Host:
    """Host `orin` of ~/.ssh/config (in `root`), its key known; `wire` cuts the connection."""

    def __init__(self, root):
        self.root, self.port, self.home = root, free_port(), root / ".ssh"
        self.process = self.wire = None
        self.environment = {}
        self.board_tmp = root / "board-tmp"

    def start(self, *, jetpack="6.2", cuts=None, **more):
        fakes = loaded("fakes")
        self.fakes = fakes
        environment = self.environment = {**fakes.pretend_jetson(self.root / "jetson", jetpack=jetpack), **more}
        if cuts is not None:
            self.wire = Wire(self.port, cuts)
        self.keys()
        environment.setdefault("TMPDIR", str(self.board_tmp))
        self.board_tmp.mkdir()
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
        wait_until(self._answers)

    def mode(self, mode):
        """From now on this goes wrong on the board ("" nothing)."""
        self.fakes.set_mode(self.root / "jetson", mode)

    def keys(self):
        for name in ("host", "me", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / name)]
            subprocess.run(command, check=True)
        port = self.wire.port if self.wire else self.port
        user, key = f"User {getpass.getuser()}", f"IdentityFile {self.root}/me"
        config = [
            "Host orin", "HostName 127.0.0.1", f"Port {port}", user, key,
            "Host jumped", "HostName 127.0.0.1", f"Port {port}", user, key, "ProxyJump stranger",
            "Host stranger", "HostName localhost", f"Port {port}", user, key,
        ]  # fmt: skip
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / "config").write_text("\n".join(config) + "\n")
        self.know("host")

    def know(self, key):
        kind, value = (self.root / f"{key}.pub").read_text().split()[:2]
        port = self.wire.port if self.wire else self.port
        (self.home / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {value}\n")

    def _answers(self):
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", self.port)) == 0

    def clock(self):
        """Lowest and highest clock of the GPU in Hz."""
        folder = next((self.root / "jetson" / "sys/class/devfreq").iterdir())
        return tuple((folder / key).read_text().strip() for key in ("min_freq", "max_freq"))

    def left_behind(self):
        """The folders of runs that lie in the board's folder for temporary files."""
        return [path for path in self.board_tmp.iterdir() if path.name.startswith("edgeres-run-")]

    def programs(self):
        """Process ids and command lines of this board's programs that still run."""
        listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        places = f"{self.root}/jetson/bin", f"{self.board_tmp}/"
        return [line for line in listed.splitlines() if any(place in line for place in places)]

    def stop(self):
        if self.wire is not None:
            self.wire.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


@contextlib.contextmanager
def serving(tmp_path, monkeypatch):
    """A Host in a home of its own, with a board `desk` that is it; not started."""
    import pytest

    if not CAN_SERVE:
        pytest.skip("no OpenSSH server that may be started here")
    pytest.importorskip("fabric")
    root = tmp_path / "home"
    root.mkdir()
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("EDGERES_BOARDS", str(root / "boards.toml"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (root / "boards.toml").write_text('[desk]\nhost = "orin"\n')
    host = Host(root)
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
