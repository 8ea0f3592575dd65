from edgeres.report.rows import rows_from


def absent(run):
    return {(one.name, one.what): one for one in rows_from(run.path).absent}


def test_what_is_missing_has_a_reason_and_a_command(fake_run):
    fake_run.model("import", "model.safetensors", 1000)
    found, file = absent(fake_run), "00-import/model.safetensors"
    assert found[file, "accuracy"].todo == f"edgeres eval runs/fake/{file} --data DATA"
    assert found[file, "latency"].todo == "edgeres bench --run fake"


def test_an_engine_is_measured_on_its_board(whole_run):
    found = absent(whole_run)["06-compile/model.plan", "built, not run here"]
    assert "only on the GPU it was built for" in found.why
    assert "--on BOARD" in found.todo


def test_a_graph_placed_for_tensorrt_is_sent_to_a_board_and_not_to_this_cpu(whole_run):
    found = absent(whole_run)["05-quantize/model.onnx", "latency"]
    assert found.todo == "edgeres bench runs/fake/05-quantize/model.onnx --on BOARD"


def test_nothing_is_listed_for_what_was_measured(whole_run):
    assert not any(name.startswith("00-import") for name, _ in absent(whole_run))
