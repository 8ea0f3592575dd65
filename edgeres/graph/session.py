"""ONNX Runtime on the CPU: every session is made here, and any tensor inside a graph is read out here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.core.environment import default_threads
from edgeres.core.errors import InputError, reason_of, require
from edgeres.core.processes import count

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_REASON_SHOWN = 300
log = logging.getLogger(__name__)
_FATAL = 4  # what goes wrong otherwise is raised, and need not be printed too


class GraphSession:
    """`model` with its Q/DQ computed literally; `outputs`: tensors to compute, any of the graph's.

    Raises:
        InputError: ONNX Runtime cannot load it, which the error calls `name`.
    """

    def __init__(
        self, model: onnx.ModelProto, name: str, outputs: Iterable[str], *, threads: int | None = None
    ) -> None:
        self._name, self._outputs = name, list(dict.fromkeys(outputs))
        self._made = partial(session_from, with_outputs(model, self._outputs), name, threads=threads)
        self._session, self._is_plain = self._made(), False

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs for one batch, as computed.

        ONNX Runtime 1.32 breaks some graphs whose inner tensors are read (a Transpose before Q/DQ, as in ConvNeXt) by
        what it makes of them: they are run as they stand, which is the same and slower.
        """
        try:
            with answering(self._name):
                return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))
        except InputError:
            if self._is_plain:
                raise
            self._session, self._is_plain = self._made(optimized=False), True
            found = self.run(feeds)
            log.warning("%s is run as it stands, which takes longer: ONNX Runtime's optimizer breaks it", self._name)
            return found


def session_from(
    model: onnx.ModelProto | Path,
    name: str,
    *,
    literal: bool = True,
    threads: int | None = None,
    arena: bool = True,
    optimized: bool = True,
) -> Any:
    """An onnxruntime.InferenceSession; its threads do not spin between calls, which would slow its neighbours.

    `literal`: Quantize and Dequantize nodes are computed as they stand, not fused into integer kernels. Without
    `arena` memory is given back as soon as a tensor is; not `optimized`, nodes are computed as they stand as well.

    Raises:
        InputError: ONNX Runtime cannot load `model`, which the error calls `name`.
    """
    ort = require("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.enable_cpu_mem_arena = arena
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1" if literal else "0")
    if threads is None and count() > 1:
        threads = default_threads()
    if threads is not None:
        options.intra_op_num_threads = threads
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as err:
        raise InputError(f"ONNX Runtime cannot load {name}: {' '.join(str(err).split())}") from err


@contextmanager
def answering(name: str) -> Iterator[None]:
    """Raises InputError where ONNX Runtime, which loaded the graph `name`, cannot run it."""
    try:
        yield
    except Exception as err:
        if not type(err).__module__.startswith("onnxruntime"):
            raise
        raise InputError(f"ONNX Runtime cannot run {name}: {reason_of(err, _REASON_SHOWN)}") from err


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """`model`, or a copy that puts out `tensors` too, of no stated shape."""
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    added = [name for name in dict.fromkeys(tensors) if name not in known]
    if not added:
        return model
    copy = deepcopy(model)
    for name in added:
        copy.graph.output.add(name=name)
    return copy
