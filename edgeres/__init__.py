"""From a ResNet to a measured INT8 TensorRT engine: `edgeres.api` is the Python interface."""

__version__ = "0.1.0"
