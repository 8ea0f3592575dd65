"""A fake trtexec of the version in fake.json: its options, its words, its files. It computes nothing.

A plan it "builds" is a header as TensorRT's, a JSON line about the network, and the ONNX file itself, which the fake
`tensorrt` module executes. A "10 s" measurement takes as long as tegrastats beside it needs for its lines; every query
takes 2 ms, of a network with Q/DQ pairs FAKE_INT8_MS. What it was asked to time is in state/timed, a line a call. An
"ONNX" file that begins with b"onnx" stands for any network and is not looked into.
"""

# ruff: noqa: T201 - a program
import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATE, PRETEND = ROOT / "state", ROOT / "python"
FAKE = json.loads((ROOT / "fake.json").read_text())
QUERY_MS, QUERIES = 2.0, 200
LINES_BEFORE, LINES_TIMED = 16, 32  # of tegrastats under load
HEADER_BYTES, SIZE_AT, VERSION_AT = 64, 16, 24


def modes():
    kept = STATE / "mode"
    return (kept.read_text().strip() if kept.exists() else os.environ.get("FAKE_MODE", "")).split(",")


def version_of():
    number = int(os.environ.get("FAKE_TENSORRT", "0"))
    if not number:
        return FAKE["tensorrt"]
    unit = 1000 if number < 10000 else 10000
    return [number // unit, number % unit // 100, number % 100, 0]


MODE, VERSION = modes(), version_of()
NUMBER = VERSION[0] * (1000 if VERSION[0] < 10 else 10000) + VERSION[1] * 100 + VERSION[2]
TAG = f"[TensorRT v{NUMBER}]{' [b1]' if VERSION[:2] >= [10, 13] else ''} # trtexec {' '.join(sys.argv[1:])}"


def say(text, level="I"):
    print(f"[11/20/2026-11:00:00] [{level}] {text}", flush=True)


def end(word):
    print(f"&&&& {word} TensorRT.trtexec {TAG}", flush=True)
    sys.exit(0 if word == "PASSED" else 1)


def fail(text):
    say(text, "E")
    end("FAILED")


def known_options():
    table = {
        tuple(map(int, key.split("."))): names
        for key, names in json.loads((PRETEND / "trtexec_options.json").read_text()).items()
    }
    return table[max(key for key in table if list(key) <= VERSION[:2])].split()


def options_from(arguments):
    return dict(part.lstrip("-").partition("=")[::2] for part in arguments)


def shapes_from(text):
    pairs = (part.rpartition(":")[::2] for part in text.split(",") if part)
    return {name: [int(length) for length in shape.split("x")] for name, shape in pairs}


def build(options):
    if "bad" in MODE:
        fail("Failed to parse onnx file")
    content = read(options["onnx"])
    network = network_of(content)
    if network["has_qdq"] and VERSION[0] < 10 and not {"int8", "best"} & set(options):
        fail("Error[4]: [network.cpp] Q/DQ layers need INT8, which is not enabled")
    if "stronglyTyped" in options and {"int8", "fp16"} & set(options):
        fail("Precision flags and --stronglyTyped exclude each other")
    network["profile"] = profile_of(network, options)
    say("Engine built in 1.5 sec.")
    plan = plan_from(network, content)
    if "nospace" in MODE:
        Path(options["saveEngine"]).write_bytes(plan[: len(plan) // 2])
        fail("Saving engine to file failed.")
    if "full" not in MODE:
        Path(options["saveEngine"]).write_bytes(plan)
    end("PASSED")


def read(path):
    try:
        return Path(path).read_bytes()
    except OSError as err:
        fail(f"Could not open file {path}: {err.strerror}")


def network_of(content):
    if content.startswith(b"onnx"):
        return {"has_qdq": False, "inputs": {"input": [1, 3, 32, 32]}, "outputs": {"output": [1, 10]}, "layers": []}
    import hashlib

    known = Path(FAKE["networks"]) / hashlib.sha256(content).hexdigest()
    if not known.exists():
        own = known.with_name(f"{known.name}.{os.getpid()}")
        own.write_text(json.dumps(network_read(content)))
        own.rename(known)
    return json.loads(known.read_text())


def network_read(content):
    sys.path[:0] = [*FAKE["site"], str(PRETEND)]
    import layers
    import onnx

    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except Exception:
        fail("Failed to parse onnx file")
    stored = {tensor.name for tensor in model.graph.initializer}
    return {
        "has_qdq": any(node.op_type == "QuantizeLinear" for node in model.graph.node),
        "inputs": {one.name: shape_of(one) for one in model.graph.input if one.name not in stored},
        "outputs": {one.name: shape_of(one) for one in model.graph.output},
        "layers": layers.layers_of(model),
    }


def shape_of(value):
    return [one.dim_value if one.HasField("dim_value") else -1 for one in value.type.tensor_type.shape.dim]


def profile_of(network, options):
    bounds = [shapes_from(options.get(key, "")) for key in ("minShapes", "optShapes", "maxShapes")]
    given = [one or shapes_from(options.get("shapes", "")) for one in bounds]
    found = {}
    for name, shape in network["inputs"].items():
        if -1 not in shape:
            found[name] = [shape] * 3
        elif all(name in one for one in given):
            found[name] = [one[name] for one in given]
        else:
            ones = [max(length, 1) for length in shape]
            say("Dynamic dimensions required for input: {}, but no shapes were provided. Automatically overriding shape"
                " to: {}".format(name, "x".join(map(str, ones))), "W")  # fmt: skip
            found[name] = [ones] * 3
    return found


def plan_from(network, content):
    text = json.dumps(network).encode() + b"\n"
    header = bytearray(HEADER_BYTES)
    header[:4] = b"ftrt"
    header[SIZE_AT : SIZE_AT + 4] = (HEADER_BYTES + len(text) + len(content)).to_bytes(4, "little")
    header[VERSION_AT : VERSION_AT + 4] = bytes(VERSION)
    return bytes(header) + text + content


def network_in(path):
    """What is in a plan; ends the program as TensorRT does for a plan that it cannot load."""
    plan = read(path)
    if plan[:4] != b"ftrt" or len(plan) < HEADER_BYTES:
        fail("[TRT] IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)")
    if list(plan[VERSION_AT : VERSION_AT + 3]) != VERSION[:3]:
        built = ".".join(map(str, plan[VERSION_AT : VERSION_AT + 4]))
        fail("[TRT] The engine plan file is not compatible with this version of TensorRT, expecting library version "
             "{} got {}, please rebuild.".format(".".join(map(str, VERSION)), built))  # fmt: skip
    if len(plan) != int.from_bytes(plan[SIZE_AT : SIZE_AT + 4], "little"):
        fail("[TRT] IRuntime::deserializeCudaEngine: Error Code 1: Serialization (plan is cut short)")
    return json.loads(plan[HEADER_BYTES:].partition(b"\n")[0])


def check_shapes(network, options):
    asked = shapes_from(options.get("shapes", ""))
    for name, (low, _, high) in network["profile"].items():
        shape = asked.get(name, low)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            fail(f"Error[3]: IExecutionContext::setInputShape: supplied shape of {name} does not satisfy its profile")


def measure(options):
    flag = STATE / "load"
    if "slowly" in MODE:
        flag.touch()
        time.sleep(600)
    network = network_in(options["loadEngine"])
    check_shapes(network, options)
    (STATE / "said").unlink(missing_ok=True)
    beside = tegrastats()
    flag.touch()
    wait_for(LINES_BEFORE, beside)
    if "silent" not in MODE:
        say("Starting inference")
    start_s = time.monotonic()
    is_there = wait_for(LINES_BEFORE + LINES_TIMED, beside)
    took_s = time.monotonic() - start_s
    time.sleep(0.0 if is_there else 2 * took_s)
    disturb()
    with (STATE / "timed").open("a") as file:
        file.write(f"{Path(options['loadEngine']).name} {options['duration']}\n")
    query_ms = float(os.environ.get("FAKE_INT8_MS", QUERY_MS)) if network["has_qdq"] else QUERY_MS
    rows = queries(query_ms)
    if "exportTimes" in options:
        Path(options["exportTimes"]).write_text(json.dumps(rows))
    export(network, options)
    summarize([row["computeMs"] for row in rows])
    flag.unlink()
    end("PASSED")


def tegrastats():
    """The command line below /proc of the one that runs on this board; None where there is none."""
    program = os.fsencode(str(ROOT / "bin/tegrastats"))
    return next((path for path in Path("/proc").glob("[0-9]*/cmdline") if program in command_line(path)), None)


def command_line(path):
    """Empty when the program has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wait_for(lines, beside):
    """Until tegrastats has said so many under load; False if it is not there, or ends before."""
    said = STATE / "said"
    while beside and command_line(beside):
        if said.exists() and said.stat().st_size >= lines:
            return True
        time.sleep(0.005)
    return False


def disturb():
    if "newmode" in MODE:
        (STATE / "power_mode").write_text("0")
    if "overcurrent" in MODE and FAKE["events"]:
        counter = ROOT / FAKE["events"]
        counter.write_text(f"{int(counter.read_text()) + 2}\n")


def queries(query_ms):
    rows, now = [], 100.0
    for index in range(QUERIES):
        value = query_ms * (1.2 if "drift" in MODE and index > QUERIES // 2 else 1.0)
        row = {"startEnqMs": now, "endEnqMs": now + 0.01, "startH2dMs": now, "endH2dMs": now, "startComputeMs": now}
        end_ms = now + value
        row.update({"endComputeMs": end_ms, "startD2hMs": end_ms, "endD2hMs": end_ms, "h2dMs": 0.0})
        row.update({"computeMs": value, "d2hMs": 0.0, "latencyMs": value})
        rows.append({**row, "endToEndMs": value} if VERSION < [8, 4] else row)
        now = end_ms
    return rows


def export(network, options):
    sys.path.insert(0, str(PRETEND))
    import layers

    if "exportProfile" in options:
        rows = layers.profile(network["layers"], VERSION, QUERY_MS, QUERIES)
        Path(options["exportProfile"]).write_text(json.dumps(rows))
    if "exportLayerInfo" in options:
        ports = list(network["inputs"]), list(network["outputs"])
        Path(options["exportLayerInfo"]).write_text(json.dumps(layers.report(network["layers"], VERSION, *ports)))


def summarize(times):
    ordered = sorted(times)
    terms = {"min": ordered[0], "max": ordered[-1], "mean": sum(ordered) / len(ordered), "median": ordered[99]}
    for share in (90, 95, 99) if VERSION >= [8, 6] else (99,):
        terms[f"percentile({share}%)"] = ordered[len(ordered) * share // 100 - 1]
    text = ", ".join("{} = {:g} ms".format(*pair) for pair in terms.items())
    say("=== Performance summary ===")
    say("Throughput: %g qps" % (1000 * len(times) / sum(times)))
    say("Latency: " + text)
    if VERSION < [8, 4]:
        say("End-to-End Host Latency: " + text)
    say("GPU Compute Time: " + text)


def main():
    options, known = options_from(sys.argv[1:]), known_options()
    if "help" in options:
        print("=== Options ===\n" + "\n".join(f"  --{name}   text" for name in known))
        sys.exit(0)
    print(f"&&&& RUNNING TensorRT.trtexec {TAG}", flush=True)
    if "hang" in MODE:
        time.sleep(600)
    if "crash" in MODE:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "oom" in MODE:
        os.kill(os.getpid(), signal.SIGKILL)
    unknown = sorted(set(options) - set(known))
    if unknown:
        fail(f"Unknown option: --{unknown[0]}")
    say("Selected Device: {}".format(FAKE["gpu_name"]))
    say("Compute Capability: {}".format(FAKE["capability"]))
    build(options) if "saveEngine" in options else measure(options)


main()
