"""The engine on this board: building it, timing it, weighing its energy, and whether the run can be trusted.

    rest          tegrastats alone
    performance   trtexec, with tegrastats once a second only for clocks and temperature
    energy        trtexec again, with tegrastats at its fastest

Performance and energy are runs apart because sampling ten times a second costs CPU time. Either may be left out, the
rest with the energy: so engines are timed in rounds, A B A B, by as many calls of a share of the time each.
"""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

from . import detect, figures, process, trtexec
from .process import Refused, say
from .sampler import Sampler

SCHEMA_VERSION = 1
_WATCH_MS, _SAMPLE_MS = 1000, 100
_STARTUP_S = 120.0  # loading an engine and CUDA may take this long on a Nano
_NOTHING_SEEN = "no tegrastats: neither power nor clocks nor temperatures were seen"
_MOST_DAMAGED = 0.05  # share of unreadable lines of tegrastats above which its format is not the known one


class Plan(NamedTuple):
    """What to measure; trtexec's files go to `folder`, `extra` are more of its options.

    With `has_profile` the first run says which layers the engine has and is followed by trtexec's profile.

    A run of trtexec that takes longer than `timeout_s`, or several times what was asked for, hangs and is ended.
    """

    engine: "str"
    batch: "int"
    warmup_s: "int"
    duration_s: "int"
    idle_s: "float"
    folder: "str"
    extra: "list[str]"
    timeout_s: "float"
    has_latency: "bool"
    has_energy: "bool"
    has_profile: "bool"


class Run(NamedTuple):
    """One run of trtexec; `window` is when it timed, in monotonic seconds, or None if it did not say.

    It ended at `end_s`, a little after the window or, where it gave up early, within it.
    """

    log: "trtexec.Log"
    times: "list[dict[str, float]]"
    window: "tuple[float, float] | None"
    end_s: "float"


def build(onnx: "str", engine: "str", precision: "str", timeout_s: "float", extra: "list[str]") -> "dict[str, object]":
    """Builds `engine` from `onnx`; raises Refused with trtexec's own words if it fails, hangs or is not there."""
    tool, known = _tool()
    arguments = [tool, *trtexec.build_arguments(known, precision, onnx, engine), *extra]
    log = _log_of(process.run(arguments, timeout_s), "build", timeout_s)
    if not Path(engine).is_file():
        raise Refused("trtexec says PASSED but wrote no engine; disk full?")
    return {
        "command": arguments,
        "tensorrt": log.tensorrt,
        "facts": log.facts,
        "warnings": log.warnings,
        "engine_sha256": sha256_of(engine),
        "engine_bytes": Path(engine).stat().st_size,
        "is_strongly_typed": "--stronglyTyped" in arguments,
    }


def measure(plan: "Plan") -> "dict[str, object]":
    """Latency and energy of an engine, what the board was doing, and whether all that is valid."""
    tool, known = _tool()
    path = detect.tegrastats_path()
    before, counts = detect.power_mode(), detect.throttle_counts()
    idle = _at_rest(plan, path)
    arguments = [tool, *trtexec.measure_arguments(known, plan.engine, plan.warmup_s * 1000, plan.duration_s)]
    exports = _exports(known, plan.folder) if plan.has_profile else []
    runs = []  # type: list[tuple[Run, Sampler]]
    for what, interval_ms in _runs_of(plan):
        if plan.has_profile:  # one turn of many is announced by who asks for it
            say(f"{what} for {plan.duration_s} s")
        runs.append(_run(arguments + plan.extra + exports, plan, path, interval_ms))
        exports = []
    (fast, watch), (weighed, heavy) = runs[0], runs[-1]
    load = heavy.between(*weighed.window) if weighed.window else []
    watched = watch.between(*fast.window) if fast.window else []
    samples_ms = [row["computeMs"] for row in fast.times]
    span_ms = fast.times[-1]["endComputeMs"] - fast.times[0]["startComputeMs"]
    problems = figures.latency_problems(samples_ms) + figures.clock_problems(watched) + figures.clock_problems(load)
    board, clock, heat = detect.board(), detect.gpu_clock(), figures.heat(idle.samples, load)
    problems += _changes(before, board["power_mode"], counts)
    return {
        "schema_version": SCHEMA_VERSION,
        "board": board,
        "clocks_locked": clock is not None and bool(clock["is_locked"]),
        "tensorrt": fast.log.tensorrt,
        "gpu": fast.log.facts.get("gpu"),
        "command": arguments + plan.extra,
        "batch": plan.batch,
        "samples_ms": [round(value, 6) for value in samples_ms],
        "p50_ms": figures.percentile(samples_ms, 50),
        "p99_ms": figures.percentile(samples_ms, 99),
        "images_per_s": 1000.0 * plan.batch * len(fast.times) / span_ms if span_ms > 0 else None,
        "energy": _energy(idle, heavy, weighed, plan.batch) if plan.has_energy else {"reason": "not asked for"},
        "heat": heat,
        "damaged_samples": sum(sampler.damaged for sampler in {idle, watch, heavy}),
        "is_valid": figures.validity(problems, heat),
        "problems": sorted(set(problems)),
        "warnings": fast.log.warnings + ([_NOTHING_SEEN] if path is None else []),
        "profile": _text_of(plan.folder, "profile.json") if plan.has_profile else None,
        "layers": _text_of(plan.folder, "layers.json") if plan.has_profile else None,
    }


def hangs_after_s(asked_s: "float", timeout_s: "float") -> "float":
    """How long a run of trtexec that is asked to take `asked_s` may take."""
    return min(timeout_s, _STARTUP_S + 3 * asked_s)  # the profile is a run of its own


def sha256_of(path: "str") -> "str":
    """Hex sha256; raises Refused if the file is not there."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as err:
        raise Refused(f"cannot read {path}: {err.strerror}") from err
    return digest.hexdigest()


def _at_rest(plan: "Plan", tegrastats: "str | None") -> "Sampler":
    """Tegrastats with nothing else at work; no samples where no energy is asked for."""
    if not plan.has_energy:
        return Sampler(None, _SAMPLE_MS)
    say(f"at rest for {plan.idle_s:g} s")
    with Sampler(tegrastats, _SAMPLE_MS) as idle:
        time.sleep(plan.idle_s)
    return idle


def _runs_of(plan: "Plan") -> "list[tuple[str, int]]":
    """What each run of trtexec is for, and every how many ms tegrastats looks at it."""
    wanted = [("performance", _WATCH_MS)] if plan.has_latency else []
    wanted += [("energy", _SAMPLE_MS)] if plan.has_energy else []
    if not wanted:
        raise Refused("--no-latency and --no-energy leave nothing to measure; leave one of them out")
    return wanted


def _run(arguments: "list[str]", plan: "Plan", tegrastats: "str | None", interval_ms: "int") -> "tuple[Run, Sampler]":
    """One run of trtexec with tegrastats beside it."""
    times_file = Path(plan.folder) / "times.json"
    limit_s = hangs_after_s(plan.warmup_s + plan.duration_s, plan.timeout_s)
    with Sampler(tegrastats, interval_ms) as sampler:
        done = process.run([*arguments, f"--exportTimes={times_file}"], limit_s)
    log = _log_of(done, "measurement", limit_s)
    times = trtexec.times_from(_text_of(plan.folder, "times.json") or "")
    times_file.unlink()
    started = [at_s for at_s, line in done.lines if line.endswith(trtexec.STARTED)]
    window = (started[0] + plan.warmup_s, started[0] + plan.warmup_s + plan.duration_s) if started else None
    return Run(log, times, window, done.lines[-1][0]), sampler


def _log_of(done: "process.Finished", what: "str", timeout_s: "float") -> "trtexec.Log":
    """What trtexec said; raises Refused if it did not end well."""
    text = "\n".join(line for _, line in done.lines)
    if done.timed_out:
        raise Refused(f"the {what} hung: trtexec was ended after {timeout_s:.0f} s")
    try:
        log = trtexec.log_from(text)
    except trtexec.DamagedOutput as err:
        raise Refused(f"the {what} failed: {err}; its last line: {text[-200:].splitlines()[-1:]!r}") from err
    if done.code != 0 or log.status != "PASSED":
        said = "; ".join(log.errors[:3]) or "it gave no reason"
        raise Refused(f"the {what} failed: trtexec {log.tensorrt} ended with {process.ending(done.code)}: {said}")
    return log


def _tool() -> "tuple[str, set[str]]":
    tool = detect.trtexec_path()
    if tool is None:
        raise Refused("no trtexec on this board; install it: sudo apt install libnvinfer-bin")
    known = detect.trtexec_options(tool)
    if "loadEngine" not in known:
        raise Refused(f"{tool} --help does not name --loadEngine; is it TensorRT's trtexec?")
    return tool, known


def _exports(known: "set[str]", folder: "str") -> "list[str]":
    names = {"exportProfile": "profile.json", "exportLayerInfo": "layers.json"}
    wanted = [f"--{key}={Path(folder) / name}" for key, name in names.items() if key in known]
    return wanted + (["--profilingVerbosity=detailed"] if "profilingVerbosity" in known else [])


def _changes(before: "object", after: "object", counts: "dict[str, int]") -> "list[str]":
    """What happened to the board between start and end."""
    modes = [f"{mode['name']} ({mode['id']})" if isinstance(mode, dict) else "unknown" for mode in (before, after)]
    problems = [f"the power mode changed from {' to '.join(modes)} during the run"] if after != before else []
    for name, count in detect.throttle_counts().items():
        if count > counts.get(name, count):
            problems.append(f"the board throttled: {name} rose from {counts[name]} to {count}")
    return problems


def _energy(idle: "Sampler", heavy: "Sampler", run: "Run", batch: "int") -> "dict[str, object]":
    if run.window is None:
        return {"reason": f"trtexec did not say {trtexec.STARTED!r}: when it timed is unknown"}
    lines = idle.damaged + heavy.damaged + len(idle.samples) + len(heavy.samples)
    if idle.damaged + heavy.damaged > _MOST_DAMAGED * lines:
        return {"reason": f"{idle.damaged + heavy.damaged} of {lines} lines of tegrastats are in no known format"}
    load = heavy.between(*run.window)
    if load and load[-1].at_s < (run.window[0] + min(run.window[1], run.end_s)) / 2:
        return {"reason": "tegrastats ended before the run did"}
    return figures.energy(idle.samples, load, run.times, batch)


def _text_of(folder: "str", name: "str") -> "str | None":
    try:
        return (Path(folder) / name).read_text(errors="replace")
    except OSError:
        return None
