"""One line of `tegrastats` to numbers: the grammars of JetPack 4, 5 and 6, 7.0 and 7.2.

    RAM 1841/3956MB ... CPU [41%@1479,off] EMC_FREQ 31%@1600 GR3D_FREQ 97%@921 GPU@39.5C POM_5V_IN 7312/6120

Rails are "name current/average" in mW (JetPack 4), "12mW/11mW" (5, 6) or "12mW/11mW/20mW" with the maximum (7.2).
The average is since tegrastats started, so only the current value is kept. On an AGX Xavier the rails GPU and CPU
are called as two temperatures; the units tell them apart.
"""

import re
from typing import NamedTuple

INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")  # the whole module hangs below it: never add other rails to it
_UNCLEAR_RAILS = ("VDDQ_VDD2_1V8AO",)  # may hang below VIN_SYS_5V0; left out, so that a sum never counts twice
_THOR_GPU_RAIL, _SYSTEM_RAIL = "VDD_GPU", "VIN_SYS_5V0"  # a plain user of a Thor sees the first without the second
SENSOR_OFF_C = -200.0  # -256C is what a sensor without power reads

_START = re.compile(r"(?:\d\d-\d\d-\d{4} \d\d:\d\d:\d\d )?RAM \d+/\d+MB(?= )")
_CORE = r"(?:off|\d+%(?:@\d+)?)"
_CPU = re.compile(r" CPU \[" + _CORE + "(?:," + _CORE + r")*\](?= |$)")
_GPU = re.compile(r" GR3D_FREQ (?:\d+%)?@(?:\[(\d+(?:,\d+)*)\]|(\d+))(?= |$)")
_TEMPERATURE = re.compile(r" ([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)?(?= |$)")
_POWER = re.compile(r" ([A-Za-z]\w*) (?:(\d+)mW/\d+mW(?:/\d+mW)?|(\d+)/\d+)(?= |$)")


class DamagedLine(ValueError):
    """The line is not one of tegrastats; says which."""


class Reading(NamedTuple):
    """One sample; what a board does not print is empty."""

    gpu_mhz: "list[int]"
    temperature_c: "dict[str, float]"
    power_mw: "dict[str, int]"


class Power(NamedTuple):
    """Total power in mW and where it was read; a sum of rails is less than what the board draws."""

    mw: "int"
    source: "str"
    is_input: "bool"
    is_partial: "bool"


def reading_from(line: "str") -> "Reading":
    """The numbers of one line; raises DamagedLine for anything else, also for two lines run into one."""
    text = line.rstrip("\r\n ")
    if _START.match(text) is None or text.count("RAM ") != text.count("IRAM ") + 1 or len(_CPU.findall(text)) != 1:
        raise DamagedLine(f"not a line of tegrastats: {text[:100]!r}")
    clocks = _GPU.search(text)
    return Reading(
        [int(mhz) for mhz in (clocks.group(1) or clocks.group(2)).split(",")] if clocks else [],
        {name: float(value) for name, value in _TEMPERATURE.findall(text) if float(value) > SENSOR_OFF_C},
        _rails_of(text),
    )


def total_power(reading: "Reading") -> "Power | None":
    """From the input rail where there is one, otherwise the sum of the rails; None without rails (TX2 NX)."""
    rails = reading.power_mw
    for name in INPUT_RAILS:
        if name in rails:
            return Power(rails[name], name, True, False)
    added = {name: mw for name, mw in rails.items() if name not in _UNCLEAR_RAILS}
    if not added:
        return None
    is_partial = _THOR_GPU_RAIL in added and _SYSTEM_RAIL not in added
    return Power(sum(added.values()), "sum of " + " + ".join(sorted(added)), False, is_partial)


def _rails_of(text: "str") -> "dict[str, int]":
    """Rail -> mW now, without the unconnected ones; raises DamagedLine if one is there twice."""
    found = [(name, int(new or old)) for name, new, old in _POWER.findall(text) if name != "NC"]
    rails = dict(found)
    if len(rails) != len(found):
        raise DamagedLine(f"a rail is there twice, two lines ran into one: {text[:100]!r}")
    return rails
