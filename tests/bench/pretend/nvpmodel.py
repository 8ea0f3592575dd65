"""A fake nvpmodel: `-q` and `-m ID`; its modes are those of etc/nvpmodel.conf, `reboots` among them ask to reboot."""

# ruff: noqa: T201 - a program
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOARD = json.loads((ROOT / "fake.json").read_text())["power"]
NOW = ROOT / "state" / "power_mode"
number = int(NOW.read_text()) if NOW.exists() else BOARD["now"]


def refuse(text):
    sys.stderr.write(f"NVPM ERROR: {text}\n")
    sys.exit(255)


if sys.argv[1:] == ["-q"]:
    name = BOARD["modes"][str(number)]
    print(f"{BOARD['greeting']}NV Power Mode: {name}\n{number}")
elif len(sys.argv) == 3 and sys.argv[1] == "-m":
    if os.environ.get("FAKE_ROOT") == "no":
        refuse("Error opening /var/lib/nvpmodel/status: 13")
    if sys.argv[2] not in BOARD["modes"]:
        refuse(f"Invalid power mode {sys.argv[2]}")
    if int(sys.argv[2]) in BOARD["reboots"]:
        print(f"NVPM WARN: Reboot required for changing to this power mode: {sys.argv[2]}")
        print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:", flush=True)
        refuse("power mode is not changed" if sys.stdin.readline() else "no answer, power mode is not changed")
    NOW.write_text(sys.argv[2])
else:
    refuse(f"unknown arguments {sys.argv[1:]}")
