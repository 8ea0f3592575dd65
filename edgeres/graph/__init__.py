"""The only room that knows ONNX graphs: read (view), executed in torch, made plain, named, put in half precision."""
