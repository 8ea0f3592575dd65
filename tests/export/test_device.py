"""The programs for a device feed the network what edgeres feeds it; TensorRT and CUDA are fakes here."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgeres.core.artifacts import CARD_KEY, FUSED_PROFILE, PROFILE_KEY, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.input_options import FitOption
from edgeres.core.spec import Card, Cost, Preprocess
from edgeres.data.images import fitted, image_from, normalised
from edgeres.data.known import PREPROCESS
from edgeres.export.device import program_for
from edgeres.models import spec_from_arch
from edgeres.pipeline.show import exhibit_of
from edgeres.quantize.profiles import set_metadata
from edgeres.runtime.ort import OrtRunner
from edgeres.runtime.runner import RunnerOptions

API = Path(__file__).parents[1] / "compile" / "data" / "api_names.txt"
COLOUR = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
FEEDS = {
    "crop": {"resize": 24},
    "no resize": {},
    "squash": {"fit": "squash"},
    "squash and crop": {"fit": "squash", "resize": 25},
    "letterbox": {"fit": "letterbox", "border": 114},
    "nearest": {"resize": 24, "interpolation": "nearest"},
    "bicubic": {"resize": 24, "interpolation": "bicubic"},
    "lanczos": {"fit": "squash", "interpolation": "lanczos"},
    "exif": {"fit": "letterbox", "exif": True},
}
COMPILED = [
    name if name in {"bicubic", "letterbox"} else pytest.param(name, marks=pytest.mark.exhaustive)
    for name in FEEDS
    if name != "exif"
]


def model_in(
    folder: Path, feed: dict[str, object], *, shape=(3, 20, 16), batch: int | str = 1, classes=()
) -> OnnxModel:
    """A network whose output is the mean of each of the first channels, with a card that says how it is fed."""
    n = shape[0] if not classes else len(classes)
    values = {**{name: value[: shape[0]] for name, value in COLOUR.items()}, **feed}
    spec = spec_from_arch("resnet20", num_classes=n, input_shape=shape, preprocess=Preprocess(**values))
    spec = spec.model_copy(update={"classes": classes})
    nodes = [helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0)]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("images", [batch, *shape]), ("logits", [batch, n]))
    )
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 13)])
    card = Card(spec=spec, cost=Cost(params=1, macs=1), stage="export")
    helper.set_model_props(proto, {CARD_KEY: card.model_dump_json()})
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return OnnxModel(path)


def photo_in(folder: Path, size: tuple[int, int], *, orientation: int = 1) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path, exif = folder / "photo.png", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def names_in(text: str) -> dict[str, object]:
    """What the Python program defines, without being run as one."""
    found: dict[str, object] = {"__name__": "classify"}
    exec(compile(text, "classify.py", "exec"), found)
    return found


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_the_python_program_gives_the_input_that_edgeres_gives(tmp_path, feed, orientation):
    model = model_in(tmp_path, feed)
    photo = photo_in(tmp_path, (16, 20) if feed == {} else (61, 40), orientation=orientation)
    program = names_in(program_for(model, "python"))
    expected = normalised(fitted(image_from(photo), model.spec, "photo")[None], model.spec.preprocess)
    np.testing.assert_array_equal(program["input_from"](program["image_from"](photo)), expected)


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_the_program_show_and_import_call_a_fit_the_same(tmp_path, feed):
    model = model_in(tmp_path, feed)
    fit = names_in(program_for(model, "python"))["FIT"]
    assert fit in get_args(FitOption)
    assert f'FIT = "{fit}"' in program_for(model, "cpp")
    exhibit = exhibit_of(str(model.path))
    assert exhibit.content["preprocess"]["fit"] == fit
    assert any(line.startswith("preprocess:") and f"fit {fit}" in line for line in exhibit.lines)


def test_an_image_of_another_size_is_refused_where_nothing_resizes(tmp_path):
    program = names_in(program_for(model_in(tmp_path, {}), "python"))
    with pytest.raises(SystemExit, match="61x40 pixels, the network takes 16x20"):
        program["image_from"](photo_in(tmp_path, (61, 40)))


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_the_python_program_runs_an_onnx_file_and_names_the_class(tmp_path, batch):
    model = model_in(tmp_path, {"resize": 24}, batch=batch, classes=("cat", 'do"g\n', "cow"))
    (tmp_path / "classify.py").write_text(program_for(model, "python"))
    photo = tmp_path / "green.png"
    Image.new("RGB", (30, 30), (0, 255, 0)).save(photo)
    arguments = [sys.executable, "classify.py", model.path, photo]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f'{photo}: do"g\n 2.000\n'


@pytest.mark.parametrize(("profile", "disabled"), [(None, "1"), ("tensorrt", "1"), (FUSED_PROFILE, "0")])
def test_the_python_program_fuses_pairs_where_eval_does(tmp_path, monkeypatch, profile, disabled):
    model = model_in(tmp_path, {})
    proto = model.proto
    said = {one.key: one.value for one in proto.metadata_props} | ({PROFILE_KEY: profile} if profile else {})
    helper.set_model_props(proto, said)
    model.path.write_bytes(proto.SerializeToString())
    seen = []

    def session(path, options, **more):
        seen.append(options)
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="images", shape=[1])])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    model = OnnxModel(model.path)
    names_in(program_for(model, "python"))["onnx_runner"](str(model.path))
    with OrtRunner(model, RunnerOptions()):
        pass
    assert [one.get_session_config_entry("session.disable_quant_qdq") for one in seen] == [disabled] * 2


def test_the_python_program_runs_a_plan_on_memory_that_cpu_and_gpu_share(tmp_path, monkeypatch):
    model = model_in(tmp_path, {"resize": 24}, classes=("red", "green", "blue"))
    session, bound, kept = onnxruntime.InferenceSession(model.path), {}, []

    def execute(stream: int) -> bool:
        image = np.ctypeslib.as_array(ctypes.cast(bound["images"], ctypes.POINTER(ctypes.c_float)), (1, 3, 20, 16))
        logits = session.run(None, {"images": image})[0]
        ctypes.memmove(bound["logits"], logits.tobytes(), logits.nbytes)
        return True

    def managed(pointer, size, flags) -> int:
        kept.append(ctypes.create_string_buffer(size.value))
        pointer._obj.value = ctypes.addressof(kept[-1])
        return 0

    context = SimpleNamespace(
        set_input_shape=lambda name, shape: True,
        get_tensor_shape={"images": (1, 3, 20, 16), "logits": (1, 3)}.get,
        set_tensor_address=lambda name, address: bound.update({name: address}) is None,
        execute_async_v3=execute,
    )
    engine = SimpleNamespace(create_execution_context=lambda: context)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    logger = lambda level: None  # noqa: E731
    logger.WARNING = 1
    fake = SimpleNamespace(Logger=logger, Runtime=lambda logger: runtime)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    cuda = SimpleNamespace(cudaMallocManaged=managed, cudaDeviceSynchronize=lambda: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda)
    program = names_in(program_for(model, "python"))
    images = program["input_from"](program["image_from"](photo_in(tmp_path, (40, 61))))
    expected = session.run(None, {"images": images})[0]
    np.testing.assert_array_equal(program["plan_runner"](model.path)(images), expected)


@pytest.mark.parametrize(
    ("variable", "kind"), [("runtime", "Runtime"), ("engine", "ICudaEngine"), ("context", "IExecutionContext")]
)
def test_what_the_python_program_calls_is_there_in_every_version(tmp_path, variable, kind):
    section = API.read_text().partition(f"## {kind}\n")[2].partition("\n## ")[0]
    known = {name for name, marks in map(str.split, section.splitlines()) if "Y" in marks}
    used = set(re.findall(rf"\b{variable}\.(\w+)\(", program_for(model_in(tmp_path, {}), "python")))
    assert used
    assert used <= known


@pytest.mark.parametrize("feed", COMPILED if shutil.which("g++") else [])
def test_the_cpp_program_compiles_and_gives_that_input_but_for_rounding(tmp_path, feed):
    model = model_in(tmp_path, FEEDS[feed], classes=("cat", 'do"g\\\n??/', "cow"))
    photo = photo_in(tmp_path, (16, 20) if feed == "no resize" else (61, 40))
    Image.open(photo).convert("RGB").save(tmp_path / "photo.ppm")
    (tmp_path / "classify.cpp").write_text(program_for(model, "cpp"))
    header = Path(__file__).parent / "fake_tensorrt"
    build = ["g++", "-std=c++17", "-Wall", "-Werror", "-I", header, "classify.cpp", "-o", "classify"]
    subprocess.run(build, cwd=tmp_path, check=True)
    (tmp_path / "model.plan").write_bytes(b"plan")
    done = subprocess.run(["./classify", "model.plan", "photo.ppm"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b'photo.ppm: do"g\\\n??/ 1.000\n'
    given = np.fromfile(tmp_path / "input.bin", np.float32).reshape(3, 20, 16)
    (expected,) = normalised(fitted(image_from(photo), model.spec, "photo")[None], model.spec.preprocess)
    steps = np.abs(given - expected) * 255 * np.array(COLOUR["std"], np.float32)[:, None, None]
    assert steps.max() < 1.01
    assert steps.mean() < 0.1


@pytest.mark.parametrize("language", ["python", "cpp"])
def test_a_grey_network_and_one_that_does_not_say_how_it_is_fed(tmp_path, language):
    assert "CHANNELS = 1" in program_for(model_in(tmp_path, {}, shape=(1, 8, 8), classes=("0", "1")), language)
    model = model_in(tmp_path, {})
    model.proto.metadata_props.clear()
    with pytest.raises(InputError, match="does not say how images become its input"):
        program_for(model, language)


def test_a_file_quantized_for_a_cpu_has_no_tensorrt_program(tmp_path):
    model = model_in(tmp_path, {})
    set_metadata(model.proto, PROFILE_KEY, FUSED_PROFILE)
    with pytest.raises(InputError, match="quantized for ONNX Runtime on a CPU; make one for TensorRT"):
        program_for(model, "cpp")
    assert "FUSED = True" in program_for(model, "python")


def test_the_page_shows_the_constants_of_the_demo(tmp_path):
    page = (files("edgeres") / "help" / "device.md").read_text(encoding="utf-8")
    demo = {**PREPROCESS.model_dump(include={"mean", "std"}), "resize": 18}
    model = model_in(tmp_path, demo, shape=(1, 16, 16), classes=tuple("0123456789"))
    shown = re.findall(r"^    ([A-Z]+ = .*)$", page, re.MULTILINE)
    assert shown
    assert "\n".join(shown) in program_for(model, "python")
