"""Accuracy counts what it should, on every image, for any batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError, StageError
from edgeres.data import dataset_for
from edgeres.evaluate.agreement_run import AgreeConfig, agree
from edgeres.evaluate.stage import accuracy_of, hits
from edgeres.export.stage import ExportConfig, export
from edgeres.models.weights import load_weights, save_checkpoint


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_hits_equals_sorting(seed, classes, k):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(20, classes)).astype(np.float32)
    labels = generator.integers(0, classes, 20)
    best = np.argsort(-logits, axis=1)[:, :k]
    assert hits(logits, labels, k) == sum(label in row for label, row in zip(labels, best, strict=True))


def test_all_val_images_are_counted_whatever_the_batch(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of())
    dataset = dataset_for(checkpoint.spec, "digits")
    whole = accuracy_of(checkpoint, dataset, batch=1000, out=tmp_path / "eval.npy")
    pieces = accuracy_of(checkpoint, dataset, batch=7)
    assert whole.n == pieces.n == len(dataset.val)
    assert (whole.correct_top1, whole.correct_top5) == (pieces.correct_top1, pieces.correct_top5)
    predictions = np.load(tmp_path / "eval.npy")
    assert np.array_equal(predictions[:, 1], dataset.val.labels)
    assert int((predictions[:, 0] == predictions[:, 1]).sum()) == whole.correct_top1
    assert whole.artifact == checkpoint.sha256
    assert whole.predictions == "eval.npy"


def test_an_embedding_is_not_judged_by_classes(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of())
    whole = export(checkpoint, ExportConfig(), tmp_path).output
    graph = onnx.load(whole.path)
    features = next(node.input[0] for node in graph.graph.node if node.op_type == "Gemm")
    del graph.graph.output[:]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None))
    del graph.graph.node[-1]
    onnx.save(graph, tmp_path / "embedding.onnx")
    embedding = OnnxModel(tmp_path / "embedding.onnx")
    with pytest.raises(InputError, match=r"embedding\.onnx gives 64 for an image, not 10 scores of classes"):
        accuracy_of(embedding, dataset_for(embedding.spec, "digits"))
    with pytest.raises(InputError, match="not 10 scores of classes"):
        agree(whole, embedding, AgreeConfig(data="digits", images=20))


def test_logits_that_are_not_finite_are_an_error(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of())
    weights = load_weights(checkpoint)
    weights["fc.bias"] = torch.full_like(weights["fc.bias"], torch.nan)
    broken = save_checkpoint(weights, checkpoint.spec, tmp_path / "broken.safetensors", stage="test")
    with pytest.raises(StageError, match="not finite"):
        accuracy_of(broken, dataset_for(broken.spec, "digits"))
