import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from edgeres.core.environment import Environment
from edgeres.core.metrics import Accuracy, Energy, Latency, paired_difference
from edgeres.core.records.latency import LatencyTable
from edgeres.core.spec import Card, Cost, ModelSpec, Preprocess
from edgeres.core.stage import FileRef, StageReport, write_report
from edgeres.costs.table import summary_of
from edgeres.models import modules_of
from edgeres.report.rows import rows_from

N = 5000
CLASSES = 10
DROPPED = ("layer1.3", "layer2.5", "layer3.4", "layer3.7")
PARAMS, MACS = 855_770, 125_485_706
ENVIRONMENT = Environment(
    machine="Fake CPU @ 2.00GHz, 2 cores",
    cpu="Fake CPU @ 2.00GHz",
    cores=2,
    memory_gib=8,
    gpus=(),
    system="Linux-6.1-x86_64",
    python="3.11.7",
    edgeres="0.1.0",
    packages={"torch": "2.6.0", "onnxruntime": "1.20.0"},
)


BOARD = {
    "name": "orin",
    "model": "Jetson Orin Nano",
    "jetpack": "6.2",
    "l4t": "36.4.3",
    "tensorrt": "10.3.0",
    "cuda": "12.6",
    "power_mode": {"name": "MAXN_SUPER", "id": 2},
    "gpu": "Orin",
    "clocks_locked": True,
}
BOARD_FIGURES = {
    "p50_ms": 1.5,
    "p99_ms": 1.6,
    "images_per_s": 650.0,
    "heat": {"before_c": 41.0, "highest_c": 55.5, "gpu_mhz": {"lowest": 1020, "median": 1020, "highest": 1020}},
    "is_valid": True,
    "problems": [],
    "layers": "23/23 residual adds fused in INT8",
    "agreement": {"top1": 0.9988, "sqnr_db": 41.5},
    "engine_bytes": 1_500_000,
    "build_s": 93.4,
    "command": "edgeres bench model.onnx --on orin",
}


def interval(value, half):
    return {"value": value, "low": value - half, "high": value + half}


class FakeRun:
    """A run folder true to the schema, its measurements made up; stages are added in order."""

    def __init__(self, path):
        self.path, self.count = path, 0
        self.generator = np.random.default_rng(0)
        self.labels = self.generator.integers(0, CLASSES, N)
        self.spec = ModelSpec(
            family="resnet",
            variant="resnet56",
            num_classes=CLASSES,
            input_shape=(3, 32, 32),
            preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, resize=None),
        )

    def stage(self, stage, *, source=None, config=None, **fields):
        """Adds NN-stage with a report; returns its folder."""
        folder = self.path / f"{self.count:02d}-{stage}"
        self.count += 1
        report = StageReport(
            stage=stage,
            config=config or {},
            source=source,
            environment=ENVIRONMENT,
            created="2025-01-31T12:00:00+00:00",
            duration_s=12.3,
            **fields,
        )
        write_report(report, folder / "report.json")
        return folder

    def model(self, stage, name, size_bytes, *, source=None, dropped=(), precision="fp32", parent=None, **fields):
        """Adds a stage that made the file `name`; returns (folder, reference)."""
        folder = self.path / f"{self.count:02d}-{stage}"
        folder.mkdir(parents=True)
        cost = Cost(params=PARAMS - 30_000 * len(dropped), macs=MACS - 4_000_000 * len(dropped))
        (folder / name).write_bytes(self._content(cost, dropped, stage, size_bytes, parent))
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        output = FileRef(path=f"/elsewhere/{folder.name}/{name}", sha256=digest, size_bytes=size_bytes)
        self.stage(stage, source=source, output=output, cost=cost, precision=precision, dropped=dropped, **fields)
        return folder, output

    def evaluated(self, folder, output, top1, runtime="torch 2.6.0 cpu", *, predictions=True):
        """Adds eval.json and eval.npy to the stage folder."""
        table = self._guesses(top1)
        if predictions:
            np.save(folder / "eval.npy", table)
        accuracy = Accuracy(
            correct_top1=round(top1 * N),
            correct_top5=round((top1 + 1) / 2 * N),
            n=N,
            dataset="cifar10",
            split="val",
            runtime=runtime,
            artifact=output.sha256,
            predictions="eval.npy" if predictions else None,
        )
        report = StageReport(
            stage="eval",
            config={"data": "cifar10"},
            source=output,
            accuracy=(accuracy,),
            environment=ENVIRONMENT,
            created="2025-01-31T12:00:00+00:00",
            duration_s=3.0,
        )
        write_report(report, folder / "eval.json")
        return accuracy

    def _guesses(self, top1):
        wrong = self.generator.permutation(N)[: N - round(top1 * N)]
        guesses = self.labels.copy()
        guesses[wrong] = (guesses[wrong] + 1) % CLASSES
        return np.stack([guesses, self.labels], axis=1).astype(np.uint16)

    def latency(self, output, median_ms, runtime="torch 2.6.0 cpu", session="fake"):
        """Twenty rounds of nineteen calls around the median; a round's disturbance is shared by all models."""
        rounds = np.random.default_rng(7).uniform(0.95, 1.05, size=(20, 1))
        samples = median_ms * rounds * (1 + 0.02 * self.generator.standard_normal((20, 19)))
        return Latency(
            samples_ms=tuple(float(sample) for sample in samples.ravel()),
            batch=1,
            runtime=runtime,
            threads=2,
            session=session,
            artifact=output.sha256,
            warmup=50,
            machine=ENVIRONMENT.machine,
            rounds=(19,) * 20,
        )

    def lesion(self, source):
        """Adds a lesion table over all modules."""
        whole = self._lesion("", "whole", 0.0)
        table = [
            self._lesion(info.name, info.kind, -45.0 if info.kind == "projection" else -0.4 * (index % 9) - 0.2)
            for index, info in enumerate(modules_of(self.spec))
        ]
        return self.stage("lesion", source=source, results={"table": table, "whole": whole})

    def sweep(self, source, rows=((0, 0.92, 10.0), (1, 0.93, 9.0), (2, 0.91, 9.5), (3, 0.90, 7.0))):
        """Adds a sweep; rows: (modules dropped, top-1, median in ms)."""
        content = {
            "kind": "sweep",
            "model_sha256": source.sha256,
            "recover": ["mimic"],
            "runtime": "onnxruntime 1.20.0 cpu",
            "machine": ENVIRONMENT.machine,
            "batch": 1,
            "threads": 2,
            "rows": [self._sweep_row(*row, rows[0][2]) for row in rows],
        }
        text = json.dumps(content)
        folder = self.path / f"{self.count:02d}-sweep"
        folder.mkdir()
        (folder / "sweep.json").write_text(text)
        output = FileRef(path="sweep.json", sha256=hashlib.sha256(text.encode()).hexdigest(), size_bytes=len(text))
        return self.stage("sweep", source=source, output=output, results={"rows": content["rows"]})

    def _sweep_row(self, count, top1, median_ms, whole_ms):
        accuracy = {
            "correct_top1": round(top1 * N),
            "correct_top5": N,
            "n": N,
            "dataset": "cifar10",
            "split": "val",
            "runtime": "torch",
            "artifact": "0",
        }
        judged = {"accuracy": accuracy, "change_points": 100 * (top1 - 0.92), "half_width_points": 0.4}
        bare = {**judged, "accuracy": {**accuracy, "correct_top1": round(0.9 * top1 * N)}}
        return {
            "count": count,
            "score": None,
            "params": PARAMS,
            "macs": MACS,
            "checkpoint": f"drop-{count:02}.safetensors",
            "dropped": [f"layer1.{place}" for place in range(count)],
            "bare": bare if count else judged,
            "recovered": judged if count else None,
            "latency_ms": interval(median_ms, 0.1),
            "ratio": interval(median_ms / whole_ms, 0.01),
        }

    def costs(self, source, **changes):
        """Adds a latency table, on this machine if `changes` say nothing else: all modules save the same."""
        modules = [
            {"module": info.name, "kind": info.kind, "shape": "s", "saved_ms": interval(0.25, 0.02)}
            for info in modules_of(self.spec)
        ]
        content = {
            "model_sha256": source.sha256,
            "spec": self.spec,
            "conditions": {"runtime": "ort", "precision": "fp32", "batch": 1, "threads": 2},
            "runtime": "onnxruntime 1.20.0 cpu",
            "machine": ENVIRONMENT.machine,
            "session": "s",
            "whole_ms": interval(8.0, 0.1),
            "measured_ms": interval(8.0, 0.1),
            "rest_ms": 1.25,
            "shapes": ["s"],
            "table": modules,
            "covariance": [[0.0, 0.0], [0.0, 0.0]],
            "fit_error": 0.012,
            "degrees": 10,
            "timed": [{"dropped": [], "rounds_ms": [8.0]}] * 12,
        }
        table = LatencyTable.model_validate({**content, **changes})
        folder = self.path / f"{self.count:02d}-latency"
        folder.mkdir()
        (folder / "latency.json").write_text(text := table.model_dump_json(indent=1))
        output = FileRef(path="latency.json", sha256=hashlib.sha256(text.encode()).hexdigest(), size_bytes=len(text))
        config = table.conditions.model_dump(mode="json")
        return self.stage("latency", source=source, output=output, config=config, results=summary_of(table))

    def calibrated(self, source, tensors=("layer1.0.conv1", "layer3.8.relu")):
        """Adds a calibration with histograms of `tensors`."""
        shown = [
            {
                "tensor": name,
                "top": 8.0,
                "counts": [4000, 1000, 100, 0, 1],
                "zeros": 17,
                "n": 5118,
                "amax": {"minmax": 8.0, "mse": 4.5, "entropy": 5.5},
                "sqnr_db": {"minmax": 31.0, "mse": 38.25, "entropy": None},
            }
            for name in tensors
        ]
        results = {"images": 512, "tensors": 40, "histograms": shown}
        return self.stage("calibrate", source=source, config={"data": "cifar10"}, results=results)

    def board(self, source, *, top1=0.91, median_ms=1.5, figures=None, board=None, predictions=False):
        """Adds what a board measured of the file `source`; nothing here ran on a board."""
        machine = "orin: Jetson Orin Nano, JetPack 6.2, MAXN_SUPER"
        latency = self.latency(source, median_ms, "tensorrt 10.3.0", session="on the board")
        accuracy = Accuracy(
            correct_top1=round(top1 * N),
            correct_top5=N,
            n=N,
            dataset="cifar10",
            split="val",
            runtime="tensorrt 10.3.0",
            artifact=source.sha256,
            predictions="predictions.npy" if predictions else None,
        )
        energy = Energy(
            mj_per_image=9.5,
            half_width_mj=0.25,
            load_w=11.25,
            idle_w=4.75,
            load_samples=200,
            idle_samples=100,
            batch=1,
            source="VDD_IN",
            is_input=True,
            is_partial=False,
            artifact=source.sha256,
            machine=machine,
        )
        results = {
            "board": {**BOARD, **(board or {})},
            "figures": {**BOARD_FIGURES, **(figures or {})},
        }
        folder = self.stage(
            "board",
            source=source,
            accuracy=(accuracy,),
            latency=(latency.model_copy(update={"machine": machine}),),
            energy=(energy,),
            results=results,
        )
        if predictions:
            np.save(folder / "predictions.npy", self._guesses(top1))
        return folder

    def _lesion(self, module, kind, change_points):
        return {
            "module": module,
            "kind": kind,
            "accuracy": Accuracy(
                correct_top1=4000,
                correct_top5=4900,
                n=N,
                dataset="cifar10",
                split="val",
                runtime="torch",
                artifact="0",
            ).model_dump(mode="json"),
            "loss": 0.5,
            "kl": 0.1,
            "change_points": change_points,
            "half_width_points": 0.3,
        }

    def _content(self, cost, dropped, stage, size_bytes, parent=None):
        spec = self.spec.model_copy(update={"dropped": tuple(sorted(dropped))})
        card = Card(spec=spec, cost=cost, stage=stage, parent=parent)
        header = json.dumps({"__metadata__": {"edgeres": card.model_dump_json()}}).encode()
        return (len(header).to_bytes(8, "little") + header).ljust(size_bytes, b"\0")


@pytest.fixture
def fake_run(runs_folder):
    """An empty run folder."""
    path = Path("runs", "fake")
    path.mkdir(parents=True)
    return FakeRun(path)


@pytest.fixture
def whole_run(fake_run):
    """Import, lesion, prune, recover, export, quantize, compile, bench."""
    fill(fake_run)
    return fake_run


@pytest.fixture(scope="session")
def full_path(tmp_path_factory):
    """A run with a stage of every kind that is drawn; to be read, or copied and then changed."""
    run = FakeRun(tmp_path_factory.mktemp("runs") / "full")
    run.path.mkdir()
    source = fill(run)
    run.costs(source)
    run.calibrated(source)
    run.sweep(source)
    run.board(source)
    (run.path / "recipe.toml").write_text("name = 'x'\n")
    return run.path


@pytest.fixture(scope="session")
def full(full_path):
    """Its summary."""
    return rows_from(full_path)


def fill(run):
    """Adds the stages of `whole_run`; returns the exported file."""
    config = {"file": "resnet56_cifar10.pt", "arch": "resnet56"}
    folder, first = run.model("import", "model.safetensors", 3_500_000, config=config)
    run.evaluated(folder, first, 0.9236)
    run.lesion(first)
    results = {"chosen": list(DROPPED)}
    folder, pruned = run.model("prune", "model.safetensors", 3_020_000, source=first, dropped=DROPPED, results=results)
    run.evaluated(folder, pruned, 0.8842)
    results = {"epochs": 2.0, "methods": ["mimic", "distill"]}
    folder, recovered = run.model(
        "recover", "model.safetensors", 3_020_001, source=pruned, dropped=DROPPED, results=results
    )
    run.evaluated(folder, recovered, 0.9180)
    results = {"opset": 17, "batch": 1}
    folder, exported = run.model("export", "model.onnx", 2_990_000, source=recovered, dropped=DROPPED, results=results)
    run.evaluated(folder, exported, 0.9182, "onnxruntime 1.20.0 cpu")
    folder, quantized = run.model(
        "quantize",
        "model.onnx",
        810_000,
        source=exported,
        dropped=DROPPED,
        precision="int8",
        config={"method": "entropy"},
        warnings=("layer3.0.conv1: 3 % of the inputs are clipped",),
    )
    run.evaluated(folder, quantized, 0.9160, "onnxruntime 1.20.0 cpu literal Q/DQ")
    _, engine = run.model(
        "compile",
        "model.plan",
        2_400_000,
        source=quantized,
        dropped=DROPPED,
        precision="int8",
        results={"targets": ["sm_86", "sm_89", "sm_120"]},
    )
    latencies = (
        run.latency(first, 19.0),
        run.latency(pruned, 16.4),
        run.latency(recovered, 16.3),
        run.latency(exported, 2.15, "onnxruntime 1.20.0 cpu"),
    )
    skipped = {quantized.sha256: "not timed: placed for TensorRT", engine.sha256: "built, not run: sm_86"}
    run.stage("bench", latency=latencies, results={"skipped": skipped}, notes=("model.plan: built, not run",))
    return exported


@pytest.fixture
def paired():
    """An independent statement of the paired change of two tables of (prediction, label), in points."""

    def change(before, after):
        difference, half = paired_difference(before[:, 0] == before[:, 1], after[:, 0] == after[:, 1])
        return 100 * difference, 100 * half

    return change
