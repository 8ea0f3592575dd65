"""A fake tegrastats: one line of that JetPack's grammar every 5 ms, whatever interval it is asked for.

The first lines come at once, and once there was a load there is one to the end: so a machine that is slow sees no other
power. What trtexec waits for is in state/said, a byte for each line under load.
"""

# ruff: noqa: T201 - a program
import json
import os
import re
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / "state"
LINE = json.loads((ROOT / "fake.json").read_text())["tegrastats"]
IDLE_MW, LOAD_MW, RIPPLE_MW = 5000, 9000, 100
SLOW_MHZ = 400
AT_ONCE = 20
NEW_AFTER, QUIET_AFTER = 20, 32  # lines under load, of at least 48 in each of the two runs, 32 of them timed


def modes():
    kept = STATE / "mode"
    return (kept.read_text().strip() if kept.exists() else os.environ.get("FAKE_MODE", "")).split(",")


count, seen_load = 0, 0
while True:
    count += 1
    mode, loaded = modes(), seen_load > 0 or (STATE / "load").exists()
    seen_load += loaded
    power = (LOAD_MW if loaded else IDLE_MW) + (RIPPLE_MW if count % 2 else -RIPPLE_MW)
    mhz = SLOW_MHZ if "throttle" in mode and loaded and count % 5 == 0 else LINE["mhz"]
    text = LINE["text"].replace("{power}", str(power)).replace("{mhz}", str(mhz))
    if "plain" in mode:  # what a user without root is shown; the kernel still says the clock
        text = re.sub(r"(GR3D_FREQ \d*%?)@\[?[\d,]+\]?", r"\1", text)
        for file in (ROOT / "sys/class/devfreq").glob("*/cur_freq"):
            file.with_name("cur_freq.new").write_text(f"{mhz}750000\n")
            file.with_name("cur_freq.new").rename(file)
    if "blind" in mode:
        text = re.sub(r" [A-Za-z]\w*@-?[\d.]+C(/-?[\d.]+C)?(?= |$)", "", text)
    if "garbage" in mode or ("newformat" in mode and seen_load > NEW_AFTER):
        text = "RAM: 4185 of 7620 MB, VDD_IN: %.1f W" % (power / 1000)
    if "quiet" in mode and seen_load > QUIET_AFTER:
        break
    print(text, flush=True)
    if loaded:
        with (STATE / "said").open("a") as file:
            file.write(".")
    if count > AT_ONCE:
        time.sleep(0.005)
