"""tools/engine_cases.py: a manifest is complete only if every fact in it is there and right."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from edgeres.compile.stage import CompileConfig, compile_engine
from edgeres.core.artifacts import OnnxModel

TOOL = Path(__file__).parents[2] / "tools" / "engine_cases.py"
TARGETS = ("sm86",)
DAMAGE = {
    "inputs": {"inputs": {"images": [2, 1, 8, 8]}},
    "outputs": {"outputs": {}},
    "types": {"dtypes": {"images": "FLOAT"}},
    "batches": {"batch": [1, 8, 32]},
    "architectures": {"targets": ["sm89"]},
    "version": {"runtime_version": "1.7.1"},
    "CUDA": {"cuda": None},
    "flags": {"strongly_typed": None},
    "precision": {"precision": "int8"},
    "ONNX": {"onnx_sha256": "0" * 64},
    "build seconds": {"build_s": 0.0},
    "layers": {"gpu": "an unknown GPU"},
}


@pytest.fixture(scope="module")
def cases():
    spec = importlib.util.spec_from_file_location("engine_cases", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks for the names in its annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def built(float_model, tmp_path) -> tuple[Path, OnnxModel]:
    """A plan of TensorRT-RTX with its manifest, and its graph."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    engine = compile_engine(float_model, CompileConfig(targets=TARGETS), tmp_path / "engine").output
    return engine.path, float_model


def test_what_compile_writes_is_complete_and_each_damage_is_named(built, cases):
    plan, source = built
    assert cases.lacks(plan, source.path, TARGETS, "fp32") == ()
    manifest = plan.with_name("model.plan.json")
    whole = json.loads(manifest.read_text())
    for name, values in DAMAGE.items():
        manifest.write_text(json.dumps(whole | values))
        assert name in cases.lacks(plan, source.path, TARGETS, "fp32"), name
    manifest.write_text(json.dumps(whole | {"card": whole["card"] | {"parent": "0" * 64}}))
    assert cases.lacks(plan, source.path, TARGETS, "fp32") == ("lineage",)
    for name in ("flags", "layers"):
        manifest.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        assert cases.lacks(plan, source.path, TARGETS, "fp32") == (name,)


def build_of(cases, target: str, **values: object):
    known = {
        "model": "net",
        "precision": "int8+fp16",
        "batch": "1",
        "targets": (target,),
        "command": f"edgeres compile net/int8.onnx --targets {target} -o x.plan",
        "exit_code": 0,
        "wall_s": 2.0,
    }
    return cases.Build(**known | values)


def test_the_table_counts_what_was_built_and_quotes_each_refusal_once(cases):
    builds = [
        build_of(cases, "sm80", size_bytes=2_000_000, build_s=1.0, layers="needs a GPU", warnings=("odd. (2 times)",)),
        build_of(
            cases,
            "sm86",
            size_bytes=4_000_000,
            build_s=3.0,
            layers="needs a GPU",
            lacks=("CUDA",),
            warnings=("odd. (3 times)",),
        ),
        build_of(cases, "sm75", exit_code=1, sentence="cannot build net/int8.onnx: no; do this"),
        build_of(cases, "sm75", precision="int8", exit_code=1, sentence="cannot build net/int8.onnx: no; do that"),
    ]
    text = cases.render(cases.Results(machine="PC", builder="RTX", edgeres="0", builds=tuple(builds)))
    row = next(line for line in text.splitlines() if line.startswith("| net | INT8 + FP16, 1 |"))
    assert [cell.strip() for cell in row.split("|")[3:8]] == [
        "refused",
        "ok",
        "ok, manifest lacks CUDA",
        "not built",
        "not built",
    ]
    assert "2.00 MB to 4.00 MB" in row
    assert "2.00 (1.00 to 3.00), n = 2" in row
    assert "2 built, 1 of them with a complete manifest, 2 refused" in text
    assert 'Warnings: "odd" of 2 plans.' in text
    assert text.count("cannot build FILE: no") == 1
    assert 'Refused, 2 builds: "cannot build FILE: no"; it ends with "do this" (1), "do that" (1).' in text
