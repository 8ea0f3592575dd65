"""Boards that lie, flood and fall silent, over a real ssh server, and what only seems to be one: always one line."""

import contextlib
import socket
import threading

import pytest

from edgeres.bench import board_link, board_session, board_upload

PATIENCE_S = 1.0
GARBAGE = bytes(range(256)) * 40


@pytest.fixture
def hasty(monkeypatch):
    """Who waits no longer than a test can."""
    monkeypatch.setattr(board_upload, "WAIT_S", 0.01)


def program_of(text):
    """A Python program that becomes this one of the shell."""
    return f"import os; os.execvp('sh', ['sh', '-c', {text!r}])"


LIES = {
    "nothing": ("true", "the answer to the job 'detect' is not understood: Invalid JSON"),
    "null": ("echo null", "the answer to the job 'detect' is not understood: "),
    "garbage": ("head -c 3000 /dev/urandom", "the answer to the job 'detect' is not understood: "),
    "escape codes": (
        r"printf 'agent: \033[2J\033]0;title\007\n\033]0;title\007\n' >&2; exit 3",
        r"the agent ended with exit 3: \u001b]0;title\u0007",
    ),
    "a flood": ("exec cat /dev/zero", "the job 'detect' says no end of it and was ended"),
    "a flood of errors": ("exec yes agent: >&2", "the job 'detect' says no end of it and was ended"),
    "silence": ("exec sleep 5", "the job 'detect' did not end within 1 s and was ended"),
    "a signal": ("kill -9 $$", "the agent was killed during the job 'detect'"),
}


@pytest.mark.parametrize(("program", "said"), LIES.values(), ids=LIES)
def test_a_lie_is_one_line_and_leaves_nothing(host, hasty, edgeres, monkeypatch, program, said):
    monkeypatch.setattr(board_session, "AGENT_S", PATIENCE_S if "sleep" in program else 60.0)
    monkeypatch.setattr(board_session, "agent_bytes", program_of(program).encode)
    host.start()
    code, out, err = edgeres("board", "check", "desk")
    assert (code, out) == (4, "")
    assert said in err
    assert err.startswith("edgeres: desk: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert host.left_behind() == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("exec sleep 5", "did not end within 1 s and was ended"),
        ("exec cat /dev/zero", "says no end of it and was ended"),
        ("true", "cannot be kept there, python3 said: nothing; is python3 there Python's own? try: ssh "),
        ("echo '{\"a\": 1}'", 'cannot be kept there, python3 said: {"a": 1}; is python3 there Python'),
    ],
)
def test_a_keeper_that_is_none_is_one_line(host, hasty, edgeres, monkeypatch, tmp_path, program, said):
    monkeypatch.setattr(board_link, "SHORT_S", PATIENCE_S if "sleep" in program else 60.0)
    (tmp_path / "keeper.py").write_text(program_of(program))
    monkeypatch.setattr(board_session, "_KEEPER_SOURCE", tmp_path / "keeper.py")
    host.start()
    code, out, err = edgeres("doctor", "--on", "desk")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert said in err
    assert host.left_behind() == []


@contextlib.contextmanager
def listening(answer):
    """A port where `answer` is given each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    answer(server.accept()[0])

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def garbage(peer):
    peer.sendall(GARBAGE)
    peer.close()


def web(peer):
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.close()


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


KEPT_OPEN = []


def silence(peer):
    KEPT_OPEN.append(peer)


def banner_alone(peer):
    peer.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
    KEPT_OPEN.append(peer)


@pytest.mark.parametrize("answer", [garbage, web, reset, silence, banner_alone])
def test_what_is_no_ssh_server_is_one_line(host, hasty, edgeres, monkeypatch, answer):
    monkeypatch.setattr(board_link, "_CONNECT_S", PATIENCE_S)
    try:
        with listening(answer) as port:
            host.port = port
            host.keys()
            code, out, err = edgeres("board", "check", "desk")
    finally:
        while KEPT_OPEN:
            KEPT_OPEN.pop().close()
    assert (code, out) == (4, "")
    assert err.startswith("edgeres: desk: cannot reach orin over ssh: ")
    assert err.count("\n") == 1


def test_a_port_that_is_none_is_one_line(host, edgeres):
    host.port = 99_999_999
    host.keys()
    code, _, err = edgeres("board", "check", "desk")
    assert (code, err.count("\n")) == (4, 1)


@pytest.mark.parametrize("text", ["Host [", "Match frobnicate\n", "\x00\xff", "Host orin\n  Port many\n"])
def test_a_damaged_ssh_config_is_one_line(host, edgeres, text):
    host.keys()
    (host.home / "config").write_text(text)
    code, _, err = edgeres("board", "check", "desk")
    assert (code, err.count("\n")) == (4, 1), err


def test_known_hosts_that_are_no_text_are_one_line(host, edgeres):
    host.start()
    (host.home / "known_hosts").write_bytes(GARBAGE)
    code, _, err = edgeres("board", "check", "desk")
    assert (code, err.count("\n")) == (4, 1), err


def test_a_transfer_that_is_never_answered_ends(host, hasty, edgeres, monkeypatch, hosts):
    """The board falls silent after the handshake: its packets are taken and none comes back."""
    monkeypatch.setattr(board_link, "OPENED_S", PATIENCE_S)
    monkeypatch.setattr(board_link, "SHORT_S", PATIENCE_S)
    monkeypatch.setattr(board_upload, "SHORT_S", PATIENCE_S)
    monkeypatch.setattr(board_link, "_CONNECT_S", PATIENCE_S)
    monkeypatch.setattr(board_upload, "RECONNECTS", 1)
    host.start(cuts=[])
    host.wire.swallows_after = 6_000
    code, _, err = edgeres("board", "check", "desk")
    assert (code, err.count("\n")) == (4, 1), err


@pytest.mark.parametrize(("only", "is_let_in"), [("no", True), ("yes", False)])
def test_identities_only_offers_no_other_key(host, edgeres, only, is_let_in):
    host.start()
    for suffix in ("", ".pub"):
        (host.home / f"id_ed25519{suffix}").write_text((host.server.folder / f"me{suffix}").read_text())
    (host.home / "id_ed25519").chmod(0o600)
    config = host.home / "config"
    config.write_text(config.read_text().replace("/me\n", f"/other\nIdentitiesOnly {only}\n"))
    code, _, err = edgeres("board", "check", "desk")
    assert code == (0 if is_let_in else 4)
    assert ("it knows no key of yours" in err) is not is_let_in
