"""The builder against bindings that have exactly the names of a real release, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.compile.builder import BuildError, BuildJob, build

DATA = Path(__file__).parent / "data" / "api_names.txt"
ENUMS = (
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "MemoryPoolType",
    "ProfilingVerbosity",
    "ComputeCapability",
)


def read_names() -> dict[str, dict[str, set[str]]]:
    """Version -> class -> names."""
    names: dict[str, dict[str, set[str]]] = {}
    section, versions = "", []
    for line in DATA.read_text().splitlines():
        if line.startswith("columns"):
            versions = line.split()[1:]
        elif line.startswith("## "):
            section = line.removeprefix("## ")
        elif not line.startswith("#"):
            name, marks = line.split()
            for version, mark in zip(versions, marks, strict=True):
                if mark == "Y":
                    names.setdefault(version, {}).setdefault(section, set()).add(name)
    return names


NAMES = read_names()


class Strict:
    """An object with the given names only; `calls` keeps (name, arguments) of everything called or set."""

    def __init__(self, names: set[str], values: dict[str, object] | None = None) -> None:
        self.__dict__.update(_names=names, _values=values or {}, calls=[])

    def __getattr__(self, name: str) -> object:
        if name not in self._names:
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        return lambda *arguments: self.calls.append((name, arguments)) or True

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._names:
            raise AttributeError(name)
        self.calls.append((name, value))


class Binding:
    """A fake `tensorrt` of one version that builds the plan b"plan"."""

    def __init__(self, version: str, *, shape: tuple[int, ...] = (1, 3, 8, 8)) -> None:
        names = NAMES[version]
        self.__name__, self.__version__ = "tensorrt_rtx" if "rtx" in version else "tensorrt", version
        self.config = Strict(names["IBuilderConfig"])
        self.profile = Strict(names["IOptimizationProfile"])
        tensors = {
            name: Strict(names["ITensor"], {"name": name, "shape": dims})
            for name, dims in (("images", shape), ("logits", (shape[0], 10)))
        }
        network = {
            "num_inputs": 1,
            "num_outputs": 1,
            "get_input": lambda _: tensors["images"],
            "get_output": lambda _: tensors["logits"],
        }
        self.network = Strict(names["INetworkDefinition"], network)
        makers: dict[str, Callable[..., object]] = {
            "create_network": self._create_network,
            "create_builder_config": lambda: self.config,
            "create_optimization_profile": lambda: self.profile,
            "build_serialized_network": lambda network, config: b"plan",
        }
        self.builder = Strict(names["Builder"], makers)
        self.Builder = lambda logger: self.builder
        self.OnnxParser = lambda network, logger: Strict(names["OnnxParser"])
        for enum in ENUMS:
            if enum in names:
                members = {name: index for index, name in enumerate(sorted(names[enum]))}
                setattr(self, enum, SimpleNamespace(**members))
        if "IProgressMonitor" in names:
            self.IProgressMonitor = type("IProgressMonitor", (), {})

    def _create_network(self, flags: int) -> Strict:
        self.network_flags = flags
        return self.network


def job(**values: object) -> BuildJob:
    defaults = {
        "module": "tensorrt",
        "onnx_path": "model.onnx",
        "plan_path": "model.plan",
        "quantized": True,
        "batch": (1, 8, 32),
        "optimization_level": 5,
        "workspace_mib": 64,
    }
    return BuildJob(**defaults | values)


def targets_for(version: str) -> tuple[str, ...]:
    return ("sm86", "sm89") if "rtx" in version else ()


@pytest.mark.parametrize("version", NAMES)
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (-1, 3, 8, 8)])
def test_the_builder_touches_only_names_that_the_version_has(version, shape):
    trt = Binding(version, shape=shape)
    plan, built = build(trt, job(targets=targets_for(version)), object(), print)
    assert plan == b"plan"
    assert built.inputs == {"images": shape}
    assert ("clear_flag", (trt.BuilderFlag.TF32,)) in trt.config.calls


@pytest.mark.parametrize("version", NAMES)
def test_networks_are_strongly_typed_wherever_that_exists(version):
    trt = Binding(version)
    build(trt, job(targets=targets_for(version)), object(), print)
    flags = trt.NetworkDefinitionCreationFlag
    wanted = getattr(flags, "STRONGLY_TYPED", None)
    assert trt.network_flags == 1 << (flags.EXPLICIT_BATCH if wanted is None else wanted)


@pytest.mark.parametrize(
    ("version", "quantized", "expected"),
    [("8.6.1", True, True), ("8.6.1", False, False), ("10.3.0", True, False), ("11.4.0.106", True, False)],
)
def test_int8_is_enabled_by_flag_only_where_networks_are_weakly_typed(version, quantized, expected):
    trt = Binding(version)
    build(trt, job(quantized=quantized), object(), print)
    assert any(name == "set_flag" for name, _ in trt.config.calls) == expected


@pytest.mark.parametrize(("shape", "profiles"), [((1, 3, 8, 8), 0), ((-1, 3, 8, 8), 1)])
def test_only_a_dynamic_graph_gets_a_profile(shape, profiles):
    trt = Binding("10.3.0", shape=shape)
    build(trt, job(), object(), print)
    ranges = [("set_shape", ("images", (1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8)))]
    assert trt.profile.calls == ranges * profiles


def test_workspace_is_given_in_bytes():
    trt = Binding("10.3.0")
    build(trt, job(workspace_mib=3), object(), print)
    assert ("set_memory_pool_limit", (trt.MemoryPoolType.WORKSPACE, 3 * 2**20)) in trt.config.calls


@pytest.mark.parametrize(
    ("version", "target", "message"),
    [("rtx-1.7.1", "sm90", "does not build for sm90"), ("10.3.0", "sm86", "cannot build for sm86")],
)
def test_a_target_the_binding_lacks_is_refused(version, target, message):
    with pytest.raises(BuildError, match=message):
        build(Binding(version), job(targets=(target,)), object(), print)


def test_the_first_parser_error_is_reported_with_its_node():
    def refused(name: str, operator: str, text: str) -> SimpleNamespace:
        return SimpleNamespace(node_name=lambda: name, node_operator=lambda: operator, desc=lambda: text)

    errors = [refused("conv1", "QLinearConv", "no importer\nregistered"), refused("x", "y", "z")]
    trt = Binding("11.4.0.106")
    trt.OnnxParser = lambda network, logger: SimpleNamespace(
        parse_from_file=lambda path: False, num_errors=2, get_error=errors.__getitem__
    )
    message = r"^node conv1 QLinearConv: no importer registered \(and 1 more\)$"
    with pytest.raises(BuildError, match=message):
        build(trt, job(), object(), print)


def test_a_build_that_returns_nothing_is_an_error():
    trt = Binding("10.3.0")
    trt.builder._values["build_serialized_network"] = lambda network, config: None
    with pytest.raises(BuildError, match="returned nothing"):
        build(trt, job(), object(), print)
