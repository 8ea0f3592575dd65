"""The only room that knows ONNX graphs: read (view, blocks), edited (draft), made plain, named, halved, executed."""
