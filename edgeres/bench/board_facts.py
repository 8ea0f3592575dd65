"""What a board says of itself, in the words of reports, of the preflight of engines and of `edgeres doctor`.

And what can be told from it to go wrong there before anything is sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeres.bench.board_answers import BoardFound, JobDone
from edgeres.bench.board_session import Session
from edgeres.core.artifacts import Model, OnnxModel
from edgeres.core.config import Record
from edgeres.core.environment import Check
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.jetpacks import newest_opset
from edgeres.graph.view import opset_of
from edgeres.runtime.cuda import Gpu
from edgeres.runtime.manifest import Host, plan_header

_RELEASE_PARTS = 3
_USUAL_OPSET = 17  # of edgeres export
_PAIRS_OPSET = 13  # the first with scales per channel
_HALF_SCALES_OPSET = 19  # the first whose scales may be float16
_EXPORTED_OPSET = 20  # the newest that edgeres export writes


class BoardDiagnosis(Record):
    """A board and what it can do."""

    schema_version: int = 1
    board: BoardFound
    checks: tuple[Check, ...]


def facts_of(session: Session, done: JobDone) -> dict[str, Any]:
    """What a report keeps of the board; `done` is what was done there.

    The board is asked anew where that does not say it: the job may have put back a power mode left by another.
    """
    found = done.board or session.agent(BoardFound)
    is_locked = found.gpu_clock is not None and found.gpu_clock.is_locked
    return {
        "name": session.board.name,
        "host": session.board.host.rpartition("@")[2],
        **{name: getattr(found, name) for name in ("model", "jetpack", "l4t", "cuda")},
        "power_mode": found.power_mode and found.power_mode.model_dump(),
        "gpu_clock": found.gpu_clock and found.gpu_clock.model_dump(),
        "fan": found.fan,
        "python": found.python,
        "tensorrt": release_of(done.tensorrt),
        "gpu": done.gpu or found.gpu,
        "target": found.target,
        "clocks_locked": is_locked or done.clocks_locked,
    }


def machine_of(facts: dict[str, Any]) -> str:
    """`desk: NVIDIA Jetson Orin Nano ..., JetPack 6.2, MAXN_SUPER, at 10.0.0.5`: what two latencies must share.

    By its address, as a name may have been another board's before.
    """
    mode = facts["power_mode"]
    parts = [facts["model"] or facts["gpu"] or "unknown board", system_of(facts["jetpack"], facts["l4t"])]
    parts += [str(mode["name"])] if mode else ["power mode unknown"] if facts["l4t"] else []
    parts += [*(["clocks locked"] if facts["clocks_locked"] else []), f"at {facts['host']}"]
    return f"{facts['name']}: {', '.join(parts)}"


def system_of(jetpack: str | None, l4t: str | None) -> str:
    """A board's software: its JetPack, or an L4T of none that is known; a machine without L4T is a PC."""
    return f"JetPack {jetpack}" if jetpack else f"L4T {l4t}, of no known JetPack" if l4t else "no Jetson"


def opsets_of(found: BoardFound) -> tuple[str, int] | None:
    """The board's TensorRT and the newest ONNX opset it reads; None where the version is not told."""
    newest = newest_opset(found.tensorrt) if found.tensorrt else None
    return (found.tensorrt, newest) if found.tensorrt and newest else None


def host_of(session: Session, plan: Path) -> Host:
    """The board as the preflight of the engine at `plan` sees it.

    A version the board does not tell is taken to be the engine's: then TensorRT itself judges it. Raises DeviceError if
    the board's GPU is unknown.
    """
    found = session.found
    if found.target is None:
        raise DeviceError(
            f"{session.board.name}: which GPU it has is unknown; look at it: edgeres board check {session.board.name}"
        )
    gpu = Gpu(found.target, found.model or found.gpu or found.target, found.cuda or "")
    return Host(session.system, gpu, {"tensorrt": found.tensorrt or plan_header(plan).version})


def check_opset(session: Session, model: OnnxModel) -> None:
    """Raises DeviceError for a file whose opset the board's TensorRT does not read.

    Where the board does not tell its TensorRT nothing is checked: TensorRT says it itself then.
    """
    found = opsets_of(session.found)
    if found is None or (opset := opset_of(model.proto)) <= found[1]:
        return
    asked = min(found[1], _EXPORTED_OPSET)
    remedy = f"export it so: edgeres export CHECKPOINT --opset {asked}"
    if "int8" in model.precision:
        again = f"quantize again from a float file of: edgeres export CHECKPOINT --opset {asked}"
        remedy = f"{again} (INT8 itself needs no more than {_PAIRS_OPSET})"
        if "fp16" in model.precision and found[1] < _HALF_SCALES_OPSET:
            remedy = f"{again}, with --profile tensorrt: float16 scales need opset {_HALF_SCALES_OPSET}"
    raise DeviceError(
        f"{session.board.name}: {model.path} has opset {opset}, TensorRT {found[0]} there reads up to {found[1]};"
        f" {remedy}"
    )


def without_int8(session: Session, model: Model) -> list[str]:
    """A warning for an INT8 file on a GPU without INT8, as the catalogue has it from TensorRT's support matrices.

    It is no refusal: TensorRT decides what it makes of the file there, which was never seen.
    """
    device = session.found.device
    if device is None or device.int8 != "none" or "int8" not in model.precision:
        return []
    lacks = f"{device.title} ({session.found.target}) has no INT8: quantizing gains nothing there"
    return [f"{lacks}, and these are not the figures of INT8; take float16: edgeres export CHECKPOINT --half"]


def check_power_mode(session: Session, asked: str) -> None:
    """Raises InputError for a power mode that is not in the board's own list, by name or id."""
    modes = session.found.power_modes
    if not modes or asked in {*modes, *map(str, modes.values())}:
        return
    listed = ", ".join(f"{name} ({number})" for name, number in sorted(modes.items(), key=lambda pair: pair[1]))
    raise InputError(f"--power-mode {asked}: {session.board.name} has no such mode; it has: {listed}")


def release_of(version: str | None) -> str | None:
    """10.3.0 of 10.3.0.30: trtexec says three numbers, the Python binding four."""
    return ".".join(version.split(".")[:_RELEASE_PARTS]) if version else None


def checks_of(found: BoardFound) -> tuple[Check, ...]:
    """What the board is and what it can do, each line with what to install."""
    watches, left = "power, clocks, temperatures", [line.partition("; ") for line in found.left]
    mode = f"{found.power_mode.name} (id {found.power_mode.id})" if found.power_mode else "unknown"
    known, others = found.device, ", ".join(found.power_modes)
    of_catalogue = f" ({known.name}, {known.target})" if known else ": not in the catalogue (edgeres ls devices)"
    board = f"{found.model or found.gpu or 'unknown'}{of_catalogue}"
    return (
        Check(name="board", status="ok" if known else "info", detail=board),
        _software(found),
        _onnx(found),
        _int8(found),
        _tool("trtexec", found.trtexec, "builds and times engines", "on the board: sudo apt install libnvinfer-bin"),
        _tool("tegrastats", found.tegrastats, watches, "it is part of JetPack; without it: no energy"),
        Check(name="power mode", status="info", detail=mode + (f"; there are {others}" if others else "")),
        _clock(found),
        *(Check(name="left over", status="info", detail=what, remedy=remedy) for what, _, remedy in left),
    )


def _software(found: BoardFound) -> Check:
    parts = [
        system_of(found.jetpack, found.l4t),
        *([f"L4T {found.l4t}"] if found.jetpack else []),
        f"CUDA {found.cuda or 'unknown'}",
        f"TensorRT {found.tensorrt or 'unknown until an engine is built'}",
        f"Python {found.python}",
    ]
    return Check(name="software", status="ok" if found.l4t else "info", detail=", ".join(parts))


def _onnx(found: BoardFound) -> Check:
    opsets = opsets_of(found)
    if opsets is None:
        return Check(name="onnx", status="info", detail="unknown which opsets TensorRT reads here")
    newest = f"TensorRT {opsets[0]} reads opsets up to {opsets[1]}"
    if opsets[1] >= _USUAL_OPSET:
        return Check(name="onnx", status="ok", detail=newest)
    remedy = f"edgeres writes opset {_USUAL_OPSET} unless told: edgeres export CHECKPOINT --opset {opsets[1]}"
    return Check(name="onnx", status="info", detail=newest, remedy=remedy)


def _int8(found: BoardFound) -> Check:
    known = found.device
    if known is None:
        return Check(name="int8", status="info", detail="unknown: the board is not in the catalogue")
    if known.int8 == "none":
        remedy = "take float16 for it: edgeres export CHECKPOINT --half"
        return Check(name="int8", status="missing", detail=f"the GPU ({known.target}) has none", remedy=remedy)
    return Check(name="int8", status="ok", detail=known.int8)


def _tool(name: str, path: str | None, use: str, remedy: str) -> Check:
    if path:
        return Check(name=name, status="ok", detail=f"{path}: {use}")
    return Check(name=name, status="missing", detail=f"not found: no {use}", remedy=remedy)


def _clock(found: BoardFound) -> Check:
    clock = found.gpu_clock
    if clock is None:
        return Check(name="gpu clock", status="info", detail="unknown")
    if clock.is_locked:
        return Check(name="gpu clock", status="ok", detail=f"locked at {clock.max_mhz} MHz")
    detail = f"{clock.min_mhz} to {clock.max_mhz} MHz, not locked"
    remedy = "for steady figures: edgeres bench MODEL --on NAME --lock-clocks"
    return Check(name="gpu clock", status="info", detail=detail, remedy=remedy)
