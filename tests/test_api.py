"""The Python interface: every name resolves, nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres import api
from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.errors import InputError
from edgeres.pipeline.stages import STAGES


def test_every_name_of_the_stub_resolves_to_what_it_says():
    for name in dir(api):
        assert getattr(api, name).__name__ == name


def test_a_name_that_is_not_listed_is_none():
    with pytest.raises(AttributeError, match="has no attribute 'prun'"):
        _ = api.prun


def test_every_stage_and_its_config_can_be_reached():
    reachable = {getattr(api, name) for name in dir(api)}
    for row in STAGES.values():
        assert row.config_class() in reachable


def test_importing_the_interface_is_free():
    code = (
        "import sys; from edgeres import api; print(sorted(m for m in ('torch', 'onnx', 'numpy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_stage_takes_what_the_stub_says():
    stub = ast.parse(Path(api.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    said = {node.target.id: ast.unparse(node.annotation) for node in stub.body if isinstance(node, ast.AnnAssign)}
    for row in STAGES.values():
        kinds = f"{row.config_class().__name__}, {row.output.__name__}]"
        begins = f"_Stage[{row.source.__name__}, " if row.source else "_Source["
        assert said.pop(row.function.partition(":")[2]) == begins + kinds
    assert not said


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in dir(api)
        if inspect.isfunction(found := getattr(api, name))
        and any(re.search("Path|Model]|^(Model|Checkpoint|OnnxModel)$", of) for of in found.__annotations__.values())
    ],
)
def test_text_serves_for_every_path_and_a_path_for_every_artifact(name, tmp_path, monkeypatch):
    home = inspect.getmodule(inspect.unwrap(getattr(api, name)))
    original, calls = getattr(home, name), []
    parameters = inspect.signature(original).parameters
    monkeypatch.setattr(home, name, functools.wraps(original)(lambda *args, **_: calls.append(args)))
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "a.onnx").touch()
    graph = str(tmp_path / "a.onnx")
    texts = {"Path": "a/b", "Path | None": "a/b", "Checkpoint": str(tmp_path / "a.safetensors"), "OnnxModel": graph}
    texts |= {"Model": graph, "Sequence[Model]": [graph, tmp_path / "a.onnx"]}
    wanted = {"Path": Path, "Path | None": Path, "Checkpoint": Checkpoint, "Sequence[Model]": list}
    given = [one.annotation for one in parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    needed = {one.name: None for one in parameters.values() if one.kind is one.KEYWORD_ONLY}
    getattr(api, name)(*(texts.get(annotation) for annotation in given), **needed)
    (taken,) = calls
    for annotation, value in zip(given, taken, strict=True):
        assert value is None or isinstance(value, wanted.get(annotation, OnnxModel))
        assert not isinstance(value, list) or all(isinstance(one, OnnxModel) for one in value)
    assert Path(graph) not in taken
    assert graph not in taken


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda file: api.prune(file, None, "out"), "prune takes Checkpoint as its source, got "),
        (lambda file: api.train(file, None, "out"), "train takes None as its source, got "),
    ],
)
def test_a_file_of_another_kind_is_refused(call, said, tmp_path):
    (tmp_path / "a.onnx").touch()
    with pytest.raises(InputError, match=said):
        call(tmp_path / "a.onnx")


LISTS = [
    (name, parameter.name)
    for name in dir(api)
    if inspect.isfunction(function := getattr(api, name))
    for parameter in inspect.signature(function).parameters.values()
    if re.match(r"Sequence\[|tuple\[", str(parameter.annotation))
]


@pytest.mark.parametrize(("name", "parameter"), LISTS)
def test_a_string_where_a_list_is_taken_is_one_clear_line(name, parameter):
    function = getattr(api, name)
    others = [one for one in inspect.signature(function).parameters.values() if one.name != parameter]
    needed = {one.name: None for one in others if one.default is one.empty}
    with pytest.raises(InputError, match=rf"^{name}: {parameter} is a list, got 'stage\.2'; write \['stage\.2'\]$"):
        function(**needed, **{parameter: "stage.2"})


CONFIGS = [getattr(api, name) for name in dir(api) if name.endswith("Config")]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_an_option_that_does_not_exist_names_the_nearest_in_one_line(kind):
    for name in kind.model_fields:
        wrong = f"{name}x"
        with pytest.raises(InputError, match=f"^{kind.__name__}: unknown key '{wrong}'; did you mean {name}\\?") as err:
            kind(**{wrong: 1})
        assert "\n" not in str(err.value)


def test_a_value_that_cannot_be_is_said_in_one_line():
    with pytest.raises(InputError, match=r"^PruneConfig: drop: .*, got 'x'$"):
        api.PruneConfig(drop="x", data="digits")
