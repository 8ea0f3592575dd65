"""Float ONNX -> INT8 ONNX: streaming statistics, calibrators, where Q/DQ go, and a lint of the result."""
