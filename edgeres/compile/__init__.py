"""ONNX -> TensorRT engine, in a process of its own, with a manifest beside the plan."""
