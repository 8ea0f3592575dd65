import socket

import pytest

from edgeres.bench.board_link import changed_key, why_not
from edgeres.bench.boards import Board

DESK = Board(name="desk", host="orin")
paramiko = pytest.importorskip("paramiko")
REFUSED = paramiko.ssh_exception.NoValidConnectionsError({("10.0.0.9", 22): ConnectionRefusedError(111, "Refused")})


@pytest.mark.parametrize(
    ("err", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no machine of that name is found; "),
        (REFUSED, "refused; is the board on, and does its ssh server run? "),
        (OSError(113, "No route to host"), "no route to host; is the board on, "),
        (FileNotFoundError(2, "No such file", "/home/me/key"), "/home/me/key: no such file; is it the IdentityFile "),
        (TimeoutError("timed out"), "no answer within 15 s; is the board on "),
        (paramiko.AuthenticationException("Authentication failed."), "it knows no key of yours; "),
        (paramiko.SSHException("No authentication methods available"), "it knows no key of yours; "),
        (paramiko.SSHException("Error reading SSH protocol banner"), "what answers there is no ssh server, "),
        (EOFError(), "what answers there is no ssh server, "),
        (paramiko.SSHException("Incompatible version"), "Incompatible version; "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_reason_is_in_words_and_names_the_next_step(err, said):
    text = str(why_not(DESK, err, {}))
    assert text.startswith(f"desk: cannot reach orin over ssh: {said}")
    assert "try: ssh orin" in text
    assert "Errno" not in text
    assert "Exception" not in text


@pytest.mark.parametrize(
    "err", [paramiko.PasswordRequiredException("Private key file is encrypted"), ValueError("key needs a passphrase")]
)
def test_a_key_with_a_passphrase_goes_to_the_agent(err):
    assert str(why_not(DESK, err, {})).endswith("the key has a passphrase; give it to the agent: ssh-add")


def test_a_changed_key_says_how_it_is_repaired():
    class BadHostKeyException(Exception):
        hostname = "10.0.0.9"

    assert str(why_not(DESK, BadHostKeyException(), {})).startswith("desk: orin shows another host key")
    assert str(why_not(DESK, OSError(), {})).startswith("desk: cannot reach orin")
    text = changed_key(DESK, BadHostKeyException(), {"10.0.0.9": 2222, "jump": 22})
    assert text.startswith("orin shows another host key than known_hosts has; not connected.")
    assert text.endswith("ssh-keygen -R '[10.0.0.9]:2222', then look at it: ssh orin")
    assert "ssh-keygen -R 10.0.0.9," in changed_key(DESK, BadHostKeyException(), {"10.0.0.9": 22})


def test_a_port_is_said_as_the_programs_of_openssh_take_it():
    desk = Board(name="desk", host="me@orin:2222")
    refused = paramiko.AuthenticationException("Authentication failed.")
    assert "try: ssh -p 2222 me@orin, or send it a key: ssh-copy-id -p 2222 me@orin" in str(why_not(desk, refused, {}))
    unknown = paramiko.SSHException("Server 'orin' not found in known_hosts")
    assert str(why_not(desk, unknown, {})).endswith(": ssh -p 2222 me@orin")
    assert Board(name="desk", host="[fe80::1]").address == "[fe80::1]"
