"""What computes behind the fake `tensorrt`: ONNX Runtime with the Q/DQ nodes taken literally.

stdin:  length (8 bytes) and the ONNX file, then batches: four int64 (N, C, H, W) and float32 values
stdout: number of values (8 bytes) and float32 values
"""

import struct
import sys

import numpy as np
import onnxruntime as ort


def main() -> None:
    read, write = sys.stdin.buffer, sys.stdout.buffer
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    model = read.read(*struct.unpack("<q", read.read(8)))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    while len(head := read.read(32)) == 32:
        shape = struct.unpack("<4q", head)
        images = np.frombuffer(read.read(4 * int(np.prod(shape))), dtype="<f4").reshape(shape)
        logits = np.concatenate([one.ravel() for one in session.run(None, {name: images})]).astype("<f4")
        write.write(struct.pack("<q", logits.size) + logits.tobytes())
        write.flush()


if __name__ == "__main__":
    main()
