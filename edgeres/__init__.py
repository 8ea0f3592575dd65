"""From a ResNet to a measured INT8 TensorRT engine: every name below is also a command of `edgeres`."""

__version__ = "0.1.0"
