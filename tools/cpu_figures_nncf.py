"""Runs inside NNCF's environment: python cpu_figures_nncf.py FLOAT.onnx IMAGES.npy OUT.onnx; prints NNCF's version.

Post-training quantization as NNCF's documentation shows it, with its defaults (fast bias correction included), on the
images given: float32 (n, C, H, W), one at a time.
"""

from __future__ import annotations

import sys

import nncf  # type: ignore[import-not-found]  # lives in an environment of its own
import numpy as np
import onnx


def main(source: str, images: str, out: str) -> None:
    """Writes OUT.onnx."""
    model = onnx.load(source)
    name = model.graph.input[0].name
    samples = np.load(images)
    dataset = nncf.Dataset(list(samples), lambda image: {name: image[None]})
    quantized = nncf.quantize(model, dataset, subset_size=len(samples))
    onnx.save(quantized, out)
    print(nncf.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
