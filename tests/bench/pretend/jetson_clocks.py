"""A fake jetson_clocks: --store FILE, no option (lock), --restore FILE, on the GPU's files below sys/class/devfreq."""

# ruff: noqa: T201 - a program
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GPU = ROOT / json.loads((ROOT / "fake.json").read_text())["gpu"]
KEYS = ("min_freq", "max_freq", "cur_freq")
kept = ROOT / "state" / "mode"
modes = (kept.read_text().strip() if kept.exists() else os.environ.get("FAKE_MODE", "")).split(",")


def note(text):
    with (ROOT / "state" / "clocks.log").open("a") as file:
        file.write(text + "\n")


if os.environ.get("FAKE_ROOT") == "no":
    print(f"Error: Run this script({sys.argv[0]}) as a root user")
    sys.exit(1)
action, path = ([*sys.argv[1:], "lock", ""])[:2]
if action == "--store":
    if Path(path).exists():
        print(f"File {path} already exists. Can I overwrite it? Y/N:")
        sys.exit(1)
    Path(path).write_text("".join(f"{GPU / key}:{(GPU / key).read_text()}" for key in KEYS))
elif action == "--restore":
    time.sleep(0.2)
    if not Path(path).is_file():
        print(f"Error: {path} file not found !")
        sys.exit(1)
    for line in Path(path).read_text().splitlines():
        name, _, value = line.rpartition(":")
        Path(name).write_text(value + "\n")
elif action == "lock":
    if "unlockable" in modes:
        print("Error: cannot write to %s" % (GPU / "min_freq"))
        sys.exit(1)
    for key in ("min_freq", "cur_freq"):
        (GPU / key).write_text((GPU / "max_freq").read_text())
else:
    print(f"Unknown option: {action}")
    sys.exit(1)
note(action)
