"""A pretend Jetson: fakes of JetPack's programs and files, nothing of which was ever near real hardware.

FAKE_MODE chooses what goes wrong. The fakes are quick: a "10 s" run takes half a second, and tegrastats
prints every 5 ms whatever it is told.
"""

import stat
import sys
from pathlib import Path

LINES = (Path(__file__).parent / "data" / "tegrastats_synthetic.txt").read_text().splitlines()

_TRTEXEC = r"""
import json, os, signal, sys, time
mode, version = os.environ.get("FAKE_MODE", ""), os.environ.get("FAKE_TENSORRT", "100300")
options = dict(part.lstrip("-").partition("=")[::2] for part in sys.argv[1:])
known = ["onnx", "saveEngine", "loadEngine", "warmUp", "duration", "iterations", "exportTimes", "exportProfile",
         "exportLayerInfo", "profilingVerbosity", "noDataTransfers", "useCudaGraph", "useSpinWait",
         "separateProfileRun"]
known += {"8": ["int8", "fp16", "buildOnly"], "1": ["stronglyTyped", "skipInference"]}[version[0]]
if "help" in options:
    print("=== Options ===\n" + "\n".join("  --%s   text" % name for name in known))
    sys.exit(0)
def say(text, level="I"):
    print("[11/20/2026-11:00:00] [%s] %s" % (level, text), flush=True)
def end(word, code):
    print("&&&& %s TensorRT.trtexec [TensorRT v%s] # x" % (word, version), flush=True)
    sys.exit(code)
print("&&&& RUNNING TensorRT.trtexec [TensorRT v%s] # x" % version, flush=True)
if mode == "hang":
    time.sleep(600)
if mode == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
unknown = sorted(set(options) - set(known))
if unknown:
    say("Unknown option: --%s" % unknown[0], "E"); end("FAILED", 1)
say("Selected Device: Orin"); say("Compute Capability: 8.7")
if "saveEngine" in options:
    if mode == "bad":
        say("Failed to parse onnx file", "E"); end("FAILED", 1)
    say("Engine built in 1.5 sec.")
    if mode != "full":
        with open(options["saveEngine"], "wb") as file:
            file.write(b"ftrt fake engine")
    end("PASSED", 0)
flag = os.environ["FAKE_STATE"] + "/load"
open(flag, "w").close()
if mode == "slowly":
    time.sleep(600)
if mode != "silent":
    say("Starting inference")
time.sleep(0.45)
os.remove(flag)
if mode == "newmode":
    open(os.environ["FAKE_STATE"] + "/newmode", "w").close()
compute = [2.0 * (1.2 if mode == "drift" and i > 100 else 1.0) for i in range(200)]
rows, now = [], 100.0
for value in compute:
    rows.append({"startComputeMs": now, "endComputeMs": now + value, "computeMs": value, "latencyMs": value})
    now += value
with open(options["exportTimes"], "w") as file:
    json.dump(rows, file)
for name, text in (("exportProfile", '[{"count": 1}]'), ("exportLayerInfo", '{"Layers": []}')):
    if name in options:
        with open(options[name], "w") as file:
            file.write(text)
say("GPU Compute Time: min = 2 ms, max = 2 ms, mean = 2 ms, median = 2 ms, percentile(99%) = 2 ms")
end("PASSED", 0)
"""

_TEGRASTATS = r"""
import os, time
mode, state, count = os.environ.get("FAKE_MODE", ""), os.environ["FAKE_STATE"], 0
line = os.environ["FAKE_LINE"]
while True:
    count += 1
    loaded = os.path.exists(state + "/load")
    power = (9000 if loaded else 5000) + (100 if count % 2 else -100)
    mhz = 400 if mode == "throttle" and loaded and count % 5 == 0 else 624
    text = line.replace("VDD_IN 11479mW", "VDD_IN %dmW" % power).replace("@[624]", "@[%d]" % mhz)
    print("garbage" if mode == "garbage" else text, flush=True)
    time.sleep(0.005)
"""

_NVPMODEL = r"""
import os
changed = os.path.exists(os.environ["FAKE_STATE"] + "/newmode")
print("NV Power Mode: %s\n%d" % (("15W", 0) if changed else ("MAXN_SUPER", 2)))
"""

_DPKG = 'print("nvidia-jetpack 6.2+b77\\nlibnvinfer-bin 10.3.0.30-1+cuda12.5")\n'

_FILES = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/hwmon/hwmon1/pwm1": "128\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "3\n",
}


def pretend_jetson(root: Path) -> dict[str, str]:
    """Writes the fakes below `root`; returns the environment in which a program sees them."""
    for name, text in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    programs = {"trtexec": _TRTEXEC, "tegrastats": _TEGRASTATS, "nvpmodel": _NVPMODEL, "dpkg-query": _DPKG}
    for name, text in programs.items():
        path = root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable} -S\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (root / "state").mkdir()
    line = LINES[LINES.index("## orin_nano_jp6") + 1]
    return {
        "PATH": f"{root / 'bin'}:/usr/bin:/bin",
        "EDGERES_BOARD_ROOT": str(root),
        "FAKE_STATE": str(root / "state"),
        "FAKE_LINE": line,
    }
