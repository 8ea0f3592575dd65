"""What can be told to go wrong on this board before anything is sent to it."""

from __future__ import annotations

from edgeres.bench.board_facts import opsets_of, target_of
from edgeres.bench.board_session import Session
from edgeres.bench.devices import device_at
from edgeres.core.artifacts import Model, OnnxModel
from edgeres.core.errors import DeviceError, InputError

_PAIRS_OPSET = 13  # the first with scales per channel
_HALF_SCALES_OPSET = 19  # the first whose scales may be float16
_EXPORTED_OPSET = 20  # the newest that edgeres export writes


def check_opset(session: Session, model: OnnxModel) -> None:
    """Raises DeviceError for a file whose opset the board's TensorRT does not read.

    Where the board does not tell its TensorRT nothing is checked: TensorRT says it itself then.
    """
    found = opsets_of(session.found)
    if found is None:
        return
    opset = next((one.version for one in model.proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset <= found[1]:
        return
    raise DeviceError(
        f"{session.board.name}: {model.path} has opset {opset}, TensorRT {found[0]} there reads up to {found[1]};"
        f" {_remedy(model.precision, found[1])}"
    )


def without_int8(session: Session, model: Model) -> list[str]:
    """A warning for an INT8 file on a GPU without INT8, as the catalogue has it from TensorRT's support matrices.

    It is no refusal: TensorRT decides what it makes of the file there, which was never seen.
    """
    device = device_at(session.found)
    if device is None or device.int8 != "none" or "int8" not in model.precision:
        return []
    lacks = f"{device.title} ({target_of(session.found)}) has no INT8: quantizing gains nothing there"
    return [f"{lacks}, and these are not the figures of INT8; take float16: edgeres export CHECKPOINT --half"]


def check_power_mode(session: Session, asked: str) -> None:
    """Raises InputError for a power mode that is not in the board's own list, by name or id."""
    modes: dict[str, int] = session.found.get("power_modes") or {}
    if not modes or asked in {*modes, *map(str, modes.values())}:
        return
    listed = ", ".join(f"{name} ({number})" for name, number in sorted(modes.items(), key=lambda pair: pair[1]))
    raise InputError(f"--power-mode {asked}: {session.board.name} has no such mode; it has: {listed}")


def _remedy(precision: str, newest: int) -> str:
    asked = min(newest, _EXPORTED_OPSET)
    if "int8" not in precision:
        return f"export it so: edgeres export CHECKPOINT --opset {asked}"
    again = f"quantize again from a float file of: edgeres export CHECKPOINT --opset {asked}"
    if "fp16" in precision and newest < _HALF_SCALES_OPSET:
        return f"{again}, with --profile tensorrt: float16 scales need opset {_HALF_SCALES_OPSET}"
    return f"{again} (INT8 itself needs no more than {_PAIRS_OPSET})"
