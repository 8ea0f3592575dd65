"""What a board says of itself, in the words of reports, of the preflight of engines and of `edgeres doctor`."""

from __future__ import annotations

from typing import Any

from edgeres.bench.board_session import Session
from edgeres.bench.devices import device_of
from edgeres.core.config import Record
from edgeres.core.doctor import Check
from edgeres.core.errors import DeviceError
from edgeres.runtime.gpu import Gpu
from edgeres.runtime.plan import plan_header
from edgeres.runtime.preflight import Host

_PACKAGE = "libnvinfer-bin"  # the Debian package whose version is TensorRT's


class BoardFound(Record):
    """What the agent finds on a board; None or empty where the board does not say it.

    `packages`: versions of the Debian packages that name a JetPack. `power_mode`: name and id, `power_modes`: ids by
    name. `gpu_clock`: mhz, min_mhz, max_mhz and is_locked. `fan`: what it is told (pwm, 0 to 255) and does (rpm).
    """

    schema_version: int = 1
    model: str | None
    compatible: tuple[str, ...]
    l4t: str | None
    jetpack: str | None
    packages: dict[str, str]
    cuda: str | None
    capability: str | None
    power_mode: dict[str, str | int] | None
    power_modes: dict[str, int]
    gpu_clock: dict[str, int | bool] | None
    fan: dict[str, int]
    trtexec: str | None
    tegrastats: str | None
    python: str


class BoardDiagnosis(Record):
    """A board and what it can do."""

    schema_version: int = 1
    board: BoardFound
    checks: tuple[Check, ...]


def facts_of(session: Session, measured: dict[str, Any]) -> dict[str, Any]:
    """What a report keeps of the board; `measured` is the agent's answer to measure, build or eval."""
    found = measured.get("board") or session.found
    shared = ("model", "jetpack", "l4t", "cuda", "power_mode", "gpu_clock", "fan", "python")
    return {
        "name": session.board.name,
        **{name: found.get(name) for name in shared},
        "tensorrt": measured.get("tensorrt"),
        "gpu": measured.get("gpu"),
        "target": target_of(found),
        "clocks_locked": bool((found.get("gpu_clock") or {}).get("is_locked")) or bool(measured.get("clocks_locked")),
    }


def machine_of(facts: dict[str, Any]) -> str:
    """`desk: NVIDIA Jetson Orin Nano ..., JetPack 6.2, MAXN_SUPER`: what two latencies must share."""
    mode = facts["power_mode"]
    parts = [
        facts["model"] or "unknown board",
        f"JetPack {facts['jetpack']}" if facts["jetpack"] else f"L4T {facts['l4t'] or 'unknown'}",
        str(mode["name"]) if mode else "power mode unknown",
        *(["clocks locked"] if facts["clocks_locked"] else []),
    ]
    return f"{facts['name']}: {', '.join(parts)}"


def target_of(found: dict[str, Any]) -> str | None:
    """Such as sm87: what the driver says, otherwise the catalogue."""
    if found.get("capability"):
        return "sm" + str(found["capability"]).replace(".", "")
    known = device_of(found.get("model") or "", tuple(found.get("compatible") or ()))
    return known.target if known else None


def host_of(session: Session, plan: Any) -> Host:
    """The board as the preflight of the engine at `plan` sees it.

    A version the board does not tell is taken to be the engine's: then TensorRT itself judges it. Raises DeviceError if
    the board's GPU is unknown.
    """
    found, target = session.found, target_of(session.found)
    if target is None:
        raise DeviceError(f"{session.board.name}: which GPU it has is unknown; is it a Jetson? (edgeres board check)")
    gpu = Gpu(target, str(found.get("model") or target), str(found.get("cuda") or ""))
    return Host(session.system, gpu, {"tensorrt": tensorrt_of(found) or plan_header(plan).version})


def tensorrt_of(found: dict[str, Any]) -> str | None:
    """10.3.0.30 of the package version 10.3.0.30-1+cuda12.5; None where there is none."""
    version = (found.get("packages") or {}).get(_PACKAGE)
    return str(version).partition("-")[0] if version else None


def checks_of(found: dict[str, Any]) -> tuple[Check, ...]:
    """What the board can do, each line with what to install."""
    return (
        _model(found),
        _jetpack(found),
        _tool(found, "trtexec", "builds and times engines", "on the board: sudo apt install libnvinfer-bin"),
        _tool(found, "tegrastats", "power, clocks, temperatures", "it is part of JetPack; without it: no energy"),
        _power_mode(found),
        _clock(found),
    )


def _model(found: dict[str, Any]) -> Check:
    known = device_of(found.get("model") or "", tuple(found.get("compatible") or ()))
    name = found.get("model") or "unknown"
    if known is None:
        return Check(name="board", status="info", detail=f"{name}: not in the catalogue (edgeres ls devices)")
    return Check(name="board", status="ok", detail=f"{name} ({known.name}, {known.target})")


def _jetpack(found: dict[str, Any]) -> Check:
    tensorrt = tensorrt_of(found)
    parts = [
        f"JetPack {found.get('jetpack') or 'unknown'}",
        f"L4T {found.get('l4t') or 'unknown'}",
        f"CUDA {found.get('cuda') or 'unknown'}",
        f"TensorRT {tensorrt or 'unknown until an engine is built'}",
        f"Python {found.get('python')}",
    ]
    return Check(name="software", status="ok" if found.get("l4t") else "info", detail=", ".join(parts))


def _tool(found: dict[str, Any], name: str, use: str, remedy: str) -> Check:
    if found.get(name):
        return Check(name=name, status="ok", detail=f"{found[name]}: {use}")
    return Check(name=name, status="missing", detail=f"not found: no {use}", remedy=remedy)


def _power_mode(found: dict[str, Any]) -> Check:
    mode, modes = found.get("power_mode"), found.get("power_modes") or {}
    text = f"{mode['name']} (id {mode['id']})" if mode else "unknown"
    others = ", ".join(modes)
    return Check(name="power mode", status="info", detail=text + (f"; there are {others}" if others else ""))


def _clock(found: dict[str, Any]) -> Check:
    clock = found.get("gpu_clock")
    if not clock:
        return Check(name="gpu clock", status="info", detail="unknown")
    if clock["is_locked"]:
        return Check(name="gpu clock", status="ok", detail=f"locked at {clock['max_mhz']} MHz")
    detail = f"{clock['min_mhz']} to {clock['max_mhz']} MHz, not locked"
    remedy = "for steady figures: edgeres bench MODEL --on NAME --lock-clocks"
    return Check(name="gpu clock", status="info", detail=detail, remedy=remedy)
