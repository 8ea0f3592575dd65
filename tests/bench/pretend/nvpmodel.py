"""A fake nvpmodel: `-q` and `-m ID`; its modes are those of etc/nvpmodel.conf, `reboots` among them ask to reboot."""

# ruff: noqa: T201 - a program
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
NOW = f"{ROOT}/state/power_mode"
with open(f"{ROOT}/fake.json") as file:  # noqa: PTH123 - asked twice for each run: pathlib and json take twice its time
    BOARD = eval(file.read(), {"true": True, "false": False, "null": None})["power"]
number = BOARD["now"]
if os.path.exists(NOW):  # noqa: PTH110
    with open(NOW) as file:  # noqa: PTH123
        number = int(file.read())


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
    with open(NOW, "w") as file:  # noqa: PTH123
        file.write(sys.argv[2])
else:
    refuse(f"unknown arguments {sys.argv[1:]}")
