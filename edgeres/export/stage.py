"""Checkpoint -> ONNX: batch norms folded, names readable, checked against torch before the file appears."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

import edgeres
from edgeres.core.artifacts import CARD_KEY, Checkpoint, OnnxModel
from edgeres.core.config import Config
from edgeres.core.errors import InputError, StageError, require
from edgeres.core.files import written
from edgeres.core.onnx_file import INPUT_NAME, OUTPUT_NAME
from edgeres.core.spec import Card, ModelSpec
from edgeres.core.stage import Recorder, StageResult, timed

if TYPE_CHECKING:
    from edgeres.models.network import Network

FILE_NAME = "model.onnx"
_CHECK_IMAGES = 8
_MAX_DIFFERENCE = 1e-4  # of the largest logit; float32 rounding in 110 layers stays below 1e-5
_MAX_HALF_DIFFERENCE = 2e-2  # of the largest logit; float16 has 11 bits, measured 9e-4 after 56 layers
_EXPORTER_WARNINGS = (
    (DeprecationWarning, r"You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, r"The feature will be removed"),
    (UserWarning, r"Constant folding - Only steps=1"),
)

log = logging.getLogger(__name__)


class ExportConfig(Config):
    """How the graph is written."""

    opset: int = Field(17, ge=13, le=20, description="ONNX opset; 17 suits TensorRT 8.4 and later")
    batch: int = Field(1, ge=1, description="images per call of a static graph")
    dynamic: bool = Field(False, description="let the number of images per call vary")
    half: bool = Field(False, description="in FP16 between float32 input and output: for an FP16 engine")
    seed: int = Field(0, ge=0, description="of the inputs the file is checked on")

    def check(self) -> None:
        """A batch is a static graph's; 1, the default, is what a report spells out for a dynamic one too."""
        if self.dynamic and self.batch != 1:
            raise InputError(
                f"export: --batch {self.batch} is for a static graph, with --dynamic the number of images per call"
                " varies; leave one of them out"
            )


def export(source: Checkpoint, config: ExportConfig, out_dir: Path) -> StageResult[OnnxModel]:
    """Writes `out_dir`/model.onnx.

    Raises:
        InputError: a batch for a dynamic graph.
        StageError: the exporter wrote another opset, or ONNX Runtime disagrees with torch; no file is left.
    """
    from edgeres.models.weights import load_network

    config.check()
    recorder = Recorder("export", config, source)
    network, path = load_network(source), out_dir / FILE_NAME
    images = _images(source.spec, config)
    expected = _torch_logits(network, images)
    with timed(recorder.results, "export_s"):
        write = _of_graph if source.spec.structure else _of_modules
        model, folded = write(network, source.spec, config)
        if config.half:
            from edgeres.graph.opset import with_half

            model = with_half(model)
    limit = _MAX_HALF_DIFFERENCE if config.half else _MAX_DIFFERENCE
    _add_card(model, source)
    with written(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        difference = _difference(expected, OnnxModel(temporary), images, source.spec)
        what = "logit" if source.spec.task == "classes" else "output"
        if not difference <= limit and (config.half or not difference <= _rounding(network, images, source.spec)):
            raise StageError(
                f"export: {source.path} gives other {what}s in ONNX Runtime than in torch: they differ by"
                f" {difference:.2g} of the largest {what} (limit {limit:g}); nothing was written"
            )
    recorder.results |= {
        "opset": config.opset,
        "batch": None if config.dynamic else config.batch,
        "folded_batch_norms": folded,
        "max_relative_difference": difference,
        "checked_images": len(images),
    }
    if not np.abs(expected).max():
        recorder.warnings.append(f"all outputs are 0 on {len(images)} random images: that both agree proves nothing")
    output = OnnxModel(path)
    log.info("agrees with torch to %.1e of the largest %s on %d images", difference, what, len(images))
    return StageResult(output, recorder.finish(output))


def _images(spec: ModelSpec, config: ExportConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (max(_CHECK_IMAGES, config.batch), *spec.input_shape)
    return np.random.default_rng(config.seed).standard_normal(shape, dtype=np.float32)


def _torch_logits(network: Network, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import torch

    with torch.inference_mode():
        logits: np.ndarray[Any, Any] = network(torch.from_numpy(images)).numpy()
    return logits


def _rounding(network: Network, images: np.ndarray[Any, Any], spec: ModelSpec) -> float:
    import torch

    from edgeres.models.network import ROUNDINGS, rounding_in

    return ROUNDINGS * rounding_in(network, torch.from_numpy(images), spec.sizes)


def _of_modules(network: Network, spec: ModelSpec, config: ExportConfig) -> tuple[Any, int]:
    """(the graph, how many batch norms were folded) of a network of ours."""
    from edgeres.models.weights import fold_batch_norms

    folded = fold_batch_norms(network)
    return _onnx_from(network, spec, config), len(folded)


def _of_graph(network: Network, spec: ModelSpec, config: ExportConfig) -> tuple[Any, int]:
    """The same of a network that brings its graph, which is written as it is."""
    onnx = require("onnx", "onnx")
    from edgeres.graph.normal import with_batch
    from edgeres.graph.opset import at_opset
    from edgeres.graph.structure import folded, with_weights
    from edgeres.models.graph_family import graph_without

    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    model, count = folded(with_weights(graph_without(spec), arrays))
    model = with_batch(at_opset(model, config.opset), None if config.dynamic else config.batch)
    onnx.checker.check_model(model, full_check=True)
    return model, count


def _onnx_from(network: Network, spec: ModelSpec, config: ExportConfig) -> Any:
    """The graph by torch's TorchScript exporter: the newer one writes opset 18 whatever it is asked for."""
    import torch

    onnx = require("onnx", "onnx")
    from edgeres.graph.names import tidy

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        for category, message in _EXPORTER_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        torch.onnx.export(
            network,
            (torch.zeros(config.batch, *spec.input_shape),),
            buffer,  # type: ignore[arg-type]  # a file object is taken, the annotation forgets it
            dynamo=False,
            opset_version=config.opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={name: {0: "batch"} for name in (INPUT_NAME, OUTPUT_NAME)} if config.dynamic else None,
        )
    model = onnx.load_from_string(buffer.getvalue())
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": config.opset}:
        raise StageError(f"export: torch {torch.__version__} wrote opset {opsets}, asked for {config.opset}")
    tidied = tidy(model)
    onnx.checker.check_model(tidied, full_check=True)
    return tidied


def _add_card(model: Any, source: Checkpoint) -> None:
    update = {"stage": "export", "parent": source.sha256, "edgeres": edgeres.__version__}
    card: Card = source.card.model_copy(update=update)
    model.metadata_props.add(key=CARD_KEY, value=card.model_dump_json())


def _difference(
    expected: np.ndarray[Any, Any], model: OnnxModel, images: np.ndarray[Any, Any], spec: ModelSpec
) -> float:
    """How far the file's outputs are from those `expected`; of several outputs the worst."""
    from edgeres.core.distances import difference_of, split
    from edgeres.runtime import runner_for
    from edgeres.runtime.runner import infer_all

    with runner_for(model) as runner:
        actual = infer_all(runner, images)
    return difference_of(split(actual, spec.sizes), split(expected, spec.sizes))
