"""What the agent on a board answers, a record for each of its jobs; what is none of them is not understood.

Its words are lines of text made by somebody else: each is one line here, and no longer than a person reads.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from edgeres.bench.devices import Device, device_of
from edgeres.core.config import Record

_MOST_NAME, _MOST_LINE = 300, 1000
_MOST_COUNT = 2**53
_SHORT_BYTES, _LONG_BYTES = 4 << 20, 64 << 20  # 64 MB are six million calls
_PACKAGE = "libnvinfer-bin"  # the Debian package whose version is TensorRT's


def line_of(text: str) -> str:
    """`text` as one line, cut where it is too long to be read."""
    line = " ".join(text.split())
    return line if len(line) <= _MOST_LINE else f"{line[:_MOST_LINE]} ..."


Said = Annotated[str, AfterValidator(line_of)]
Name = Annotated[Said, StringConstraints(max_length=_MOST_NAME)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=_MOST_COUNT)]
Number = Annotated[int | float, Field(ge=-_MOST_COUNT, le=_MOST_COUNT)]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PowerMode(Record):
    """As nvpmodel says it."""

    name: Name
    id: Count


class GpuClock(Record):
    """The clock now and its bounds."""

    mhz: Count
    min_mhz: Count
    max_mhz: Count
    is_locked: bool


class BoardFound(Record):
    """What the agent finds on a board; None or empty where the board does not say it.

    `packages`: versions of the Debian packages that name a JetPack. `power_mode`: name and id, `power_modes`: ids by
    name. `gpu`, `capability`: what the CUDA driver says; `target` is made of it, otherwise of the catalogue of devices.
    `tensorrt`: 10.3.0.30 of the package's version 10.3.0.30-1+cuda12.5.
    `left`: what a run that was killed has set and not put back, with the command that does.
    `gpu_clock`: mhz, min_mhz, max_mhz and is_locked. `fan`: what it is told (pwm, 0 to 255) and does (rpm).
    """

    job: ClassVar[str] = "detect"
    most_bytes: ClassVar[int] = _SHORT_BYTES
    schema_version: int = 1
    model: Name | None
    compatible: tuple[Name, ...]
    l4t: Name | None
    jetpack: Name | None
    packages: dict[Name, Name]
    cuda: Name | None
    gpu: Name | None = None
    capability: Annotated[str, StringConstraints(pattern=r"^\d{1,2}\.\d$")] | None
    target: Name | None = Field(None, validate_default=True)
    tensorrt: Name | None = Field(None, validate_default=True)
    power_mode: PowerMode | None
    power_modes: dict[Name, Count]
    gpu_clock: GpuClock | None
    fan: dict[Name, Count]
    trtexec: Name | None
    tegrastats: Name | None
    python: Name
    left: tuple[Said, ...] = ()

    @field_validator("target")
    @classmethod
    def _of_the_driver_or_the_catalogue(cls, value: str | None, info: ValidationInfo) -> str | None:
        if capability := info.data.get("capability"):
            return f"sm{capability.replace('.', '')}"
        known = _device(*(info.data.get(name) for name in ("model", "gpu", "compatible")))
        return known.target if known else None

    @field_validator("tensorrt")
    @classmethod
    def _of_the_package(cls, value: str | None, info: ValidationInfo) -> str | None:
        version: str | None = info.data.get("packages", {}).get(_PACKAGE)
        return version.partition("-")[0] if version else None

    @property
    def device(self) -> Device | None:
        """What the catalogue has for it."""
        return _device(self.model, self.gpu, self.compatible)


def _device(model: str | None, gpu: str | None, compatible: tuple[str, ...] | None) -> Device | None:
    """A Jetson is known by its own name; the driver names its GPU as that of the whole family."""
    return device_of(model or gpu or "", compatible or ())


class JobDone(Record):
    """What the agent says after each job: `restored` is what a killed run had left and was put back before it.

    `tensorrt`: the version that did it. `board`, `gpu` and `clocks_locked` as they were during the job, where it says.
    """

    job: ClassVar[str] = "restore"
    most_bytes: ClassVar[int] = _SHORT_BYTES
    restored: tuple[Said, ...]
    tensorrt: Name | None = None
    board: BoardFound | None = None
    gpu: Name | None = None
    clocks_locked: bool = False


class BuildFacts(Record):
    """Of what trtexec says while it builds."""

    build_s: Time | None = None


class BuildDone(JobDone):
    """An engine that trtexec built, with its command."""

    job: ClassVar[str] = "build"
    tensorrt: Name
    command: tuple[Said, ...]
    facts: BuildFacts
    warnings: tuple[Said, ...]
    engine_sha256: Sha256
    engine_bytes: Count
    is_strongly_typed: bool


class Clocks(Record):
    """Of the GPU under load, in MHz."""

    lowest: Number
    median: Number
    highest: Number


class Heat(Record):
    """Temperatures in degrees C and clocks under load, and who said them; see `agent.figures.heat`."""

    before_c: Number | None
    highest_c: Number | None
    after_c: Number | None
    temperature_source: Name | None
    gpu_mhz: Clocks | None
    samples: Count
    clock_source: Name | None
    clock_unknown: Said | None


class Weighed(Record):
    """Energy of an image; see `agent.figures.energy`."""

    mj_per_image: Number
    mj_half_width: Number
    image_ms: Time
    step_w: Number
    idle_w: Number
    load_w: Number
    idle_samples: Count
    load_samples: Count
    source: Name
    is_input: bool
    is_partial: bool


class NotWeighed(Record):
    """Why there is no energy."""

    reason: Said


class MeasureDone(JobDone):
    """Times of single calls, what they took, and what speaks against them."""

    job: ClassVar[str] = "measure"
    most_bytes: ClassVar[int] = _LONG_BYTES
    tensorrt: Name
    board: BoardFound
    command: tuple[Said, ...]
    batch: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    samples_ms: tuple[Time, ...] = Field(min_length=1)
    p50_ms: Time
    p99_ms: Time
    images_per_s: Time | None
    energy: Weighed | NotWeighed
    heat: Heat
    damaged_samples: Count
    problems: tuple[Said, ...]
    warnings: tuple[Said, ...]
    profile: str | None
    layers: str | None


class EvalDone(JobDone):
    """Logits that were written on the board: float32 (n, classes), `outputs` (name, numbers an image) side by side."""

    job: ClassVar[str] = "eval"
    tensorrt: Name
    n: Count
    classes: Annotated[int, Field(ge=1, le=_MOST_COUNT)]
    outputs: tuple[tuple[Name, Count], ...] = ()
    logits_sha256: Sha256


class Refusal(Record):
    """Why the agent did not do a job."""

    error: Said
