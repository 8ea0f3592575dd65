"""The Python interface: every stage of the command line, typed.

Every stage is a plain function `(source, config, out_dir) -> StageResult`, the same that the command of its name runs:

    from pathlib import Path
    from edgeres import api

    trained = api.train(None, api.TrainConfig(arch="resnet20", data="digits"), Path("out/train"))
    pruned = api.prune(trained.output, api.PruneConfig(drop=3, data="digits"), Path("out/prune"))

Names are imported when first used, so importing this module costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeres.bench.stage import BenchConfig as BenchConfig
    from edgeres.bench.stage import bench_report as bench_report
    from edgeres.compile.stage import CompileConfig as CompileConfig
    from edgeres.compile.stage import compile_engine as compile_engine
    from edgeres.core.artifacts import Checkpoint as Checkpoint
    from edgeres.core.artifacts import Engine as Engine
    from edgeres.core.artifacts import OnnxModel as OnnxModel
    from edgeres.core.artifacts import model_from as model_from
    from edgeres.core.errors import EdgeresError as EdgeresError
    from edgeres.core.records.latency import LatencyConfig as LatencyConfig
    from edgeres.core.spec import ModelSpec as ModelSpec
    from edgeres.core.spec import Preprocess as Preprocess
    from edgeres.core.stage import StageReport as StageReport
    from edgeres.core.stage import StageResult as StageResult
    from edgeres.data import Dataset as Dataset
    from edgeres.data import dataset_from as dataset_from
    from edgeres.evaluate.stage import EvalConfig as EvalConfig
    from edgeres.evaluate.stage import evaluate as evaluate
    from edgeres.export.stage import ExportConfig as ExportConfig
    from edgeres.export.stage import export as export
    from edgeres.models import network_from as network_from
    from edgeres.models import spec_from_arch as spec_from_arch
    from edgeres.models.importing import ImportConfig as ImportConfig
    from edgeres.models.importing import import_checkpoint as import_checkpoint
    from edgeres.prune.config import PruneConfig as PruneConfig
    from edgeres.prune.config import RecoverConfig as RecoverConfig
    from edgeres.prune.config import SweepConfig as SweepConfig
    from edgeres.prune.latency import latency_table as latency_table
    from edgeres.prune.recover import recover as recover
    from edgeres.prune.stage import prune as prune
    from edgeres.prune.sweep import sweep as sweep
    from edgeres.quantize.qat import QatConfig as QatConfig
    from edgeres.quantize.qat import qat as qat
    from edgeres.quantize.scales import CalibrateConfig as CalibrateConfig
    from edgeres.quantize.scales import calibrate as calibrate
    from edgeres.quantize.stage import QuantizeConfig as QuantizeConfig
    from edgeres.quantize.stage import quantize as quantize
    from edgeres.report.stage import ReportConfig as ReportConfig
    from edgeres.report.stage import report as report
    from edgeres.study.connect import ConnectConfig as ConnectConfig
    from edgeres.study.connect import connect as connect
    from edgeres.study.depth import DepthConfig as DepthConfig
    from edgeres.study.depth import depth as depth
    from edgeres.study.gradients import GradientsConfig as GradientsConfig
    from edgeres.study.gradients import gradients as gradients
    from edgeres.study.lesion import LesionConfig as LesionConfig
    from edgeres.study.lesion import lesion as lesion
    from edgeres.study.ordering import OrderingConfig as OrderingConfig
    from edgeres.study.ordering import ordering as ordering
    from edgeres.study.paths import PathsConfig as PathsConfig
    from edgeres.study.paths import paths as paths
    from edgeres.study.reorder import ReorderConfig as ReorderConfig
    from edgeres.study.reorder import reorder as reorder
    from edgeres.train.stage import TrainConfig as TrainConfig
    from edgeres.train.stage import train as train

_PLACES = {
    "edgeres.bench.stage": ("BenchConfig", "bench_report"),
    "edgeres.compile.stage": ("CompileConfig", "compile_engine"),
    "edgeres.core.artifacts": ("Checkpoint", "Engine", "OnnxModel", "model_from"),
    "edgeres.core.errors": ("EdgeresError",),
    "edgeres.core.spec": ("ModelSpec", "Preprocess"),
    "edgeres.core.stage": ("StageReport", "StageResult"),
    "edgeres.data": ("Dataset", "dataset_from"),
    "edgeres.evaluate.stage": ("EvalConfig", "evaluate"),
    "edgeres.export.stage": ("ExportConfig", "export"),
    "edgeres.models": ("network_from", "spec_from_arch"),
    "edgeres.models.importing": ("ImportConfig", "import_checkpoint"),
    "edgeres.prune.recover": ("recover",),
    "edgeres.prune.config": ("PruneConfig", "RecoverConfig", "SweepConfig"),
    "edgeres.prune.stage": ("prune",),
    "edgeres.prune.sweep": ("sweep",),
    "edgeres.quantize.qat": ("QatConfig", "qat"),
    "edgeres.quantize.scales": ("CalibrateConfig", "calibrate"),
    "edgeres.quantize.stage": ("QuantizeConfig", "quantize"),
    "edgeres.report.stage": ("ReportConfig", "report"),
    "edgeres.prune.latency": ("latency_table",),
    "edgeres.core.records.latency": ("LatencyConfig",),
    "edgeres.study.reorder": ("ReorderConfig", "reorder"),
    "edgeres.study.paths": ("PathsConfig", "paths"),
    "edgeres.study.gradients": ("GradientsConfig", "gradients"),
    "edgeres.study.depth": ("DepthConfig", "depth"),
    "edgeres.study.ordering": ("OrderingConfig", "ordering"),
    "edgeres.study.connect": ("ConnectConfig", "connect"),
    "edgeres.study.lesion": ("LesionConfig", "lesion"),
    "edgeres.train.stage": ("TrainConfig", "train"),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgeres.api' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
