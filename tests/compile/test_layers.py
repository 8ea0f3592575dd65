"""Layer descriptions in both dialects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.compile.layers import UNKNOWN, layers_from, layers_in, precision_in
from edgeres.core.errors import InputError

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("dialect", ["10", "11"])
def test_both_dialects_say_the_same(dialect):
    layers = layers_from(DATA / f"trtexec_layers_{dialect}.json")
    assert [layer.is_reformat for layer in layers] == [True, False, False]
    assert [layer.precision for layer in layers] == ["FP32", "INT8", "INT8"]
    assert [port.precision for port in layers[0].outputs] == ["INT8"]
    assert [port.name for port in layers[2].inputs] == ["x1", "x0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Row major linear FP16 format", "FP16"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Row major linear FP32", "FP32"),
        ("Row major linear BFloat16", "BF16"),
        ("Half", "FP16"),
        ("Float", "FP32"),
        ("kINT8", "INT8"),
        ("kHALF", "FP16"),
        ("FP8", "FP8"),
        ("N/A due to dynamic shapes", UNKNOWN),
        ("", UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_types_are_read_out_of_descriptions(text, expected):
    assert precision_in(text) == expected


def test_a_kernel_computes_in_the_type_of_its_weights_whatever_it_reads():
    read = [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}]
    fields = {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": read, "Outputs": []}
    with_weights, without = layers_in({"Layers": [fields | {"Weights": {"Type": "Int8"}}, fields]}, "FILE")
    assert (with_weights.precision, without.precision) == ("INT8", UNKNOWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no layers"),
        ({"Bindings": []}, "holds no layers"),
        ({"Layers": []}, "holds no layers"),
        ({"Layers": ["conv1 + relu1"]}, "--profilingVerbosity=detailed"),
        ({"Layers": [{"LayerType": "Reformat"}]}, "no object with a Name"),
    ],
)
def test_what_describes_no_layers_is_refused(content, message, tmp_path):
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        layers_from(path)


def test_a_damaged_or_absent_file_is_refused(tmp_path):
    path = tmp_path / "layers.json"
    with pytest.raises(InputError, match="cannot read"):
        layers_from(path)
    path.write_text('{"Layers": [')
    with pytest.raises(InputError, match="not readable JSON"):
        layers_from(path)


def test_of_a_plan_the_report_beside_it_is_read(tmp_path):
    plan = tmp_path / "x.plan"
    for magic, command in ((b"ftrt", r"trtexec --loadEngine=x\.plan"), (b"vtrt", r"edgeres compile MODEL\.onnx")):
        plan.write_bytes(magic + bytes(60))
        with pytest.raises(
            InputError, match=rf"x\.plan has no layer report beside it .*on its own GPU; there: {command}"
        ):
            layers_from(plan)
    (tmp_path / "x.plan.layers.json").write_text((DATA / "trtexec_layers_10.json").read_text())
    assert len(layers_from(plan)) == 3


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "DataType", "Weights", "Type", "Metadata"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(ANYTHING)
def test_garbled_descriptions_are_read_or_refused(layers):
    try:
        found = layers_in({"Layers": layers}, "FILE")
    except InputError:
        return
    assert len(found) == len(layers)
    assert all(port.precision for layer in found for port in layer.inputs)
