"""Accuracy on a board: the agent's logits are ONNX Runtime's where the pretend board computes with ONNX Runtime."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

# `make test` runs each JetPack once, with a fixed batch or a dynamic one; `make exhaustive` with both.
FIXED, DYNAMIC = (
    [pytest.param(one, marks=[] if one in here else pytest.mark.exhaustive) for one in ("4.6", "5.1", "6.2", "7.2")]
    for here in (("4.6", "6.2"), ("5.1", "7.2"))
)
SHAPE, CLASSES, SCALE = (3, 8, 8), 5, 0.05


def network(batch):
    """Q/DQ -> Conv -> ReLU -> global average -> Gemm, weights from a fixed seed."""
    random, helper = np.random.default_rng(3), onnx.helper
    stored = {
        "scale": np.float32(SCALE),
        "zero": np.int8(0),
        "weight": random.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "head": random.normal(0, 1, (CLASSES, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
        helper.make_node("Conv", ["dq", "weight"], ["c"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head"], ["logits"], name="fc", transB=1),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", kind, [batch, *SHAPE])],
        [helper.make_tensor_value_info("logits", kind, [batch, CLASSES])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pixels(n):
    return np.random.default_rng(n).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def tables():
    """float32 (C, 256) as normalisation gives them."""
    mean, std = np.float32([[0.49], [0.48], [0.44]]), np.float32([[0.2], [0.21], [0.22]])
    return ((np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std).astype(np.float32)


def normalised(images):
    return np.stack([tables()[channel][images[:, channel]] for channel in range(SHAPE[0])], axis=1)


def expected(images):
    """ONNX Runtime's logits, Q/DQ taken literally."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(network("n").SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.fixture
def board(bench_of):
    """`board("6.2")`: with model.plan (batch 2) and dynamic.plan (batch 1 to 4)."""

    def make(jetpack="6.2"):
        one = bench_of(jetpack)
        if not (one.root / "dynamic.plan").exists():
            onnx.save(network(2), one.root / "static.onnx")
            onnx.save(network("n"), one.root / "dynamic.onnx")
            one.build("static.onnx", "static.plan")
            bounds = {"min": 1, "opt": 2, "max": 4}
            shapes = [f"--{key}Shapes=images:{size}x3x8x8" for key, size in bounds.items()]
            one.build("dynamic.onnx", "dynamic.plan", *shapes)
        for name in ("images", "logits.bin"):
            path = one.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return one

    return make


def job(plan, batch, logits="logits.bin"):
    return ["eval", "--engine", plan, "--images", "images", "--batch", str(batch), "--logits", logits]


def check(one, answer, wanted):
    got = np.fromfile(one.root / "logits.bin", "<f4").reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert (got.argmax(1) == wanted.argmax(1)).all()
    assert (answer["n"], answer["classes"]) == wanted.shape
    assert one.strays() == []
    assert one.left() == []


@pytest.mark.parametrize("jetpack", FIXED)
def test_the_logits_equal_onnx_runtimes(board, jetpack):
    one, images = board(jetpack), pixels(7)
    one.pack("images", images, tables())
    code, answer = one.run(*job("static.plan", 2))
    assert code == 0, answer
    check(one, answer, expected(normalised(images)))
    assert answer["tensorrt"] == ".".join(map(str, one.fakes.jetpacks()[jetpack]["tensorrt"]))
    assert (one.root / "state" / "cuda.txt").read_text() == "given 4 taken 4 streams 0 contexts 0\n"


@pytest.mark.parametrize("jetpack", DYNAMIC)
def test_the_logits_equal_onnx_runtimes_with_a_dynamic_batch(board, jetpack):
    one, images = board(jetpack), pixels(10)
    one.pack("images", images, tables(), part=7)
    code, answer = one.run(*job("dynamic.plan", 4))
    assert code == 0, answer
    check(one, answer, expected(normalised(images)))


def test_the_python_of_each_jetpack_can_evaluate(board, python):
    one, images = board("4.6" if "3.6" in python else "6.2"), pixels(3)
    one.pack("images", images, tables())
    code, answer = one.run(*job("static.plan", 2), python=python)
    assert code == 0, answer
    check(one, answer, expected(normalised(images)))


def test_the_installed_package_can_evaluate_too(board):
    one, images = board(), pixels(3)
    one.pack("images", images, tables())
    command = [sys.executable, "-m", "edgeres.bench.agent", *job("static.plan", 2)]
    done = subprocess.run(command, cwd=one.root, env=one.environment, capture_output=True, text=True, check=True)
    check(one, json.loads(done.stdout.splitlines()[-1]), expected(normalised(images)))


def test_a_mistake_in_the_input_would_be_seen(board):
    one, images = board(), pixels(4)
    one.pack("images", images, tables()[::-1].copy())
    assert one.run(*job("static.plan", 2))[0] == 0
    got = np.fromfile(one.root / "logits.bin", "<f4").reshape(4, CLASSES)
    assert np.abs(got - expected(normalised(images))).max() > 1e-2


@pytest.mark.parametrize(
    ("batch", "plan", "message"),
    [
        (4, "static.plan", "the engine takes 2 images at once, not 4"),
        (8, "dynamic.plan", "the engine takes 1 to 4 images at once, not 8"),
        (2, "old.plan", "TensorRT 10.3.0.30 of this board cannot load it: The engine plan file is not"),
        (2, "half.plan", "cannot load it: "),
        (2, "static.onnx", "magic tag does not match"),
        (2, "none.plan", "cannot read none.plan: No such file or directory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("jetpack", ["6.2"])
def test_an_engine_that_does_not_fit_is_one_line(board, jetpack, batch, plan, message):
    one = board(jetpack)
    one.pack("images", pixels(2), tables())
    whole = bytearray((one.root / "static.plan").read_bytes())
    (one.root / "half.plan").write_bytes(whole[: len(whole) // 2])
    whole[25] = 7
    (one.root / "old.plan").write_bytes(whole)
    assert message in one.refusal(*job(plan, batch))
    assert not (one.root / "logits.bin").exists()


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ({"FAKE_MODE": "evalcrash"}, "the evaluation crashed inside TensorRT or CUDA with signal 11"),
        ({"FAKE_MODE": "evalhang"}, "the evaluation hung: it was ended after 2 s"),
        ({"FAKE_CUDA_BYTES": "100"}, "CUDA: cuMemAlloc_v2 failed: out of memory (error 2)"),
        ({"PYTHONPATH": ""}, "python3 of this board has no tensorrt"),
    ],
)
def test_a_failure_while_it_runs_is_one_line(board, mode, message):
    one = board()
    one.pack("images", pixels(4), tables())
    assert message in one.refusal(*job("static.plan", 2), "--timeout-s", "2", **mode)
    assert one.strays() == []
    assert one.left() == []
    assert one.run(*job("static.plan", 2))[0] == 0


def test_logits_that_cannot_be_written_are_one_line(board):
    one = board()
    one.pack("images", pixels(2), tables())
    said = one.refusal(*job("static.plan", 2, "nowhere/logits.bin"))
    assert said == "cannot write nowhere/logits.bin: No such file or directory"


def test_images_of_another_shape_are_refused(board):
    one = board()
    one.pack("images", np.zeros((2, 3, 9, 9), np.uint8), tables())
    assert one.refusal(*job("static.plan", 2)) == "the engine takes images of (3, 8, 8), these are (3, 9, 9)"


def test_a_part_that_is_short_or_gone_is_refused(board):
    one = board()
    part = one.pack("images", pixels(2), tables()) / "part-00000.bin"
    part.write_bytes(part.read_bytes()[:-1])
    assert "damaged index of images images/index.json: 2 images of (3, 8, 8)" in one.refusal(*job("static.plan", 2))
    part.unlink()
    said = one.refusal(*job("static.plan", 2))
    assert "No such file or directory" in said
    assert "part-00000.bin" in said


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3, 8]}, {"n": 3}, {"n": "many"}, {"dtype": "int8"}, {"tables": [[0.0] * 256]}, {"tables": None},
        {"parts": [{"name": "../part-00000.bin", "n": 2}]}, {"parts": 3}, {"shape": [3, 0, 8]},
    ],
)  # fmt: skip
def test_a_damaged_index_is_one_line(board, change):
    one = board()
    index = one.pack("images", pixels(2), tables()) / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    assert "damaged index of images images/index.json" in one.refusal(*job("static.plan", 2))
