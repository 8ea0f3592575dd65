"""What TensorRT made of every layer, asked of a plan: `python -m edgeres.compile.inspection MODULE PLAN OUT.json`.

Only where the plan can be loaded, that is on its GPU. Exit code 1 and one line on stderr where it cannot.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from edgeres.compile.worker import logger_into
from edgeres.core.files import write_text


def main(module: str, plan: Path, out: Path) -> int:
    """Writes the inspector's JSON; the exit code."""
    try:
        trt = importlib.import_module(module)
    except (ImportError, OSError) as err:
        return _refuse(f"{module} cannot be imported: {' '.join(str(err).split())}")
    messages: list[str] = []
    logger = logger_into(trt, messages)
    text = layer_information(trt, plan.read_bytes(), logger)
    if text is None:
        return _refuse("; ".join(["the engine cannot be loaded here", *messages[:1]]))
    write_text(out, text if text.endswith("\n") else text + "\n")
    return 0


def layer_information(trt: Any, plan: bytes, logger: Any) -> str | None:
    """The engine inspector's JSON about `plan`, or None if it cannot be loaded."""
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = True  # a version-compatible plan carries a runtime of its own
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _refuse(reason: str) -> int:
    sys.stderr.write(reason + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
