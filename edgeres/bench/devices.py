"""The devices edgeres knows: one TOML file each in `devices/`, nothing in it without a source.

A figure that no source gives is absent, not zero. Peaks are the makers' claims: `int8_tops_is` says whether sparse
operations and the DLA are counted in.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from edgeres.core.config import Record, first_problem, toml_from
from edgeres.core.errors import InputError

_WORDS = r"(?<![^\W_]){}(?![^\W_])"  # an A1000 is no A100
_FOLDER = Path(__file__).with_name("devices")


class Device(Record, extra="forbid"):
    """One kind of machine. `models` are parts of the names that the machine gives itself."""

    name: str
    title: str
    kind: Literal["jetson", "gpu"]
    target: str = Field(pattern=r"^sm\d{2,3}$")
    models: tuple[str, ...] = Field(min_length=1)
    int8: Literal["none", "tensor cores"]
    sources: tuple[str, ...] = Field(min_length=1)
    soc: str | None = None
    dla_cores: int = Field(0, ge=0, le=2)
    jetpack: tuple[str, ...] = ()
    power_modes: tuple[str, ...] = ()
    memory_gb: float | None = Field(None, gt=0)
    bandwidth_gb_s: float | None = Field(None, gt=0)
    int8_tops: float | None = Field(None, gt=0)
    int8_tops_is: str | None = None
    fp16_tflops: float | None = Field(None, gt=0)
    fp16_tflops_is: str | None = None
    note: str | None = None

    @property
    def line(self) -> str:
        """What `edgeres ls devices` says."""
        peak = f"INT8 {self.int8_tops:g} TOPS ({self.int8_tops_is})" if self.int8_tops else ""
        parts = [
            self.title,
            self.target,
            peak or ("" if self.int8 != "none" else "no INT8"),
            f"{self.bandwidth_gb_s:g} GB/s" if self.bandwidth_gb_s else "",
            f"{self.dla_cores} DLA" if self.dla_cores else "",
            f"JetPack {' to '.join(dict.fromkeys((self.jetpack[0], self.jetpack[-1])))}" if self.jetpack else "",
        ]
        return ", ".join(filter(None, parts))


@functools.cache
def devices() -> dict[str, Device]:
    """Name -> device, Jetsons first; raises InputError naming the file and the key for a damaged one."""
    found = [device_from(path) for path in sorted(_FOLDER.glob("*.toml"))]
    return {device.name: device for device in sorted(found, key=lambda one: one.kind != "jetson")}


def device_from(path: Path) -> Device:
    """The device in one TOML file, called as the file."""
    try:
        return Device.model_validate({"name": path.stem, **toml_from(path)})
    except ValidationError as err:
        raise InputError(f"{path}: {first_problem(err, Device)}") from err


def device_of(model: str, compatible: tuple[str, ...] = ()) -> Device | None:
    """The catalogue's device for the name a machine gives itself: the longest match wins, None without one.

    `compatible` is the device tree's list, such as `nvidia,p3767-0005`: it names the module where the model does not.
    """
    text = " ".join((model, *compatible))
    every = [(part, device) for device in devices().values() for part in device.models]
    matches = [(len(part), device) for part, device in every if re.search(_WORDS.format(re.escape(part)), text, re.I)]
    return max(matches, key=lambda match: match[0])[1] if matches else None
