"""ONNX models on ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing_extensions import Self

from edgeres.core.artifacts import FUSED_PROFILE, OnnxModel
from edgeres.core.errors import require
from edgeres.core.metrics import FUSED
from edgeres.graph.session import answering, session_from
from edgeres.runtime.runner import Images, Logits, RunnerOptions, fed, joined


class OrtRunner:
    """One session of a file."""

    def __init__(self, model: OnnxModel, options: RunnerOptions) -> None:
        self._ort = require("onnxruntime", "onnx")
        self._model, self._options, self._is_compared = model, options, False
        asked = options.literal_qdq
        self._literal = model.profile != FUSED_PROFILE if asked is None else asked
        self.batch = model.batch
        self.name = f"onnxruntime {self._ort.__version__} cpu"
        if model.integer_operators:
            self.name += " integer operators"
        elif "int8" in model.precision:
            self.name += " literal Q/DQ" if self._literal else FUSED

    def __enter__(self) -> Self:
        """Creates the session; raises InputError if ONNX Runtime refuses the graph."""
        path, threads = self._model.path, self._options.threads
        self._session = session_from(path, str(path), literal=self._literal, threads=threads)
        taken = self._session.get_inputs()[0]
        self._input, self._shape = taken.name, taken.shape
        return self

    def __exit__(self, *exc: object) -> None:
        """Frees the session."""
        del self._session

    def infer(self, images: Images) -> Logits:
        """float32 (N, C, H, W) to float32 (N, K)."""
        if not self._is_compared:
            self._model.check_compared()
            self._is_compared = True
        with answering(str(self._model.path)):
            return joined(self._session.run(None, {self._input: fed(images, self._shape)}))

    def load(self, images: Images) -> None:
        """Keeps the input as an OrtValue, bound together with the outputs."""
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._input, self._ort.OrtValue.ortvalue_from_numpy(fed(images, self._shape)))
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)

    def step(self) -> None:
        """One call without copies."""
        self._session.run_with_iobinding(self._binding)

    def synchronize(self) -> None:
        """The call is synchronous."""
