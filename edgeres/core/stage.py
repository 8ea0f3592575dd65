"""What every stage returns: an artifact and a report (who calls it decides where report.json goes)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from edgeres.core.artifacts import Artifact, Checkpoint, Model
from edgeres.core.config import Config, Record, unless_usual
from edgeres.core.environment import Environment, environment
from edgeres.core.errors import EdgeresError
from edgeres.core.files import write_text
from edgeres.core.input_options import FeedOptions
from edgeres.core.metrics import Accuracy, Closeness, Energy, Latency, OwnFigure
from edgeres.core.safe_text import typed
from edgeres.core.spec import Cost

A_co = TypeVar("A_co", bound=Artifact, covariant=True)
SCHEMA_VERSION = 1
REPORT_NAME = "report.json"
_BEGINS = {"train", "import"}
_NO_OPTIONS = {"file", "weights", "labels"}  # of an import: where it lies, told by its hash, and names
_SAID_OF_NETWORK = {"dropped": (), "preprocess": None, "classes": ()}  # of one structure it may be said otherwise
TWO_NETWORKS = "are two networks of which none comes from the other"
NEVER_EXPORTED = "is newer and was never exported, so its work is not in"
REPORT_SUFFIX = ".report.json"  # of a file outside of a run, which has its report beside it


class FileRef(Record):
    """A file by content: `path` is where it was, `sha256` is what it is."""

    path: str
    sha256: str
    size_bytes: int


class StageReport(Record):
    """One run of one stage. `results` holds the stage's own figures, units in the names."""

    schema_version: int = SCHEMA_VERSION
    stage: str
    config: dict[str, Any]
    source: FileRef | None = None
    output: FileRef | None = None
    cost: Cost | None = None
    precision: str | None = None
    dropped: tuple[str, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    closeness: tuple[Closeness, ...] = ()
    metric: OwnFigure | None = None
    latency: tuple[Latency, ...] = ()
    energy: tuple[Energy, ...] = ()
    results: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Environment
    created: str
    duration_s: float
    key: str | None = None

    def saying(self, *, notes: Iterable[str] = (), warnings: Iterable[str] = ()) -> StageReport:
        """The same with more to say."""
        return self.model_copy(update={"notes": (*self.notes, *notes), "warnings": (*self.warnings, *warnings)})

    _written = unless_usual("closeness", "metric")


@dataclass(frozen=True)
class StageResult(Generic[A_co]):
    """A stage's artifact and its report."""

    output: A_co
    report: StageReport


@dataclass
class Recorder:
    """Collects what a stage has to say while it runs; `finish` makes the report."""

    stage: str
    config: Config
    source: Artifact | None
    results: dict[str, Any] = field(default_factory=dict)
    accuracy: list[Accuracy] = field(default_factory=list)
    closeness: list[Closeness] = field(default_factory=list)
    metric: OwnFigure | None = None
    latency: list[Latency] = field(default_factory=list)
    energy: list[Energy] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)

    def finish(self, output: Artifact | None) -> StageReport:
        """The report, with everything recorded and the time since the stage began."""
        model = output if isinstance(output, Model) else None
        counted = self.config.counted().keys() - set(self.config.needless_of(self.source))
        collected = ("stage", "results", "accuracy", "closeness", "metric", "latency", "energy", "notes", "warnings")
        return StageReport(
            config=self.config.model_dump(mode="json", include=counted),
            source=file_ref(self.source),
            output=file_ref(output),
            cost=model.card.cost if model else None,
            precision=model.precision if model else None,
            dropped=model.spec.dropped if model else (),
            environment=environment(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            duration_s=round(time.perf_counter() - self._start, 3),
            **{name: getattr(self, name) for name in collected},
        )


def file_ref(artifact: Artifact | None) -> FileRef | None:
    """The reference to `artifact` that goes into a report."""
    if artifact is None:
        return None
    return FileRef(path=str(artifact.path), sha256=artifact.sha256, size_bytes=artifact.size_bytes)


def never_exported(sha256: str, made: Sequence[tuple[Path, StageReport]]) -> Path | None:
    """The newest checkpoint of what was `made`, if it came after the one a file is an export of and has none itself.

    `made` are the folders of one run with their reports, in order; None too for a file that is from no export in it.
    """
    by_output = {report.output.sha256: (place, report) for place, (_, report) in enumerate(made) if report.output}
    found = by_output.pop(sha256, None)
    while found and found[1].stage != "export":
        found = by_output.pop(found[1].source.sha256, None) if found[1].source else None
    of = by_output.get(found[1].source.sha256, found) if found and found[1].source else found
    later = ((folder, report.output) for folder, report in (made[of[0] + 1 :] if of else ()))
    newest = [(folder, output) for folder, output in later if output and output.path.endswith(Checkpoint.suffix)][-1:]
    same = {report.source.sha256 for _, report in made if report.source and found and _is_like(report, found[1])}
    return next((folder / Path(output.path).name for folder, output in newest if output.sha256 not in same), None)


def _is_like(export: StageReport, other: StageReport) -> bool:
    return (export.stage, export.precision) == (other.stage, other.precision)


def without_newer(path: Path, what: str) -> str:
    """A warning that `what` was made without the checkpoint `path`, which was `never_exported`."""
    return f"{path.parent} {NEVER_EXPORTED} {what}: edgeres export {typed(path)}"


def begins_another(made: Sequence[tuple[Path, StageReport]]) -> list[str]:
    """A line for each network that a run which began with another was given: none descends from the other."""
    anew = brought_anew(made)
    began = [one for one in made if one[1].stage in _BEGINS and one[1].cost]
    begun = [one for one in began if one[0].name not in anew]
    return [
        f"{begun[0][0].name} and {one[0].name} {TWO_NETWORKS}, and what is lost or gained is told of one against the"
        " other: give each a run of its own, with --run NAME"
        for one in begun[1:]
        if not _is_one_network(begun[0][1], one[1]) and not is_cut_from(begun[0], one)
    ]


def is_cut_from(whole: tuple[Path, StageReport], cut: tuple[Path, StageReport]) -> bool:
    """Whether `cut`, a folder and its report, holds the network of `whole` less some modules, wherever it was trained.

    That is: their checkpoints describe one structure.
    """
    if not {*whole[1].dropped} < {*cut[1].dropped}:
        return False
    with suppress(EdgeresError):
        outputs = [path / Path(report.output.path).name for path, report in (whole, cut) if report.output]
        first, second = (Checkpoint(path).spec.model_copy(update=_SAID_OF_NETWORK) for path in outputs)
        return first == second
    return False


def brought_anew(made: Sequence[tuple[Path, StageReport]]) -> dict[str, str]:
    """Import -> the next one that brought the same network in again, fed or read otherwise.

    What was made from the earlier one is then of no use. New names of the classes alone leave a network as it is.
    """
    begun = [(path.name, report) for path, report in made if report.stage == "import" and report.cost]
    found = {
        name: next((other for other, again in begun[at + 1 :] if _is_changed(name, report, again)), "")
        for at, (name, report) in enumerate(begun)
    }
    return {name: other for name, other in found.items() if other}


def replaced_in(made: Sequence[tuple[Path, StageReport]]) -> dict[str, str]:
    """Folder -> the import that counts, for imports `brought_anew` and all that was made from them."""
    anew, held, lost = brought_anew(made), set[str](), dict[str, str]()
    found: dict[str, str] = {}
    for path, report in made if anew else ():
        source = report.source.sha256 if report.source else ""
        new = anew.get(path.name) or ("" if source in held else lost.get(source, ""))
        if new:
            found[path.name] = new
        if report.output and new:
            lost[report.output.sha256] = new
        elif report.output:
            held.add(report.output.sha256)
    return found


def left_out(names: Iterable[str], new: str) -> str:
    """What is said of imports, and of what was made from them, when `new` brought the same in again."""
    return f"{', '.join(names)}: left out of every figure, as {new} brought the same network in with other options"


def _is_changed(name: str, first: StageReport, other: StageReport) -> bool:
    if not _is_one_network(first, other) or _made(first) == _made(other):
        return False
    if "file" in other.results:
        before, after = ({k: v for k, v in one.config.items() if k not in _NO_OPTIONS} for one in (first, other))
        return before != after
    is_copy = Path(str(other.config.get("file"))).parent.name == name  # of it nothing is changed but what was said
    return is_copy and any(other.config.get(one) is not None for one in (*FeedOptions.model_fields, "size", "task"))


def _made(report: StageReport) -> str:
    return report.output.sha256 if report.output else ""


def _is_one_network(first: StageReport, other: StageReport) -> bool:
    """Whether both came from one place in one file, or the `other` may be a copy of the first in a file of ours."""
    if other.stage == "import" and "file" not in other.results:
        return first.cost == other.cost
    brought = [(*map(one.results.get, ("file", "file_sha256")), one.config.get("key")) for one in (first, other)]
    return first.stage == other.stage == "import" and brought[0] == brought[1]


def write_report(report: StageReport, path: Path) -> None:
    """Writes the report as JSON, whole or not at all."""
    write_text(path, report.model_dump_json(indent=1) + "\n")


@contextmanager
def timed(results: dict[str, Any], name: str) -> Iterator[None]:
    """Stores the seconds spent inside as `results[name]`."""
    start = time.perf_counter()
    yield
    results[name] = round(time.perf_counter() - start, 3)
