"""Engines on this machine's GPU, by the bindings of TensorRT (8.5 and later) or TensorRT-RTX: the names are the same.

Memory, stream and CUDA graph come from the driver (`edgeres.runtime.cuda`), so neither torch nor the CUDA toolkit is
needed. What an engine reads and writes in FP16 is converted; the runner gives and takes float32.

Tested with a fake TensorRT that executes the graph with ONNX Runtime, and a fake driver; never run on hardware so far.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgeres.core.artifacts import Engine
from edgeres.core.errors import DeviceError, InputError
from edgeres.runtime.cuda import Captured, CudaError
from edgeres.runtime.engine import EngineError, LoadedEngine, UnfitEngine
from edgeres.runtime.manifest import manifest_of, plan_header
from edgeres.runtime.runner import Images, Logits, RunnerOptions, fed, joined

_TYPES: dict[str, np.dtype[Any]] = {"FLOAT": np.dtype(np.float32), "HALF": np.dtype(np.float16)}
_WITHOUT_GRAPH = " without CUDA graph"


class TensorRtRunner:
    """One execution context on one stream; timed steps are launches of a CUDA graph where one can be captured.

    `name` says so where it cannot. An engine of a dynamic graph takes any number of images: more than its largest batch
    are cut, fewer than its smallest are filled up.
    """

    def __init__(self, engine: Engine, options: RunnerOptions) -> None:
        del options  # threads and the reading of Q/DQ nodes are settled in an engine
        self._file, self._manifest = engine, manifest_of(engine)
        runtime = plan_header(engine.path).runtime
        self._trt = _binding(runtime)
        self.name = f"{runtime} {self._trt.__version__}"
        fixed = next(iter(self._manifest.inputs.values()), (-1,))[0]
        self.batch: int | None = None if fixed < 0 else fixed

    def __enter__(self) -> Self:
        """Loads the engine; raises DeviceError with TensorRT's words where that fails."""
        self._graph: Captured | None = None
        with self._in_words():
            has_code = self._manifest.version_compatible
            self._engine = LoadedEngine(self._trt, self._file.path.read_bytes(), has_code)
        return self

    def __exit__(self, *exc: object) -> None:
        """Frees the engine, then its memory and the stream."""
        self._forget_graph()
        self._engine.close()

    def infer(self, images: Images) -> Logits:
        """float32 (N, C, H, W) to float32 (N, K); raises InputError for other shapes than the engine's."""
        images, most = self._checked(images), self._engine.input.batch[1]
        with self._in_words():
            return np.concatenate([self._infer(images[at : at + most]) for at in range(0, len(images), most)])

    def load(self, images: Images) -> None:
        """Brings the input to the GPU, runs once and captures a CUDA graph.

        Raises InputError if the engine does not take that many images at once.
        """
        images = self._checked(images)
        with self._in_words():
            self._fill(images, len(images))
            self._engine.upload()
            self._engine.start()
            self._engine.cuda.synchronize()
            self._graph = self._captured()
        self.name = self.name.removesuffix(_WITHOUT_GRAPH) + ("" if self._graph else _WITHOUT_GRAPH)

    def step(self) -> None:
        """Begins one call on the loaded input."""
        if self._graph is not None:
            self._engine.cuda.launch(self._graph)
        else:
            self._engine.start()

    def synchronize(self) -> None:
        """Waits for the GPU."""
        self._engine.cuda.synchronize()

    def _infer(self, images: Images) -> Logits:
        count = max(len(images), self._engine.input.batch[0])
        self._fill(images, count)
        self._engine.run()
        ports = {port.name: index for index, port in enumerate(self._engine.outputs, 1)}
        told = self._manifest.outputs  # in the file's order, which TensorRT need not keep
        order = [ports[name] for name in told] if told.keys() == ports.keys() else ports.values()
        found = [self._held(index, count)[: len(images)].astype(np.float32) for index in order]
        return joined([one.reshape(len(one), -1) for one in found])

    def _checked(self, images: Images) -> Images:
        shape = self._engine.input.shape
        images = fed(images, (0, *shape))
        if images.shape[1:] != shape or not len(images):
            raise InputError(f"{self._file.path} reads images {shape}, given were {images.shape}")
        return images

    def _fill(self, images: Images, count: int) -> None:
        """Images for the next call, and zeros up to `count` of them."""
        if count != self._engine.bound:
            self._forget_graph()
        self._engine.bind(count)
        place = self._held(0, count)
        place[: len(images)] = images
        place[len(images) :] = 0

    def _held(self, index: int, count: int) -> NDArray[Any]:
        """What the input's (0) or an output's (1, ...) memory on this side holds, of `count` images."""
        port = (self._engine.input, *self._engine.outputs)[index]
        host = self._engine.buffers[index].host[: port.size_bytes(count)]
        values: NDArray[Any] = np.frombuffer(host, dtype=_TYPES[port.kind])
        return values.reshape(count, *port.shape)

    def _captured(self) -> Captured | None:
        """The call as a CUDA graph; None where the engine has parts that cannot be captured, such as a DLA's."""
        cuda = self._engine.cuda
        is_capturable = getattr(self._engine.context, "is_stream_capturable", None)  # TensorRT-RTX has it
        if is_capturable is not None and not is_capturable(cuda.stream):
            return None
        return cuda.capture(self._engine.enqueue)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._engine.cuda.forget(self._graph)
        self._graph = None

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Raises DeviceError for what driver or TensorRT refuse, InputError for what edgeres cannot run."""
        try:
            yield
        except CudaError as err:
            raise DeviceError(f"{self._file.path}: {err}") from err
        except EngineError as err:
            raise DeviceError(f"{self._file.path}: {self.name} {err}") from err
        except UnfitEngine as err:
            raise InputError(f"{self._file.path} {err}") from err


def _binding(runtime: str) -> Any:
    """The Python module of `runtime`; raises DeviceError if it is there and cannot be loaded."""
    module = runtime.replace("-", "_")
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as err:
        reason = " ".join(str(err).split())
        raise DeviceError(f"{module} cannot be imported here: {reason}") from err
