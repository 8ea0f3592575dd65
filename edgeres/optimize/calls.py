"""The command: a network of any source, here or on a board (`--on NAME`).

On a board engines are built and timed there, the graphs they come from are judged here.

Each engine is built once, brought here and handed over with its network. What a module costs is told by the profile of
the whole network's engine, since a build takes minutes there; for the same reason sets of modules are tried in the
faster precision alone. Engines lie in the run's hidden folder .engines-KEY, by the graphs they were built from, until a
call with results has finished: one that is refused, or only plans, has built for the next.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edgeres.bench.board_figures import shares_of
from edgeres.bench.board_measuring import PLAN, Bench
from edgeres.bench.board_session import session
from edgeres.bench.boards import Board, board_named
from edgeres.bench.config import BenchConfig, BoardConfig
from edgeres.bench.stage import Session
from edgeres.compile.config import CompileConfig
from edgeres.core.artifacts import Artifact, Checkpoint, Engine, FrontierFile, Model, OnnxModel, model_from
from edgeres.core.config import config_from, refuse
from edgeres.core.errors import AlwaysRefused, InputError
from edgeres.core.records.frontier import FRONTIER_NAME
from edgeres.core.records.latency import LatencyTable, latency_table_from
from edgeres.core.runs import LATEST, Run, latest_run, run_holding, run_named, run_of_shell, runs_in_root, runs_root
from edgeres.core.stage import REPORT_NAME, StageReport, StageResult, file_ref, write_report
from edgeres.data import Dataset, dataset_from
from edgeres.models.importing import UNNAMED, ImportConfig
from edgeres.optimize.config import OptimizeConfig, held_out_of
from edgeres.optimize.stage import optimize, refuse_early
from edgeres.optimize.tries import HERE, Place
from edgeres.pipeline.board_calls import STAGE, check_board, claimed, home_of, key_on, with_layers
from edgeres.pipeline.board_stages import acting, built_there, placed, profiled
from edgeres.pipeline.calls import Call, call, with_default_data
from edgeres.pipeline.stages import source_in, stage_key
from edgeres.report.folder import taken

_DURATION_S, _WARMUP_S, _IDLE_S = 10, 1, 1.0  # of each engine in a session
_PATIENCE_S = 300.0  # for another run there, which may be a build, to end
_STATE_SHOWN = 12
_ANEW = (
    "%s was for --budget %s, by which go the images judged on and how long is trained: its networks are tried anew,"
    " choosing goes on from what it measured"
)
log = logging.getLogger(__name__)


def optimize_call(
    source: Path | None, run: str | None, values: dict[str, Any], brought: dict[str, Any], on: str = ""
) -> StageResult[Artifact]:
    """The stage, once a network that lies in no run is imported, or found where the same call did so before.

    `brought`: options of `edgeres import`; raises InputError for those where nothing is imported.
    """
    if source is None or run_holding(source) is not None:
        refuse(brought, "says how a network is imported; this one is in a run" if source else "needs a network")
        return _called(Call("optimize", source, run, values=values, on=on))
    asked = {"file": source, **brought}
    config = config_from(ImportConfig, asked, "optimize", as_options=True)
    config.check()
    dataset = _refuse_what_can_be(values, on)
    known = _imported(stage_key("import", None, config), run)
    if known is not None:
        log.info("imported before: %s", known)
        done = _called(Call("optimize", known, values=values, on=on))
        Run(known.parents[1]).make_latest()  # which it is not if the call that imported it was refused
        return done
    with _current_again_if_refused():
        return _after_import(call(Call("import", run=run, values=asked)), dataset, values, on)


def _after_import(
    made: StageResult[Artifact], dataset: Dataset, values: dict[str, Any], on: str
) -> StageResult[Artifact]:
    is_told = not dataset.classes or dataset.numbered  # then there is no order of class names
    for warning in made.report.warnings:
        if not (is_told and warning.startswith(UNNAMED)):
            log.warning("warning: %s", warning)
    return _called(Call("optimize", made.output.path, values=values, on=on))


@contextmanager
def _current_again_if_refused() -> Iterator[None]:
    """The current run is the one before again where what is asked for is refused after its network was imported."""
    before = None
    with suppress(InputError):
        before = latest_run()
    try:
        yield
    except InputError:
        if before is not None:
            before.make_latest()
        elif run_of_shell() is None:
            (runs_root() / LATEST).unlink(missing_ok=True)
        raise


def _refuse_what_can_be(values: dict[str, Any], on: str) -> Dataset:
    """The images; raises for options, images or a board that do not do, as far as that is known without a network."""
    config, conditions = _asked_of_board(values) if on else (_config(values), None)
    refuse_early(config, _Board(board_named(on), conditions, Path()).place if conditions else HERE)
    dataset = dataset_from(config.data, download=config.download)
    held_out_of(dataset.train, config)
    if on:
        check_board(on)
    return dataset


def _called(request: Call) -> StageResult[Artifact]:
    """The stage, or what the very same call has finished before."""
    run = run_named(request.run) if request.source is None or request.run else run_holding(request.source)
    request = replace(request, values=with_default_data(OptimizeConfig, request.values, run))
    if request.on:
        return call(request)
    source = model_from(request.source) if request.source else source_in(run_named(request.run), "optimize")
    config = _config(request.values)
    return _finished(run, partial(stage_key, "optimize", source), config) or call(request)


def _finished(
    run: Run | None, key_of: Callable[[OptimizeConfig], str], config: OptimizeConfig
) -> StageResult[Artifact] | None:
    """What the call with this key has made in `run`, if all of it is there; or else says which were nearly the same."""
    if run is None:
        return None
    key, reports = key_of(config), [(folder, one) for folder, one in run.reports() if one.stage == "optimize"]
    alike = [pair for pair in reports if pair[1].config.get("plan_only") == config.plan_only]
    for folder, report in alike:
        names = [FRONTIER_NAME] if report.key == key else []
        names += [one["name"] for one in report.results["frontier"]["results"]] if names else []
        if names and all((folder.path / name).exists() for name in names):
            log.info("%s: finished by the same call before; for another: --seed, or remove that folder", folder.path)
            return StageResult(FrontierFile(folder.path / FRONTIER_NAME), report)
    for folder, report in alike:
        budget = str(report.config.get("budget"))
        if budget != config.budget and report.key == key_of(config.model_copy(update={"budget": budget})):
            log.info(_ANEW, folder.path, budget)
    for left in (one for one in run.folders() if not one.is_finished and not one.is_busy):
        if left.stage == "optimize" and left.started_key != key:
            log.info("%s did not finish and goes on by its own options, --budget among them; this is anew", left.path)
    return None


def _config(values: dict[str, Any]) -> OptimizeConfig:
    return config_from(OptimizeConfig, values, "optimize", as_options=True)


def _asked_of_board(values: dict[str, Any]) -> tuple[OptimizeConfig, BoardConfig]:
    """The options, those of the board apart; raises InputError for what cannot be asked of one."""
    refuse(values.keys() & {"threads"}, "is for this machine's CPU; leave it out with --on")
    limit = {name: value for name, value in values.items() if name == "timeout_s"}
    own = {"duration_s": _DURATION_S, "warmup_s": _WARMUP_S, "idle_s": _IDLE_S, **limit}
    conditions = config_from(BoardConfig, own, "optimize", as_options=True)
    return _config({name: value for name, value in values.items() if name not in limit}), conditions


def optimize_on_board(request: Call) -> StageResult[Artifact]:
    """The frontier in the network's run; raises InputError for what cannot be asked of a board."""
    board, (config, conditions) = board_named(request.on), _asked_of_board(request.values)
    config.check()
    named = taken(model_from(request.source), "optimize") if request.source else None
    model = named or source_in(run_named(request.run), "optimize")
    if not isinstance(model, Checkpoint):
        raise InputError(f"`edgeres optimize` needs a .safetensors file, got {request.source}")
    key_of = partial(key_on, board, "optimize", model)
    key, said = key_of(config), config.model_dump(mode="json")
    if (known := _finished(home_of(model, request), key_of, config)) is not None:
        return known
    found = check_board(request.on)
    state = hashlib.sha256(repr((board, found.model, found.l4t, found.tensorrt)).encode()).hexdigest()

    def act(model: Checkpoint, config: OptimizeConfig, folder: Path) -> StageResult[Artifact]:
        engines = folder.parent / f".engines-{state[:_STATE_SHOWN]}"
        try:
            result = optimize(model, config, folder, place=_Board(board, conditions, engines).place)
        except AlwaysRefused:
            if engines.is_dir():
                log.info("what was built on %s is kept for another budget or goal", board.name)
            raise
        if not config.plan_only:
            shutil.rmtree(engines, ignore_errors=True)
        return result

    return placed(request, model, config, key, acting(board, act, said))


class _Board:
    """Engines built there so far lie in `folder`; what it measured last, by modules lacking and precision."""

    def __init__(self, board: Board, conditions: BoardConfig, folder: Path) -> None:
        self._board, self._conditions, self._folder = board, conditions, folder
        self._last: dict[tuple[tuple[str, ...], str | None], StageReport] = {}

    @property
    def place(self) -> Place:
        """The board as a place to run."""
        timed_s = self._conditions.duration_s + len(shares_of(self._conditions.duration_s)) * self._conditions.warmup_s
        return Place("tensorrt", self._measured, self._costs, self._hand_over, self._build, 2 * timed_s)

    def _build(self, models: Sequence[Model]) -> float:
        """Their engines, where there are none; the seconds that building the others took."""
        engines = [(model, self._engine_of(model)) for model in models]
        new = [(model, one) for model, one in engines if not one.path.is_file() or not one.manifest_path.is_file()]
        there = [one for model, one in engines if (model, one) not in new]
        for model, engine in new:
            assert isinstance(model, OnnxModel)
            engine.path.parent.mkdir(parents=True, exist_ok=True)
            with session(self._board, _PATIENCE_S) as opened:
                built_there(opened, self._conditions.timeout_s, model, CompileConfig(runtime="tensorrt"), engine)
        return sum(one.manifest.build_s for one in there)

    def _measured(self, models: Sequence[Model], config: BenchConfig, names: Sequence[str]) -> Session:
        """Their engines in turns."""
        conditions = self._conditions.model_copy(update={"batch": config.batch})
        with session(self._board, _PATIENCE_S) as opened:
            bench = Bench(opened, conditions)
            loaded = bench.measured([self._engine_of(model) for model in models])
            if bench.failures:
                raise bench.failures[0]
            loaded = [replace(one, model=model) for one, model in zip(loaded, models, strict=True)]
            reports = [with_layers(bench.finished(one), one) for one in loaded]
        self._last = {(one.dropped, one.precision): one for one in reports}
        warnings = dict.fromkeys(warning for report in reports for warning in report.warnings)
        return Session(tuple(report.latency[0] for report in reports), tuple(warnings))

    def _engine_of(self, model: Model) -> Engine:
        return Engine(self._folder / model.sha256[:12] / PLAN)

    def _costs(self, model: Model, folder: Path) -> LatencyTable:
        assert isinstance(model, OnnxModel)
        self._build([model])
        with session(self._board, _PATIENCE_S) as opened:
            bench, built = Bench(opened, self._conditions), self._engine_of(model)
            return latency_table_from(profiled(bench, model, folder, built=built).output.path)

    def _hand_over(self, run: Run) -> None:
        """The engine of its network and what lies beside it, and what the last session measured of the run's files."""
        models = [model for _, model in run.models() if isinstance(model, OnnxModel)]
        for made in self._engine_of(models[-1]).path.parent.glob("*"):
            shutil.copyfile(made, run.path / made.name)
        for before in (folder for folder in run.folders() if folder.stage == STAGE):
            shutil.rmtree(before.path)  # of a call that was interrupted, or came with a copy
        for model in models:
            report = self._last.get((model.spec.dropped, model.precision))
            if report is not None:
                key = key_on(self._board, STAGE, model, self._conditions)
                own: dict[str, Any] = {"source": file_ref(model), "key": key}
                for name in ("latency", "energy"):  # of the engine so far
                    of = getattr(report, name)
                    own[name] = tuple(one.model_copy(update={"artifact": model.sha256}) for one in of)
                with claimed(run, STAGE, key) as folder:
                    write_report(report.model_copy(update=own), folder / REPORT_NAME)


def _imported(key: str, run: str | None) -> Path | None:
    """What the very same import made before: in the run named, else where nothing was done but this command's work."""
    own = (one for one in runs_in_root() if {folder.stage for folder in one.folders()} <= {"import", "optimize"})
    for place in own if run is None else (Run(runs_root() / run),):
        for folder, report in place.reports():
            if folder.stage == "import" and report.key == key and (model := folder.model()) is not None:
                return model.path
    return None
