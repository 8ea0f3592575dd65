"""Checkpoint -> ONNX graph that TensorRT, ONNX Runtime and a reader understand."""
