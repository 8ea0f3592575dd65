# ruff: noqa: F401 -- a function under a private name is declared below, as taking paths too
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor, nn

from edgeres.bench.stage import BenchConfig as BenchConfig
from edgeres.bench.stage import bench_report as _bench_report
from edgeres.compile.stage import CompileConfig as CompileConfig
from edgeres.compile.stage import compile_engine as _compile_engine
from edgeres.core.artifacts import Artifact as Artifact
from edgeres.core.artifacts import Checkpoint as Checkpoint
from edgeres.core.artifacts import Engine as Engine
from edgeres.core.artifacts import FrontierFile as FrontierFile
from edgeres.core.artifacts import LatencyTableFile as LatencyTableFile
from edgeres.core.artifacts import LesionTableFile as LesionTableFile
from edgeres.core.artifacts import Model as Model
from edgeres.core.artifacts import OnnxModel as OnnxModel
from edgeres.core.artifacts import ScaleTableFile as ScaleTableFile
from edgeres.core.artifacts import StudyFile as StudyFile
from edgeres.core.artifacts import SweepFile as SweepFile
from edgeres.core.artifacts import model_from as _model_from
from edgeres.core.errors import EdgeresError as EdgeresError
from edgeres.core.records.latency import LatencyConfig as LatencyConfig
from edgeres.core.spec import ModelSpec as ModelSpec
from edgeres.core.spec import Preprocess as Preprocess
from edgeres.core.stage import StageReport as StageReport
from edgeres.core.stage import StageResult as StageResult
from edgeres.costs.stage import latency_table as _latency_table
from edgeres.data import Dataset as Dataset
from edgeres.data import dataset_from as dataset_from
from edgeres.evaluate.stage import EvalConfig as EvalConfig
from edgeres.evaluate.stage import evaluate as _evaluate
from edgeres.export.stage import ExportConfig as ExportConfig
from edgeres.export.stage import export as _export
from edgeres.models import network_from as network_from
from edgeres.models import spec_from_arch as spec_from_arch
from edgeres.models.importing import ImportConfig as ImportConfig
from edgeres.models.importing import import_checkpoint as _import_checkpoint
from edgeres.models.user_modules import drop as _drop
from edgeres.models.user_modules import load as _load
from edgeres.models.user_modules import trace as _trace
from edgeres.optimize.config import OptimizeConfig as OptimizeConfig
from edgeres.optimize.stage import optimize as _optimize
from edgeres.prune.config import PruneConfig as PruneConfig
from edgeres.prune.config import RecoverConfig as RecoverConfig
from edgeres.prune.config import SweepConfig as SweepConfig
from edgeres.prune.recover.stage import recover as _recover
from edgeres.prune.stage import prune as _prune
from edgeres.prune.sweep import sweep as _sweep
from edgeres.quantize.calibrate import calibrate as _calibrate
from edgeres.quantize.config import CalibrateConfig as CalibrateConfig
from edgeres.quantize.config import QatConfig as QatConfig
from edgeres.quantize.config import QuantizeConfig as QuantizeConfig
from edgeres.quantize.qat import qat as _qat
from edgeres.quantize.stage import quantize as _quantize
from edgeres.report.stage import ReportConfig as ReportConfig
from edgeres.report.stage import report as _report
from edgeres.report.summary import RunSummary as RunSummary
from edgeres.study.config import ConnectConfig as ConnectConfig
from edgeres.study.config import DepthConfig as DepthConfig
from edgeres.study.config import GradientsConfig as GradientsConfig
from edgeres.study.config import LesionConfig as LesionConfig
from edgeres.study.config import OrderingConfig as OrderingConfig
from edgeres.study.config import PathsConfig as PathsConfig
from edgeres.study.config import ReorderConfig as ReorderConfig
from edgeres.study.connect import connect as _connect
from edgeres.study.depth import depth as _depth
from edgeres.study.gradients import gradients as _gradients
from edgeres.study.lesion import lesion as _lesion
from edgeres.study.ordering import ordering as _ordering
from edgeres.study.paths import paths as _paths
from edgeres.study.reorder import reorder as _reorder
from edgeres.train.config import TrainConfig as TrainConfig
from edgeres.train.stage import train as _train

_Path = str | Path
_S = TypeVar("_S", contravariant=True)
_C = TypeVar("_C", contravariant=True)
_R = TypeVar("_R", bound=Artifact, covariant=True)

class _Stage(Protocol[_S, _C, _R]):
    """Reads `source`, an artifact or its path, and writes into `out_dir`."""

    def __call__(self, source: _S | _Path, config: _C, out_dir: _Path) -> StageResult[_R]: ...

class _Source(Protocol[_C, _R]):
    """Begins a run: it has no source."""

    def __call__(self, source: None, config: _C, out_dir: _Path) -> StageResult[_R]: ...

calibrate: _Stage[OnnxModel, CalibrateConfig, ScaleTableFile]
compile_engine: _Stage[OnnxModel, CompileConfig, Engine]
connect: _Source[ConnectConfig, StudyFile]
depth: _Source[DepthConfig, StudyFile]
export: _Stage[Checkpoint, ExportConfig, OnnxModel]
gradients: _Source[GradientsConfig, StudyFile]
import_checkpoint: _Source[ImportConfig, Checkpoint]
latency_table: _Stage[Checkpoint, LatencyConfig, LatencyTableFile]
lesion: _Stage[Checkpoint, LesionConfig, LesionTableFile]
optimize: _Stage[Checkpoint, OptimizeConfig, FrontierFile]
ordering: _Source[OrderingConfig, StudyFile]
paths: _Stage[Checkpoint, PathsConfig, StudyFile]
prune: _Stage[Checkpoint, PruneConfig, Checkpoint]
qat: _Stage[OnnxModel, QatConfig, OnnxModel]
quantize: _Stage[OnnxModel, QuantizeConfig, OnnxModel]
recover: _Stage[Checkpoint, RecoverConfig, Checkpoint]
reorder: _Stage[Checkpoint, ReorderConfig, StudyFile]
sweep: _Stage[Checkpoint, SweepConfig, SweepFile]
train: _Source[TrainConfig, Checkpoint]

def trace(
    module: nn.Module, example: Tensor, path: _Path, *, preprocess: Preprocess, classes: Sequence[str] = ()
) -> Checkpoint: ...
def load(source: Checkpoint | _Path) -> nn.Module: ...
def drop(module: nn.Module, names: Sequence[str], example: Tensor) -> nn.Module: ...
def model_from(path: _Path) -> Model: ...
def evaluate(source: Model | _Path, config: EvalConfig, predictions: _Path | None = None) -> StageReport: ...
def bench_report(models: Sequence[Model | _Path], config: BenchConfig) -> StageReport: ...
def report(run: _Path, config: ReportConfig) -> RunSummary: ...
