"""Pretend Jetsons: fakes of JetPack's programs and files, nothing of which was ever near real hardware.

One board each of JetPack 4.6, 5.1, 6.2 and 7.2 (`pretend/boards.py`): trtexec with the options of its version,
tegrastats in its grammar, nvpmodel, jetson_clocks, sudo, a `tensorrt` module that executes the plans with ONNX
Runtime, and a CUDA driver that keeps count of memory.

FAKE_MODE, or the file state/mode that counts before it (`set_mode`), chooses what goes wrong, several by commas:
    build           bad, crash, full (no engine), nospace (half an engine), hang
    measurement     hang, crash, oom (killed), slowly (600 s), silent, drift, newmode, overcurrent
    tegrastats      throttle, garbage, newformat (midway), quiet (it ends midway), plain (no clock of the GPU),
                    blind (no temperature)
    jetson_clocks   unlockable
    evaluation      evalcrash, evalhang
FAKE_ROOT=no: nvpmodel and jetson_clocks refuse. FAKE_SUDO=asks: sudo wants a password. FAKE_TENSORRT=8201: trtexec is
of another version than the `tensorrt` module. FAKE_CUDA_BYTES: the most that one call for memory gives.
FAKE_INT8_MS: how long a query of a network with Q/DQ pairs takes, otherwise 2 ms as of any other.
"""

import functools
import importlib.util
import io
import json
import marshal
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

_PRETEND = Path(__file__).with_name("pretend")
LINES = (Path(__file__).parent / "data" / "tegrastats_synthetic.txt").read_text().splitlines()
PROGRAMS = ("trtexec", "tegrastats", "nvpmodel", "jetson_clocks", "sudo")
_SUPPORT = ("tensorrt.py", "cuda_driver.py", "ort_worker.py", "layers.py", "trtexec_options.json")


def jetpacks() -> dict[str, dict]:
    """JetPack -> the board that is pretended for it."""
    return _boards().BOARDS


def pretend_jetson(root: Path, *, jetpack: str = "6.2", networks: Path | None = None) -> dict[str, str]:
    """Writes the fakes below `root`; returns the environment in which a program sees them.

    `networks`: where boards keep what they have read of ONNX files, which takes longest.
    """
    board = jetpacks()[jetpack]
    for name, text in _boards().files_of(board).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/local/cuda").symlink_to(f"cuda-{board['cuda']}")
    for folder in ("bin", "python", "state"):
        (root / folder).mkdir()
    (root / "fake.json").write_text(json.dumps({**_facts(board), "networks": str(networks or root / "state")}))
    for name in _SUPPORT:
        shutil.copy(_PRETEND / name, root / "python" / name)
    for name in PROGRAMS:
        source = (_PRETEND / f"{name}.py").read_text()
        _program(root / "bin" / name, f"#!{sys.executable} -S\n{source}")
    (root / "packages").write_text("".join(f"{name} {version}\n" for name, version in board["packages"].items()))
    _program(root / "bin" / "dpkg-query", f'#!/bin/sh\nexec cat "{root}/packages"\n')
    _program(root / "bin" / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    return {
        "PATH": f"{root / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(root / "python"),
        "EDGERES_BOARD_ROOT": str(root),
        "FAKE_STATE": str(root / "state"),
    }


def set_mode(root: Path, mode: str) -> None:
    """From now on this goes wrong ("" nothing), whatever FAKE_MODE the programs were started with."""
    (root / "state" / "mode").write_text(mode)
    (root / "state" / "load").unlink(missing_ok=True)  # of a trtexec that was killed


@functools.cache
def compiled(agent: bytes) -> bytes:
    """The same file for the tests' own Python without compiling it at each start; others pass over what is added."""
    buffer = io.BytesIO(agent)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in archive.namelist():
            code = marshal.dumps(compile(archive.read(name), name, "exec"))
            unchecked = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)  # by PEP 552
            archive.writestr(f"{name}c", unchecked + code)
    return buffer.getvalue()


def programs_with(*words: str) -> list[str]:
    """Process id and command line of the programs with one of these words in it."""
    if Path("/proc/self").exists():  # not every machine has `ps`
        lines = [f"{path.parent.name} {_command_line(path)}" for path in Path("/proc").glob("[0-9]*/cmdline")]
    else:
        done = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
    return [line for line in lines if any(word in line for word in words)]


def _command_line(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").replace("\0", " ").strip()
    except OSError:  # it has ended
        return ""


def _facts(board: dict) -> dict:
    """What the fakes themselves read."""
    line = LINES[LINES.index(f"## {board['line']}") + 1]
    assert board["watts"] in line
    assert board["clock"] in line
    digits = "".join(filter(str.isdigit, board["watts"].split(" ")[1]))
    mhz = str(board["mhz"][0])
    text = line.replace(board["watts"], board["watts"].replace(digits, "{power}"))
    text = text.replace(board["clock"], board["clock"].replace(mhz, "{mhz}"))
    site = importlib.util.find_spec("onnx")
    return {
        "tensorrt": board["tensorrt"],
        "gpu_name": board["gpu_name"],
        "capability": board["capability"],
        "tegrastats": {"text": text, "mhz": board["mhz"][0]},
        "power": {key: board[key] for key in ("modes", "now", "reboots", "greeting")},
        "gpu": f"sys/class/devfreq/{board['gpu']}",
        "events": board["events"],
        "python": sys.executable,
        "site": [str(Path(site.origin).parents[1])] if site and site.origin else [],
    }


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _boards():
    spec = importlib.util.spec_from_file_location("pretend_boards", _PRETEND / "boards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
