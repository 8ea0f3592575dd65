"""Fixtures several packages need: small specs, a checkpoint on disk, a runs folder of the test's own."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import itertools
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.models import spec_from_arch

_SLOW_S = 5.0
GREY = Preprocess(mean=(0.3,), std=(0.4,))
SpecMaker = Callable[..., ModelSpec]
CheckpointMaker = Callable[..., Checkpoint]
OnnxMaker = Callable[..., OnnxModel]
FileKeeper = Callable[[str, Callable[[Path], object]], Path]

gc.disable()  # until all tests are collected

# `make test` draws the same examples everywhere: a commit is judged by what it changes. `make exhaustive` searches.
settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=30)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("EDGERES_EXAMPLES", "same"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What .ci/run asks for."""
    parser.addoption("--tenth", type=int, metavar="K", help="only every tenth test, the K-th of 0 to 9, by its name")
    parser.addoption(
        "--only-gpu-skips",
        action="store_true",
        help="a test skipped for want of anything else the machine could have fails",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what a covering set leaves out; the README's commands go first, as they take longest."""
    for cases in _by_function(items, "covering").values():
        for item in _left_out(cases):
            item.add_marker(pytest.mark.exhaustive)
    tenth = config.getoption("tenth")
    if tenth is not None:
        others = {item for item in items if zlib.crc32(item.nodeid.encode()) % 10 != tenth}
        config.hook.pytest_deselected(items=list(others))
        items[:] = [item for item in items if item not in others]
    items.sort(key=lambda item: "test_readme" not in item.nodeid)


def pytest_collection_finish() -> None:
    """Garbage is looked for among what tests make, not in torch and five thousand tests again and again, and rarely."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With --only-gpu-skips a test fails that is skipped for want of more than a GPU or data never kept here."""
    report, allowed = (yield), ("GPU", "not beside the project")
    if (
        report.skipped
        and item.config.getoption("only_gpu_skips")
        and not any(why in str(report.longrepr) for why in allowed)
    ):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names what takes long and does not say so."""
    for report in terminalreporter.stats.get("passed", []):
        if report.duration > _SLOW_S and "slow" not in report.keywords:
            terminalreporter.write_line(f"{report.duration:.0f} s without the mark slow: {report.nodeid}")


def _by_function(items: list[pytest.Item], mark: str) -> dict[str, list[pytest.Item]]:
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker(mark):
            found.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return found


def _left_out(cases: list[pytest.Item]) -> list[pytest.Item]:
    """What remains after taking, again and again, the case that shows most combinations not yet shown."""
    left = {case: _combinations(case) for case in cases}
    while any(left.values()):
        shown = left.pop(max(left, key=lambda case: len(left[case])))
        left = {case: some - shown for case, some in left.items()}
    return list(left)


def _combinations(case: Any) -> set[tuple[tuple[str, str], ...]]:
    """Of up to n values of its parameters; those in a dict are values of their own."""
    values: list[tuple[str, str]] = []
    for name, value in case.callspec.params.items():
        pairs = value.items() if isinstance(value, dict) else ((name, value),)
        values += [(str(key), repr(one)) for key, one in pairs]
    most = case.get_closest_marker("covering").args[0]
    return {some for n in range(1, most + 1) for some in itertools.combinations(sorted(values), n)}


@pytest.fixture(autouse=True)
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder with runs of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGERES_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("EDGERES_RUN", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def spec_of(monkeypatch: pytest.MonkeyPatch) -> SpecMaker:
    """`spec_of("resnet8", ordering="full-preact")`: 8x8 grey images, ten classes; VGG in an eighth of the width."""
    monkeypatch.setattr("edgeres.models.vgg_family._WIDTHS", (8, 16, 32, 64, 64))

    def make(arch: str = "resnet8", *, channels: int = 1, **options: str | int | float) -> ModelSpec:
        preprocess = GREY if channels == 1 else None
        return spec_from_arch(
            arch, num_classes=10, input_shape=(channels, 8, 8), preprocess=preprocess, options=options
        )

    return make


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> FileKeeper:
    """`kept(key, make)`: the file or folder that `make(path)` writes, made once for all tests and workers of a run.

    Who makes it at the same time makes the same. It is to be copied, not changed.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kept"
    folder.mkdir(exist_ok=True)

    def find(key: str, make: Callable[[Path], object]) -> Path:
        path = folder / hashlib.sha256(key.encode()).hexdigest()
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as own:
                make(Path(own) / "made")
                with contextlib.suppress(OSError):  # another process has made the folder
                    (Path(own) / "made").replace(path)
        return path

    return find


@pytest.fixture
def checkpoint_of(kept: FileKeeper, tmp_path: Path) -> CheckpointMaker:
    """A checkpoint with random weights and batch-norm statistics that are not the initial ones."""

    def make(spec: ModelSpec, name: str = "model.safetensors", seed: int = 0) -> Checkpoint:
        source = kept(f"{spec.model_dump_json()} {seed}", lambda path: _save_random(spec, seed, path))
        return Checkpoint(Path(shutil.copyfile(source, tmp_path / name)))

    return make


def _save_random(spec: ModelSpec, seed: int, path: Path) -> None:
    import torch

    from edgeres.models import network_from
    from edgeres.models.weights import save_checkpoint

    torch.manual_seed(seed)
    network = network_from(spec)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.2)
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    save_checkpoint(network.state_dict(), spec, path, stage="test")


@pytest.fixture
def gated(kept: FileKeeper) -> Checkpoint:
    """A traced network with squeeze-and-excitation and SiLU; its modules: backbone.s1.0, s1.1, s2.0 and s2.1."""
    import torch
    from torch import nn

    from edgeres import api

    class Gated(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.conv1, self.norm = nn.Conv2d(before, after, 3, after // before, 1), nn.BatchNorm2d(after)
            self.conv2, self.squeeze = nn.Conv2d(after, after, 3, 1, 1), nn.Conv2d(after, 4, 1)
            self.excite, self.act = nn.Conv2d(4, after, 1), nn.SiLU()
            self.short = nn.Identity() if before == after else nn.Conv2d(before, after, 1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv2(self.act(self.norm(self.conv1(x))))
            gate = self.excite(self.act(self.squeeze(y.mean((2, 3), keepdim=True))))
            return self.act(self.short(x) + y * torch.sigmoid(gate))  # type: ignore[no-any-return]

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s1 = nn.Sequential(Gated(8, 8), Gated(8, 8))
            self.s2 = nn.Sequential(Gated(8, 16), Gated(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.s2(self.s1(x))  # type: ignore[no-any-return]

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.backbone, self.head = nn.Conv2d(3, 8, 3, 1, 1), Stages(), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]

    def write(path: Path) -> None:
        torch.manual_seed(0)
        preprocess = api.Preprocess(mean=(0.5,), std=(0.25,))
        api.trace(Mine().eval(), torch.zeros(1, 3, 16, 16), path, preprocess=preprocess, classes=list("abcdefghij"))

    return Checkpoint(kept("gated", write))


@pytest.fixture
def exported(kept: FileKeeper, tmp_path: Path) -> Callable[..., OnnxModel]:
    """`exported(checkpoint, dynamic=True, opset=13)`: what export writes of it, in a folder `float` of the test."""

    def make(checkpoint: Checkpoint, folder: str = "float", **options: int) -> OnnxModel:
        from edgeres.export.stage import ExportConfig, export

        def write(path: Path) -> None:
            export(checkpoint, config, path.parent / "folder").output.path.replace(path)

        config = ExportConfig(**options)
        source = kept(f"{checkpoint.sha256} {config.model_dump_json()}", write)
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        return OnnxModel(Path(shutil.copyfile(source, tmp_path / folder / "model.onnx")))

    return make


@pytest.fixture
def exported_once(kept: FileKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose times are made up are exported once for all tests: it takes longest, and they test the rest."""
    from edgeres.costs import networks

    real = networks._exported

    def once(checkpoint: Checkpoint, folder: Path, how: Any, newest: int | None) -> OnnxModel:
        def write(path: Path) -> None:
            real(checkpoint, path.parent / "folder", how, newest).path.replace(path)

        source = kept(f"{checkpoint.sha256} {how.batch} {how.precision} {how.runtime} {newest}", write)
        folder.mkdir(parents=True)
        return OnnxModel(Path(shutil.copyfile(source, folder / "model.onnx")))

    monkeypatch.setattr(networks, "_exported", once)


@pytest.fixture(scope="session")
def forking() -> str:
    """The beginning of a script whose `ended(count, run, *job)` gives the exit codes of processes that `run(*job)`.

    They are as torchrun would start them, but of one process that has imported what they need.
    """
    return """
import accelerate, os, sklearn.datasets, socket, sys, torch._dynamo, torchvision, traceback

def start(rank, count, port, run, *job):
    if pid := os.fork():
        return pid
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_PORT=str(port))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        run(*job)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

def ended(count, run, *job):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(rank, count, port, run, *job) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
"""


@pytest.fixture
def timed_within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are timed in this process, as soon as they are loaded: for tests of what becomes of the figures."""
    from edgeres.bench import session, stage
    from edgeres.bench.measure import Turn, take_turn
    from edgeres.bench.worker import Job, Ready, Samples, images_for
    from edgeres.core.artifacts import model_from
    from edgeres.runtime import runner_for
    from edgeres.runtime.runner import RunnerOptions

    class Within(contextlib.ExitStack):
        pid = os.getpid()

        def __init__(self, job: Job) -> None:
            super().__init__()
            assert not job.files
            model = model_from(job.path)
            self.runner = self.enter_context(runner_for(model, RunnerOptions(threads=job.threads, literal_qdq=False)))
            self.runner.load(images_for(model, job.batch, job.seed))
            self.job, self.ready = job, Ready(runtime=self.runner.name, warmup=1, stable=True)

        def measure(self, turn: Turn) -> Samples:
            return Samples(samples_ms=take_turn(self.runner, turn, time.perf_counter))

    monkeypatch.setattr(session, "Worker", Within)
    monkeypatch.setattr(stage, "busy_cores", lambda: 0.0)


@pytest.fixture
def onnx_of(spec_of: SpecMaker, checkpoint_of: CheckpointMaker, exported: Callable[..., OnnxModel]) -> OnnxMaker:
    """`onnx_of("resnet8", shortcut="B")`, a float ONNX file; `dropped`, `seed` and `dynamic` are keywords too."""

    def make(
        arch: str = "resnet8",
        *,
        dropped: tuple[str, ...] = (),
        seed: int = 0,
        dynamic: bool = False,
        **options: str | int,
    ) -> OnnxModel:
        checkpoint = checkpoint_of(spec_of(arch, **options).without(dropped), seed=seed)
        return exported(checkpoint, f"float-{seed}-{dynamic}", dynamic=dynamic)

    return make


@pytest.fixture(scope="session")
def run_of(kept: FileKeeper) -> Callable[..., Path]:
    """`run_of(folder, {"use": "eval"})`: a run from import to INT8, then the stages named; its folder."""

    def start(folder: Path) -> None:
        import torch

        from edgeres.models import network_from
        from edgeres.models.weights import save_checkpoint

        torch.manual_seed(0)
        spec = spec_from_arch("resnet8", num_classes=10, input_shape=(1, 8, 8), preprocess=GREY)
        folder.mkdir()
        save_checkpoint(network_from(spec).state_dict(), spec, folder / "random.safetensors", stage="test")

    def run(folder: Path, *more: dict[str, Any]) -> None:
        from edgeres.pipeline.chain import Chain, run_of_recipe
        from edgeres.pipeline.recipe import Recipe, planned

        stages = (
            {"use": "import", "file": str(kept("start of a run", start) / "random.safetensors")},
            {"use": "lesion", "images": 40, "draws": 0},
            {"use": "prune", "drop": 1, "images": 50},
            {"use": "export"},
            {"use": "calibrate", "images": 32, "methods": ["minmax", "mse"]},
            {"use": "quantize", "effort": "quick"},
            *more,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGERES_RUNS", str(folder.parent))
            recipe = Recipe(name=folder.name, data="digits", stage=stages)
            list(Chain(run_of_recipe(recipe, None), planned(recipe, "test")).execute())

    def make(folder: Path, *more: dict[str, Any]) -> Path:
        source = kept(f"run {more}", lambda path: run(path, *more))
        return Path(shutil.copytree(source, folder / "runs" / "made", symlinks=True))

    return make


@pytest.fixture(scope="session")
def found_of() -> Callable[..., Any]:
    """`found_of(model="NVIDIA Jetson Orin NX 16GB")`: what an agent finds on a board that says nothing else."""
    from edgeres.bench.board_answers import BoardFound

    silent = dict.fromkeys(
        ("model", "l4t", "jetpack", "cuda", "capability", "power_mode", "gpu_clock", "trtexec", "tegrastats")
    )
    empty: dict[str, Any] = {"compatible": (), "packages": {}, "power_modes": {}, "fan": {}, "python": "3.10.12"}
    return lambda **said: BoardFound.model_validate({**silent, **empty, **said})


@pytest.fixture(scope="session")
def hosts() -> ModuleType:
    """tests/bench/hosts.py: an ssh server with a pretend Jetson behind it."""
    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).parent / "bench" / "hosts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ssh_server(hosts: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all tests; it starts with the first board that does."""
    server = hosts.Server(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


@pytest.fixture
def host(hosts: Any, ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The board `desk`, reached over real ssh once it is started."""
    with hosts.serving(ssh_server, tmp_path, monkeypatch) as one:
        yield one
