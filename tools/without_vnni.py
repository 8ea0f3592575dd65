"""ONNX Runtime as on an x86 CPU without VNNI and AMX: a copy of it is not told that this one has them.

Every `cpuid` instruction of the copied library becomes a breakpoint, and a preloaded handler answers it with what the
processor says less those bits. So ONNX Runtime chooses the kernels such a CPU gets, and this machine runs them at its
own speed. Needs Linux on x86-64, gcc and objdump.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime

from edgeres.core.errors import StageError

HIDDEN = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_CPUID, _TRAP = b"\x0f\xa2", b"\xcc\x90"
_LIBRARY = "onnxruntime_pybind11_state*.so"


def environment_without_vnni(work: Path) -> dict[str, str]:
    """Variables under which a new Python process and its children import the copy made in `work`.

    Raises:
        StageError: gcc or objdump is missing or failed, or no cpuid was found.
    """
    site = work.absolute() / "without-vnni"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(Path(onnxruntime.__file__).parent, site / "onnxruntime")
    (library,) = (site / "onnxruntime" / "capi").glob(_LIBRARY)
    _trap_every_cpuid(library)
    handler = site / "handler.so"
    _said("gcc", "-O1", "-shared", "-fPIC", "-o", str(handler), str(Path(__file__).with_suffix(".c")))
    search = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "LD_PRELOAD": str(handler), "PYTHONPATH": search}


def is_hidden() -> bool:
    """Whether this process runs in such an environment."""
    return Path(onnxruntime.__file__).parents[1].name == "without-vnni" and "LD_PRELOAD" in os.environ


def _trap_every_cpuid(library: Path) -> None:
    start, offset = _text_of(library)
    code = bytearray(library.read_bytes())
    found = re.findall(r"^\s*([0-9a-f]+):.*\tcpuid", _said("objdump", "-d", str(library)), re.MULTILINE)
    if not found:
        raise StageError(f"no cpuid instruction in {library.name}")
    for address in found:
        at = int(address, 16) - start + offset
        assert code[at : at + 2] == _CPUID
        code[at : at + 2] = _TRAP
    library.write_bytes(code)


def _text_of(library: Path) -> tuple[int, int]:
    """Address and place in the file of the code."""
    for line in _said("objdump", "-h", str(library)).splitlines():
        if " .text " in line:
            fields = line.split()
            return int(fields[3], 16), int(fields[5], 16)
    raise StageError(f"no code in {library.name}")


def _said(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise StageError(f"{program} is missing; install gcc and binutils") from err
    if done.returncode:
        raise StageError(f"{program} failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return done.stdout
