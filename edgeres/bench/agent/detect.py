"""What board this is: module, L4T and JetPack, TensorRT, CUDA, GPU, power mode, clocks, fan, trtexec.

Files are looked for below the folder in EDGERES_BOARD_ROOT ("/" if unset), which is how tests imitate a board.
What cannot be found is None or empty: nothing is guessed.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from edgeres.core.jetpacks import jetpack_of
from edgeres.runtime.cuda import CudaError, first_gpu

from . import process, trtexec
from .tegrastats import SENSOR_OFF_C

_TRTEXEC = "usr/src/tensorrt/bin/trtexec"  # where JetPack's package libnvinfer-bin puts it, not on PATH
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_MODE = re.compile(r"^NV Power Mode: *(\S+)\s*^(\d+)\s*$", re.MULTILINE)
_MODEL = re.compile(r"^< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>", re.MULTILINE)
_GPU_NAMES = ("gpu", "gv11b", "gp10b", "ga10b", "gm20b")  # how devfreq calls a Jetson's GPU
_CLOCKS = ("cur_freq", "min_freq", "max_freq")
_HZ_PER_MHZ = 1000000
_PER_DEGREE = 1000.0
_ZONE_END = re.compile(r"-therm(al)?$")


def board() -> "dict[str, object]":
    """Everything about this board that a measurement has to carry."""
    tool = trtexec_path()
    return {
        "model": _read("proc/device-tree/model").strip("\0 \n") or None,
        "compatible": [name for name in _read("proc/device-tree/compatible").split("\0") if name],
        "l4t": l4t(),
        "jetpack": jetpack_of(l4t() or ""),
        "packages": _packages(),
        "cuda": _cuda(),
        **_gpu(),
        "power_mode": power_mode(),
        "power_modes": power_modes(),
        "gpu_clock": gpu_clock(),
        "fan": _fan(),
        "trtexec": tool,
        "tegrastats": tegrastats_path(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def l4t() -> "str | None":
    """Such as "36.4.3"."""
    release = _RELEASE.search(_read("etc/nv_tegra_release"))
    return "{}.{}".format(*release.groups()) if release else None


def power_mode() -> "dict[str, object] | None":
    """Name and id as nvpmodel says them: the same id is another mode on another module."""
    mode = _MODE.search(process.output_of(["nvpmodel", "-q"]))
    return {"name": mode.group(1), "id": int(mode.group(2))} if mode else None


def power_modes() -> "dict[str, int]":
    """Name -> id of every mode in /etc/nvpmodel.conf."""
    return {name: int(number) for number, name in _MODEL.findall(_read("etc/nvpmodel.conf"))}


def gpu_clock() -> "dict[str, object] | None":
    """Clock now and its bounds in MHz; `is_locked` where the two bounds are one, as jetson_clocks makes them."""
    folder = gpu_folder()
    values = [read_mhz(folder / key) for key in _CLOCKS] if folder else [None]
    if None in values:
        return None
    now, low, high = values
    return {"mhz": now, "min_mhz": low, "max_mhz": high, "is_locked": low == high}


def gpu_folder() -> "Path | None":
    """Where the kernel says the GPU's clock to every user, as /sys/class/devfreq/17000000.gpu."""
    files = found("sys/class/devfreq", "*/cur_freq")
    return next((file.parent for file in files if any(gpu in file.parent.name for gpu in _GPU_NAMES)), None)


def read_mhz(path: "Path") -> "int | None":
    """A clock that the kernel says in Hz, in whole MHz as tegrastats prints it."""
    hz = _read_int(path)
    return None if hz is None else hz // _HZ_PER_MHZ


def thermal_zones() -> "list[Path]":
    """The kernel's sensors of the junction (tj-thermal), which counts, and of the GPU (gpu-thermal, GPU-therm)."""
    zones = {}  # type: dict[str, Path]
    for path in found("sys/class/thermal", "thermal_zone*/type"):
        zones.setdefault(_ZONE_END.sub("", (_first_word(path) or "").lower()), path.with_name("temp"))
    return [zones[kind] for kind in ("tj", "gpu") if kind in zones]


def read_c(path: "Path") -> "float | None":
    """A temperature that the kernel says in thousandths of a degree C; None of a sensor that is off."""
    value = _read_int(path)
    return None if value is None or value / _PER_DEGREE <= SENSOR_OFF_C else value / _PER_DEGREE


def throttle_counts() -> "dict[str, int]":
    """Over-current events since boot (Orin: hwmon files oc1_event_cnt and so on)."""
    values = {path.name: _read_int(path) for path in found("sys/class/hwmon", "hwmon*/oc*_event_cnt")}
    return {name: value for name, value in values.items() if value is not None}


def trtexec_path() -> "str | None":
    """Where trtexec is: on PATH, or where JetPack puts it."""
    usual = path_of(_TRTEXEC)
    return shutil.which("trtexec") or (str(usual) if os.access(str(usual), os.X_OK) else None)


def tegrastats_path() -> "str | None":
    """Where tegrastats is; JetPack puts it on PATH."""
    return shutil.which("tegrastats")


def trtexec_options(path: "str") -> "set[str]":
    """The options that this trtexec knows, from its --help; empty if it cannot be started."""
    try:
        done = process.run([path, "--help"], 60.0)
    except OSError:
        return set()
    return trtexec.options_from("\n".join(line for _, line in done.lines))


def _packages() -> "dict[str, str]":
    """Versions of the Debian packages that name a JetPack."""
    names = ["nvidia-jetpack", "nvidia-l4t-core", "libnvinfer-bin"]
    words, is_there = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *names], shutil.which("dpkg-query")
    done = process.run(words, 20.0) if is_there else None
    pairs = [line.split(" ", 1) for _, line in done.lines] if done else []
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) > 1 and pair[0] in names and pair[1].strip()}


def _cuda() -> "str | None":
    for name in ("version.json", "version.txt"):
        seen = re.search(r'"version" *: *"(\d+\.\d+)|CUDA Version (\d+\.\d+)', _read("usr/local/cuda/" + name))
        if seen:
            return seen.group(1) or seen.group(2)
    return None


def _gpu() -> "dict[str, str | None]":
    """Name and compute capability of the first GPU, asked of the CUDA driver."""
    try:
        found = first_gpu()
    except CudaError:
        return {"gpu": None, "capability": None}
    return {"gpu": found.name, "capability": f"{found.target[2:-1]}.{found.target[-1]}"}  # 8.7 of sm87


def _fan() -> "dict[str, int]":
    """What the fan is told (0 to 255) and does (turns a minute), where the board says it."""
    keys = {"pwm1": "pwm", "rpm": "rpm", "fan1_input": "rpm"}
    values = {keys[path.name]: _read_int(path) for path in found("sys/class/hwmon", "hwmon*/*") if path.name in keys}
    return {name: value for name, value in values.items() if value is not None}


def _read_int(path: "Path") -> "int | None":
    try:
        return int(_first_word(path) or "")
    except ValueError:
        return None


def _first_word(path: "Path") -> "str | None":
    try:
        return path.read_text().split()[0]
    except (OSError, ValueError, IndexError):
        return None


def _read(name: "str") -> "str":
    try:
        return path_of(name).read_text(errors="replace")
    except OSError:
        return ""


def found(folder: "str", pattern: "str") -> "list[Path]":
    """Files of this board, sorted by name."""
    return sorted(path_of(folder).glob(pattern))


def path_of(name: "str") -> "Path":
    """Of a file of this board, named from its root."""
    return Path(os.environ.get("EDGERES_BOARD_ROOT", "/")) / name
