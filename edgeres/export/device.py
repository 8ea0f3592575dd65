"""A program for the device that feeds a model as its card says: the constants here, the rest in edgeres/help/device.*.

It needs nothing of edgeres, so that it can be copied into an application.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

from edgeres.core.artifacts import FUSED_PROFILE, Engine, Model, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.lineage import check_for_tensorrt
from edgeres.core.onnx_file import image_input
from edgeres.core.safe_text import typed

_PLACE = "@CONSTANTS@"
_Value = str | int | bool | tuple[float, ...] | tuple[str, ...]


def program_for(model: Model, language: str) -> str:
    """The source of the program in `language` (python or cpp) for an ONNX file or an engine.

    Raises InputError for another file, for one that does not say how it is fed, for an NHWC input, and for a program of
    TensorRT for a file that is not for it.
    """
    if language == "cpp" and isinstance(model, OnnxModel):
        check_for_tensorrt(model)
    source = files("edgeres").joinpath(f"help/device.{_SUFFIXES[language]}.txt").read_text(encoding="utf-8")
    comment, line = _LINES[language]
    about = f"{comment} Of {model.path.name}, sha256 {model.sha256}"
    constants = _constants_of(model) | ({"FUSED": _is_fused(model)} if language == "python" else {})
    return source.replace(_PLACE, "\n".join([about, *(line(*one) for one in constants.items())]))


def _is_fused(model: Model) -> bool:
    """Whether ONNX Runtime fuses the graph's Q/DQ pairs into integer kernels, as `edgeres eval` has it."""
    return isinstance(model, OnnxModel) and model.profile == FUSED_PROFILE


def _constants_of(model: Model) -> dict[str, _Value]:
    name, output, (batch, *shape) = _tensors_of(model)
    spec, preprocess = model.spec, model.spec.preprocess
    spec.check_classes("the program, which prints classes,")
    if not preprocess.is_known:
        raise InputError(f"{model.path} does not say how images become its input; calibrate says it with --mean")
    if tuple(shape) != spec.input_shape:
        raise InputError(
            f"{model.path} takes {' x '.join(map(str, shape))}; the program feeds channels x height x width"
        )
    channels, height, width = spec.input_shape
    return {
        "INPUT": name,
        "OUTPUT": output,
        "OUTPUTS": spec.num_classes,
        "BATCH": batch if batch > 0 else 1,
        "CHANNELS": channels,
        "HEIGHT": height,
        "WIDTH": width,
        "MEAN": preprocess.mean,
        "STD": preprocess.std,
        "FIT": preprocess.fitted,
        "RESIZE": preprocess.resize or 0,
        "INTERPOLATION": preprocess.interpolation,
        "BORDER": preprocess.border,
        "EXIF": preprocess.exif,
        "CLASSES": spec.classes or tuple(map(str, range(spec.num_classes))),
    }


def _tensors_of(model: Model) -> tuple[str, str, Sequence[int]]:
    """(input, output, the input's shape); the batch is below 1 where it is open."""
    if isinstance(model, OnnxModel):
        name, shape = image_input(model.proto, model.path)
        return name, model.proto.graph.output[0].name, shape
    if isinstance(model, Engine):
        (name, shape), output = next(iter(model.manifest.inputs.items())), next(iter(model.manifest.outputs))
        return name, output, shape
    raise InputError(f"{model.path} does not run on a device; export it first: edgeres export {typed(model.path)}")


def _python(name: str, value: _Value) -> str:
    return f"{name} = {value!r}"


def _cpp(name: str, value: _Value) -> str:
    if isinstance(value, bool):
        return f"constexpr bool {name} = {str(value).lower()};"
    if isinstance(value, int):
        return f"constexpr int {name} = {value};"
    if isinstance(value, str):
        return f"constexpr const char* {name} = {_quoted(value)};"
    kind = "const char* const" if isinstance(value[0], str) else "constexpr float"
    words = (_quoted(one) if isinstance(one, str) else f"{float(one)!r}f" for one in value)
    return f"{kind} {name}[] = {{{', '.join(words)}}};"


def _quoted(text: str) -> str:
    """As a literal of C++ in UTF-8: what is not a plain letter, digit or mark by its octal number."""
    plain = frozenset(range(0x20, 0x7F)) - {*b'"\\?'}
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


_SUFFIXES = {"python": "py", "cpp": "cpp"}
_LINES: dict[str, tuple[str, Callable[[str, _Value], str]]] = {"python": ("#", _python), "cpp": ("//", _cpp)}
