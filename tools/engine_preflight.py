"""What a user reads who gives a plan to a machine that cannot run it.

    edgeres compile model.int8.onnx --targets sm86 -o preflight.plan
    python tools/engine_preflight.py --plan preflight.plan --data digits

Each case is `edgeres eval PLAN` in a process of its own. Without a GPU at hand the hosts are pretend ones: edgeres is
told what it would have found there (`edgeres.runtime.manifest.this_host`), all else is as it is for a user. A plan of
TensorRT is a pretend one too: a header and a manifest. Replaces the refusals in tools/results/engines.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from engine_cases import Refusal
from engine_figures import RESULTS, keep, known_in, said

from edgeres.core.artifacts import Engine
from edgeres.core.files import sha256_of
from edgeres.runtime.cuda import Gpu
from edgeres.runtime.manifest import NAMES, Host, manifest_of, this_host

PC, BOARD = "linux x86_64", "linux aarch64"
_RTX, _TENSORRT = "1.7.1.116", "10.13.3.9"
_HEADER_BYTES = 64


def _pc(target: str, name: str, **versions: str) -> Host:
    return Host(PC, Gpu(target, name, "13.0"), {key.replace("_", "-"): version for key, version in versions.items()})


ORIN = Host(BOARD, Gpu("sm87", "Orin", "12.6"), {"tensorrt": "10.3.0"})
CASES: tuple[tuple[str, str, Host | None], ...] = (  # case, whose plan, where; None: this machine
    ("wrong architecture", "tensorrt-rtx", _pc("sm89", "RTX 4090", tensorrt_rtx=_RTX)),
    ("wrong architecture", "tensorrt", _pc("sm89", "RTX 4090", tensorrt=_TENSORRT)),
    ("wrong version", "tensorrt-rtx", _pc("sm86", "RTX 3090", tensorrt_rtx="1.6.1.120")),
    ("wrong version", "tensorrt", _pc("sm86", "RTX 3090", tensorrt="10.3.0.26")),
    ("TensorRT-RTX's, given to TensorRT", "tensorrt-rtx", _pc("sm86", "RTX 3090", tensorrt=_TENSORRT)),
    ("TensorRT-RTX's, given to a Jetson", "tensorrt-rtx", ORIN),
    ("TensorRT's, given to TensorRT-RTX", "tensorrt", _pc("sm86", "RTX 3090", tensorrt_rtx=_RTX)),
    ("a PC's, given to a Jetson", "tensorrt", ORIN),
    ("no GPU", "tensorrt-rtx", None),
)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="of TensorRT-RTX, for sm86, manifest beside it")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    plans = {"tensorrt-rtx": options.plan, "tensorrt": pretend_plan(options.plan)}
    refusals = tuple(refusal(case, plans[runtime], host, options.data) for case, runtime, host in CASES)
    for one in refusals:
        print(f"{one.case} ({one.host})\n$ {one.command}\nedgeres: {one.sentence}\n[exit code {one.exit_code}]\n")
    keep(known_in(options.out).model_copy(update={"refusals": refusals}), options.out)
    return 0


def pretend_plan(plan: Path) -> Path:
    """TensorRT's header and a manifest that names TensorRT, otherwise as `plan`'s: no engine."""
    path = plan.with_name(f"tensorrt.{plan.name}")
    version = bytes(int(part) for part in _TENSORRT.split("."))
    path.write_bytes((b"ftrt" + bytes(20) + version).ljust(_HEADER_BYTES, b"\0"))
    changes = {"runtime": "tensorrt", "runtime_version": _TENSORRT, "plan_sha256": sha256_of(path), "gpu": "RTX 3090"}
    manifest = manifest_of(Engine(plan)).model_copy(update=changes)
    Engine(path).manifest_path.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return path


def refusal(case: str, plan: Path, host: Host | None, data: str) -> Refusal:
    """What `edgeres eval` says of `plan` on `host`."""
    words = ["eval", plan.name, "--data", data]
    told = [] if host is None else [json.dumps(asdict(host))]
    command = [sys.executable, str(Path(__file__).resolve()), "--pretend", *told, *words]
    if host is None:
        command = [sys.executable, "-m", "edgeres", *words]
    done = subprocess.run(command, cwd=plan.parent, capture_output=True, text=True, check=False)
    return Refusal(
        case=case,
        host=words_of(host),
        command=shlex.join(("edgeres", *words)),
        exit_code=done.returncode,
        sentence=said(done),
    )


def words_of(host: Host | None) -> str:
    """GPU, system and what is installed."""
    known = host or this_host()
    gpu = f"{known.gpu.name} ({known.gpu.target})" if known.gpu else "no GPU"
    installed = " and ".join(f"{NAMES[name]} {version}" for name, version in known.versions.items())
    return f"{gpu}, {known.system}, {installed}{'' if host else ': this machine'}"


def pretend(text: str, words: list[str]) -> None:
    """`edgeres words` on the host that `text` describes."""
    from edgeres.cli.main import main as edgeres_main
    from edgeres.runtime import manifest

    values = json.loads(text)
    host = Host(**values | {"gpu": Gpu(*values["gpu"])})
    manifest.this_host = lambda: host
    sys.argv = ["edgeres", *words]
    edgeres_main()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pretend"]:
        pretend(sys.argv[2], sys.argv[3:])
    sys.exit(main())
