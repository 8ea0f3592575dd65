"""The builder against bindings that have exactly the names of a real release, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.compile.builder import build
from edgeres.compile.config import BuildError, BuildJob, Tensor
from edgeres.compile.worker import layer_information

DATA = Path(__file__).parent / "data" / "api_names.txt"
ENUMS = (
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "MemoryPoolType",
    "ProfilingVerbosity",
    "ComputeCapability",
    "DeviceType",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
    "DataType",
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

    def __init__(
        self,
        version: str,
        *,
        shape: tuple[int, ...] = (1, 3, 8, 8),
        dla_cores: int = 0,
        lacking: frozenset[str] = frozenset(),
    ) -> None:
        names = {section: known - lacking for section, known in NAMES[version].items()}
        self.__name__, self.__version__ = "tensorrt_rtx" if "rtx" in version else "tensorrt", version
        self.cache = Strict(names["ITimingCache"], {"serialize": lambda: b"measured"})
        timing = {"create_timing_cache": self._create_timing_cache, "get_timing_cache": lambda: self.cache}
        self.config = Strict(names["IBuilderConfig"], timing)
        self.profile = Strict(names["IOptimizationProfile"])
        tensors = {
            name: Strict(names["ITensor"], {"name": name, "shape": dims, "dtype": SimpleNamespace(name="FLOAT")})
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
        self.builder = Strict(names["Builder"], makers | {"num_DLA_cores": dla_cores})
        self.Builder = lambda logger: self.builder
        self.OnnxParser = lambda network, logger: Strict(names["OnnxParser"])
        for enum in ENUMS:
            if enum in names:
                members = {name: index for index, name in enumerate(sorted(names[enum]))}
                setattr(self, enum, SimpleNamespace(**members))
        if "IProgressMonitor" in names["top-level"]:
            self.IProgressMonitor = type("IProgressMonitor", (), {})

    def _create_timing_cache(self, stored: bytes) -> Strict:
        self.config.calls.append(("create_timing_cache", (stored,)))
        return self.cache

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
    assert built.inputs == {"images": Tensor(shape=shape, dtype="FLOAT")}
    assert ("clear_flag", (trt.BuilderFlag.TF32,)) in trt.config.calls


@pytest.mark.parametrize("version", NAMES)
def test_networks_are_strongly_typed_wherever_that_exists(version):
    trt = Binding(version)
    build(trt, job(targets=targets_for(version)), object(), print)
    flags = trt.NetworkDefinitionCreationFlag
    wanted = getattr(flags, "STRONGLY_TYPED", None)
    assert trt.network_flags == 1 << (flags.EXPLICIT_BATCH if wanted is None else wanted)


@pytest.mark.parametrize(
    ("version", "quantized", "half", "expected"),
    [
        ("8.6.1", True, False, ["INT8"]),
        ("8.6.1", True, True, ["INT8", "FP16"]),
        ("8.6.1", False, True, ["FP16"]),
        ("8.6.1", False, False, []),
        ("10.3.0", True, True, []),
        ("11.4.0.106", True, True, []),
    ],
)
def test_precision_is_enabled_by_flag_only_where_networks_are_weakly_typed(version, quantized, half, expected):
    trt = Binding(version)
    _, built = build(trt, job(quantized=quantized, half=half), object(), print)
    assert flags_set(trt) == list(built.flags) == expected


def flags_set(trt: Binding) -> list[str]:
    names = {number: name for name, number in vars(trt.BuilderFlag).items()}
    return [names[arguments[0]] for name, arguments in trt.config.calls if name == "set_flag"]


def test_before_8_6_there_are_no_levels_and_the_build_does_without():
    lacking = frozenset({"builder_optimization_level", "hardware_compatibility_level", "VERSION_COMPATIBLE"})
    trt = Binding("8.6.1", lacking=lacking)
    plan, _ = build(trt, job(optimization_level=None), object(), print)
    assert plan == b"plan"
    for values, message in (
        ({}, "has no builder_optimization_level"),
        ({"optimization_level": None, "version_compatible": True}, "has no builder flag VERSION_COMPATIBLE"),
        ({"optimization_level": None, "hardware_compatible": "AMPERE_PLUS"}, "has no hardware_compatibility_level"),
    ):
        with pytest.raises(BuildError, match=message):
            build(Binding("8.6.1", lacking=lacking), job(**values), object(), print)


@pytest.mark.parametrize("version", [version for version in NAMES if "rtx" not in version])
def test_compatible_engines_are_asked_for_by_name(version):
    trt = Binding(version)
    _, built = build(trt, job(version_compatible=True, hardware_compatible="AMPERE_PLUS"), object(), print)
    assert "VERSION_COMPATIBLE" in built.flags
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert ("hardware_compatibility_level", level) in trt.config.calls


def test_a_hardware_level_the_version_lacks_is_refused():
    with pytest.raises(BuildError, match=r"tensorrt 10\.3\.0 has no hardware compatibility SAME_COMPUTE_CAPABILITY"):
        build(Binding("10.3.0"), job(hardware_compatible="SAME_COMPUTE_CAPABILITY"), object(), print)


@pytest.mark.parametrize("version", NAMES)
def test_kernel_times_are_kept_by_version_and_gpu(version, tmp_path):
    timing = {"timing_folder": str(tmp_path), "gpu": "NVIDIA Orin (nvgpu)"}
    for stored in (b"", b"measured"):
        trt = Binding(version)
        _, built = build(trt, job(targets=targets_for(version), **timing), object(), print)
        assert ("create_timing_cache", (stored,)) in trt.config.calls
    assert [path.name for path in tmp_path.iterdir()] == [built.timing_cache]
    assert built.timing_cache == f"tensorrt-{version}-NVIDIA-Orin-nvgpu.timing"


def test_kernel_times_of_another_version_are_begun_anew(tmp_path):
    trt = Binding("10.3.0")
    answers = iter([False, True])
    trt.config._values["set_timing_cache"] = lambda cache, ignore: next(answers)
    _, built = build(trt, job(timing_folder=str(tmp_path), gpu="Orin"), object(), print)
    assert "does not fit this TensorRT and GPU" in built.notes[0]


def test_kernel_times_that_cannot_be_written_fail_no_build(tmp_path):
    tmp_path.joinpath("file").write_bytes(b"")
    _, built = build(
        Binding("10.3.0"), job(timing_folder=str(tmp_path / "file" / "under"), gpu="Orin"), object(), print
    )
    assert "kernel times are not kept" in built.notes[0]


WEAK_DLA = ("8.6.1", "10.3.0", "10.7.0")


@pytest.mark.parametrize("version", [*WEAK_DLA, "11.4.0.106"])
def test_a_dla_core_gets_fp16_and_the_gpu_for_the_rest(version):
    trt = Binding(version, dla_cores=2)
    _, built = build(trt, job(quantized=False, half=True, dla_core=1), object(), print)
    assert ("DLA_core", 1) in trt.config.calls
    assert ("default_device_type", trt.DeviceType.DLA) in trt.config.calls
    assert flags_set(trt) == ["FP16", "GPU_FALLBACK"] if version in WEAK_DLA else ["GPU_FALLBACK"]
    assert built.strongly_typed == (version not in WEAK_DLA)


@pytest.mark.parametrize(
    ("version", "values", "message"),
    [
        ("10.3.0", {"dla_core": 2}, r"sees 2 DLA cores here, core 2 was asked for"),
        ("11.4.0.106", {"dla_core": 0}, "give it a graph in FP16"),
    ],
)
def test_a_dla_that_cannot_be_had_is_refused(version, values, message):
    with pytest.raises(BuildError, match=message):
        build(Binding(version, dla_cores=2), job(quantized=False, **values), object(), print)


@pytest.mark.parametrize("version", NAMES)
def test_the_inspector_touches_only_names_that_the_version_has(version):
    names, trt = NAMES[version], Binding(version)
    inspector = Strict(names["EngineInspector"], {"get_engine_information": lambda kind: f"layers {kind}"})
    engine = Strict(names["ICudaEngine"], {"create_engine_inspector": lambda: inspector})
    loaded = {b"plan": engine, b"other": None}
    trt.Runtime = lambda logger: Strict(names["Runtime"], {"deserialize_cuda_engine": loaded.__getitem__})
    assert layer_information(trt, b"plan", object()) == f"layers {trt.LayerInformationFormat.JSON}"
    assert layer_information(trt, b"other", object()) is None


def test_an_image_size_that_varies_is_refused():
    with pytest.raises(BuildError, match="varies in more than its first dimension"):
        build(Binding("10.3.0", shape=(-1, 3, -1, -1)), job(), object(), print)


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
