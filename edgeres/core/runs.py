"""A run is a folder one can read.

    runs/NAME/recipe.toml            if it was made by `edgeres run`
    runs/NAME/00-train/model.safetensors, report.json, eval.json, eval.npy; 01-prune/...
    runs/NAME/report.html, report.md, report.json, report.csv
    runs/latest -> NAME              the run commands work on when neither artifact nor run is named

$EDGERES_RUN stands before runs/latest, and leaves it as it is: it names the run of a shell. So that two shells without
it do not mix their runs, runs/.shells/SESSION holds `BEGAN NAME`: the terminal session (its leader's process id), when
that process began, and the run that became the current one by a command of it.

A stage folder with a report.json is finished; one without has a started.json with the key of what was begun, so that
the same call goes on with it, under the next number if others came since, and another call starts a new folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeres.core.artifacts import Model, model_from
from edgeres.core.config import record_from_json
from edgeres.core.errors import EdgeresError, InputError
from edgeres.core.files import process_began, write_text
from edgeres.core.names import name_from_file
from edgeres.core.safe_text import typed
from edgeres.core.stage import REPORT_NAME, StageReport, replaced_in

log = logging.getLogger(__name__)
STARTED_NAME = "started.json"
RECIPE_NAME = "recipe.toml"
EVAL_NAME, PREDICTIONS_NAME = "eval.json", "eval.npy"
PAGE_NAME = "report.html"
WITH_DATA = "--data DATA"  # of a command that shows images
LATEST, _SHELLS = "latest", ".shells"
_PID = re.compile(r"[0-9]{1,9}")
_NAME_BYTES = 255  # the longest name of a file
_FOLDER = re.compile(r"^(\d{2,3})-([a-z]+)$")


def runs_root() -> Path:
    """Where runs are kept: $EDGERES_RUNS or ./runs."""
    return Path(os.environ.get("EDGERES_RUNS") or "runs")


def runs_in_root() -> list[Run]:
    """All runs there, by name: folders with a stage or a recipe."""
    paths = sorted(runs_root().iterdir()) if runs_root().is_dir() else []
    runs = [Run(path) for path in paths if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
    return [run for run in runs if run.folders() or (run.path / RECIPE_NAME).is_file()]


def run_of_shell() -> str | None:
    """The name or folder in $EDGERES_RUN, or None."""
    return os.environ.get("EDGERES_RUN") or None


@dataclass(frozen=True)
class StageFolder:
    """NN-stage."""

    path: Path
    index: int
    stage: str

    @property
    def is_finished(self) -> bool:
        """Whether the stage wrote its report."""
        return (self.path / REPORT_NAME).is_file()

    @property
    def started_key(self) -> str | None:
        """The key of the call that began here and has not finished."""
        return self._started.get("key")

    @property
    def spent_s(self) -> float:
        """Seconds that earlier calls with the key worked here, each up to what it kept last."""
        with contextlib.suppress(ValueError):
            return float(self._started.get("spent_s", 0))
        return 0.0

    @property
    def is_busy(self) -> bool:
        """Whether another process of this machine is at work here."""
        pid, began = self._started.get("pid", ""), self._started.get("began")
        if not _PID.fullmatch(pid) or self._started.get("host") != platform.node() or int(pid) == os.getpid():
            return False
        return began is not None and began == process_began(int(pid))

    @property
    def _started(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            content = json.loads((self.path / STARTED_NAME).read_text(encoding="utf-8"))
            return {str(key): str(value) for key, value in content.items()}
        return {}

    def report(self) -> StageReport:
        """The stage's report; raises InputError if there is none or it is damaged."""
        return record_from_json(StageReport, self.path / REPORT_NAME)

    def model(self) -> Model | None:
        """The model the stage made, looked for by the name in its report; None if it made none or it is gone."""
        output = self.report().output
        path = self.path / Path(output.path).name if output else None
        if path is None or path.suffix not in {".safetensors", ".onnx", ".plan"} or not path.is_file():
            return None
        return model_from(path)


def mark_started(path: Path, stage: str, key: str) -> None:
    """Writes started.json, which also tells for how long the files that lie in `path` were worked on before."""
    folder, started = StageFolder(path, 0, stage), path / STARTED_NAME
    spent_s = 0.0
    if folder.started_key == key:
        last = max(one.stat().st_mtime for one in path.rglob("*") if one.is_file())
        spent_s = folder.spent_s + last - started.stat().st_mtime  # the newest may be started.json itself
    write_text(started, started_text(stage, key, spent_s))


def started_text(stage: str, key: str, spent_s: float = 0.0) -> str:
    """What started.json says: the call, the process that works on it, and `StageFolder.spent_s`."""
    own = {"pid": os.getpid(), "began": process_began(os.getpid()), "host": platform.node()}
    return json.dumps({"stage": stage, "key": key, "spent_s": round(spent_s, 3), **own}) + "\n"


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.path.name

    @property
    def called(self) -> str:
        """What commands call it: its name, or its folder if that is not in runs/, as that of one in another's stage."""
        path = _real(self.path)
        return path.name if path.parent == runs_root() else str(path)

    @property
    def typed(self) -> str:
        """The same as it is typed."""
        return typed(self.called)

    def folders(self) -> list[StageFolder]:
        """Stage folders in order."""
        children = self.path.iterdir() if self.path.is_dir() else ()
        found = (
            StageFolder(child, int(match[1]), match[2])
            for child in children
            if (match := _FOLDER.match(child.name)) and child.is_dir()
        )
        return sorted(found, key=lambda folder: folder.index)

    @property
    def set_aside(self) -> str:
        """Names of what other options, or damage, had a recipe make anew, for one line; empty for none."""
        stages = {path.name for path in self.path.glob("[0-9]*-*.old[0-9]*")}
        files = (path for folder in self.folders() for path in folder.path.glob("*.old[0-9]*"))
        return ", ".join(sorted(stages | {f"{path.parent.name}/*{path.suffix}" for path in files}))

    def finished(self) -> list[StageFolder]:
        """Folders of stages that wrote a report."""
        return [folder for folder in self.folders() if folder.is_finished]

    def reports(self) -> Iterator[tuple[StageFolder, StageReport]]:
        """Readable reports, in order; damaged ones are passed over."""
        for folder in self.finished():
            with contextlib.suppress(EdgeresError):
                yield folder, folder.report()

    def models(self) -> list[tuple[StageFolder, Model]]:
        """Models of finished stages that count (`replaced_in`), in order; a damaged report is passed with a warning."""
        gone = replaced_in([(folder.path, report) for folder, report in self.reports()])
        pairs = ((one, _model_or_warning(one)) for one in self.finished() if one.path.name not in gone)
        return [(folder, model) for folder, model in pairs if model is not None]

    def remove_if_empty(self) -> None:
        """Removes the folder of a run in which nothing was begun."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def folder_for(self, stage: str, key: str) -> Path:
        """Where a call with this key goes: on in the folder it began in and left, otherwise in a new one."""
        for folder in self.folders():
            is_left = not folder.is_finished and not folder.is_busy
            if folder.stage == stage and is_left and folder.started_key == key:
                return folder.path
        index = max((folder.index for folder in self.folders()), default=-1) + 1
        return self.path / f"{index:02d}-{stage}"

    def _as_newest(self, path: Path, stage: str) -> Path:
        """`path`, renamed if later stages were begun since, unless a recipe may have numbered it or reports name it."""
        if not path.is_dir() or path == self.folders()[-1].path:
            return path
        if (self.path / RECIPE_NAME).is_file() or any(path.rglob(REPORT_NAME)):
            log.info("goes on in %s; what later folders hold counts as newer all the same", path)
            return path
        newest = self.folder_for(stage, "")
        log.info("%s goes on as %s, the newest of the run", path, newest.name)
        return path.rename(newest)

    def claim(self, stage: str, key: str) -> Path:
        """`folder_for`, made and marked as begun, so that no other call takes it."""
        while True:
            try:
                path = self._as_newest(self.folder_for(stage, key), stage)
                path.mkdir(parents=True, exist_ok=StageFolder(path, 0, stage).started_key == key)
            except FileExistsError:
                continue
            except OSError as err:
                advice = "set EDGERES_RUNS to a folder that can be written"
                raise InputError(f"cannot write {self.path}: {err.strerror}; {advice}") from err
            mark_started(path, stage, key)
            return path

    def data(self) -> str | None:
        """The data set named last in this run, by a stage or an evaluation; raises InputError for a function."""
        found = self._data()
        return name_from_file(*found) if found else None

    @property
    def lacks_data(self) -> str:
        """`--data NAME`, which commands in it ask for: it names no data set, or a function, which is named anew."""
        found = self._data()
        if found is None:
            return WITH_DATA
        with contextlib.suppress(InputError):
            name_from_file(*found)
            return ""
        return f"--data {typed(found[0])}"

    def _data(self) -> tuple[str, str] | None:
        """(the data set named last, the file that names it)."""
        for folder in reversed(self.finished()):
            for path in (folder.path / EVAL_NAME, folder.path / REPORT_NAME):
                data = None
                with contextlib.suppress(EdgeresError):
                    data = record_from_json(StageReport, path).config.get("data")
                if data:
                    return str(data), str(path)
        return None

    def say_if_page_is_older(self) -> None:
        """One line where the page was made before the newest of what the run holds."""
        page = self.path / PAGE_NAME
        if page.is_file() and page.stat().st_mtime_ns < self._newest_ns:
            log.info("%s is older and does not show it; to make it anew: edgeres report %s", page, self.typed)

    @contextlib.contextmanager
    def saying_if_page_is_older(self) -> Iterator[None]:
        """The same of what is kept inside, which may fail after it kept something, or before."""
        before_ns = self._newest_ns
        try:
            yield
        finally:
            if self._newest_ns > before_ns:
                self.say_if_page_is_older()

    @property
    def _newest_ns(self) -> int:
        kept = (path for path in self.path.glob("*/*.json") if path.name != STARTED_NAME)
        return max((path.stat().st_mtime_ns for path in kept), default=0)

    def make_latest(self) -> None:
        """Points runs/latest here (a symbolic link, or a text file where links are not allowed)."""
        if run_of_shell() is not None:
            return
        pointer = self.path.parent / LATEST
        temporary = pointer.with_name(f".{LATEST}.{os.getpid()}")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.path.name, target_is_directory=True)
            os.replace(temporary, pointer)
        except OSError:
            temporary.unlink(missing_ok=True)
            write_text(pointer, self.path.name + "\n")
        note_for_shell(self.path.parent, self.path.name)


def _model_or_warning(folder: StageFolder) -> Model | None:
    try:
        return folder.model()
    except EdgeresError as err:
        log.warning("warning: %s is passed over: %s", folder.path, err)
        return None


def latest_run() -> Run:
    """The current run; raises InputError if there is none."""
    pointer = runs_root() / LATEST
    if pointer.is_file():
        name = Path(pointer.read_bytes()[:_NAME_BYTES].decode(errors="ignore").replace("\0", "").strip()).name
        path = runs_root() / (name or LATEST)
    else:
        path = Path(os.path.realpath(pointer))
    if not path.is_dir() or path.name == LATEST:
        raise InputError(
            f"there is no current run in {runs_root()}/; name a run, or a file; to begin one with a network:"
            " edgeres import FILE, with an example: edgeres run demo"
        )
    return Run(runs_root() / path.name)


def run_named(name: str | None) -> Run:
    """The run given by name or folder; for None that of $EDGERES_RUN, or the current one.

    Raises InputError if it does not exist, and if another shell made it the current one after this one's last stage.
    """
    if name is None:
        return _run_of_shell()
    if not name:
        raise InputError("the run's name is empty (see: edgeres ls runs)")
    if name == LATEST:
        return latest_run()
    for path in (runs_root() / name, Path(name)):
        if path.is_dir() and (path.parent != Path() or Run(path).folders()):
            return Run(path if path.parent == runs_root() else _real(path))
    raise InputError(f"there is no run {name!r} in {runs_root()}/ (see: edgeres ls runs)")


def _run_of_shell() -> Run:
    if (named := run_of_shell()) is not None:
        try:
            return run_named(named)
        except InputError as err:
            raise InputError(f"EDGERES_RUN={named}: {err}") from err
    current, own = latest_run(), last_of_shell(runs_root())
    if own is None or own == current.name:
        return current
    raise InputError(
        f"{runs_root() / LATEST} is {current.name} by now, made so by another shell, and this shell's last stage worked"
        f" in {own}: name the run, {own} or {current.name}; for all of this shell: export EDGERES_RUN={own}"
    )


def run_holding(path: Path) -> Run | None:
    """The run whose stage folder (one with a report, or begun) holds the file `path`, or None."""
    folder = Path(os.path.realpath(path)).parent
    is_stage = any((folder / name).is_file() for name in (REPORT_NAME, STARTED_NAME))
    return Run(_real(folder.parent)) if is_stage and _FOLDER.match(folder.name) else None


def _real(path: Path) -> Path:
    """`path` without links, below runs/ where it lies in there."""
    path, root = Path(os.path.realpath(path)), Path(os.path.realpath(runs_root()))
    return runs_root() / path.relative_to(root) if path.is_relative_to(root) else path


def new_run(name: str, *, is_exact: bool = False) -> Run:
    """A run folder called `name`, numbered if that is taken; it becomes the current one when a stage begins.

    Raises InputError if it `is_exact`, what the user typed, and no run can be called so.
    """
    is_odd = name in {"", LATEST} or name.startswith(".") or Path(name).name != name
    if is_exact and (is_odd or (runs_root() / name).exists()):
        raise InputError(f"no run can be called {name!r}; take a name that is free, without / and no dot in front")
    path, number = runs_root() / name, 2
    while path.exists() or path.name == LATEST:
        path, number = runs_root() / f"{name}-{number}", number + 1
    return Run(path)


def last_of_shell(runs: Path) -> str | None:
    """The name of the run in `runs` that a command of this shell made the current one last; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        path, began = _record(runs)
        said, _, name = path.read_text(encoding="utf-8").strip().partition(" ")
        return name if said == began and (runs / name).is_dir() else None
    return None


def note_for_shell(runs: Path, name: str) -> None:
    """Notes that a command of this shell made `name` the current run; records of shells that are gone go."""
    with contextlib.suppress(OSError, ValueError):
        path, began = _record(runs)
        others = path.parent.iterdir() if path.parent.is_dir() else ()
        for gone in [one for one in others if one.name.isdecimal() and process_began(int(one.name)) is None]:
            gone.unlink()
        write_text(path, f"{began} {name}\n")


def _record(runs: Path) -> tuple[Path, str]:
    """(the file, when the shell began); raises ValueError without a shell. torchrun's workers are its shell's."""
    session = os.getsid(os.getppid()) if hasattr(os, "getsid") else 0
    began = process_began(session)
    if began is None:
        raise ValueError(session)
    return runs / _SHELLS / str(session), began
