"""Why a board cannot be reached, in words, each with what to do next."""

from __future__ import annotations

import shlex
import socket

_USUAL_PORT = 22
_ENCRYPTED = ("encrypted", "passphrase")


def is_changed_key(err: BaseException) -> bool:
    """Whether the host showed another key than known_hosts has."""
    return type(err).__name__ == "BadHostKeyException"


def changed_key(host: str, err: BaseException, ports: dict[str, int]) -> str:
    """What a host key that has changed means, and how to go on where that is right.

    `ports` are those of all hosts on the way: known_hosts names a host with its port unless that is the usual one.
    """
    named = str(getattr(err, "hostname", host))
    port = ports.get(named, _USUAL_PORT)
    named = named if port == _USUAL_PORT else f"[{named}]:{port}"
    return (
        f"{host} shows another host key than known_hosts has; not connected. Was the board set up anew, or is it"
        f" another machine? If the key may be new: ssh-keygen -R {shlex.quote(named)}, then look at it: ssh {host}"
    )


def unreachable(host: str, err: BaseException, seconds: float) -> str:
    """What went wrong on the way to `host`; `seconds` is how long an answer was waited for."""
    return f"cannot reach {host} over ssh: {_reason(host, err, seconds)}"


def _reason(host: str, err: BaseException, seconds: float) -> str:
    kinds = {kind.__name__ for kind in type(err).__mro__}
    text = " ".join(str(err).split())
    if "PasswordRequiredException" in kinds or any(word in text for word in _ENCRYPTED):
        return "the key has a passphrase; give it to the agent: ssh-add"
    if "AuthenticationException" in kinds or text.startswith("No authentication methods"):
        return f"it knows no key of yours; try: ssh {host}, or send it a key: ssh-copy-id {host}"
    if isinstance(err, socket.gaierror):
        return f"no machine of that name is found; is it spelt as in ~/.ssh/config? try: ssh {host}"
    if isinstance(err, TimeoutError):
        return f"no answer within {seconds:g} s; is the board on and in this network? try: ssh {host}"
    if isinstance(err, (FileNotFoundError, PermissionError)) and err.filename:
        return f"{err.filename}: {str(err.strerror).lower()}; is it the IdentityFile of ~/.ssh/config? try: ssh {host}"
    if isinstance(err, OSError):
        return f"{_said(err)}; is the board on, and does its ssh server run? try: ssh {host}"
    return f"{text or type(err).__name__}; try: ssh {host}"


def _said(err: OSError) -> str:
    """What the system says, that of the first address where several were tried."""
    tried = getattr(err, "errors", None)
    first = next(iter(tried.values()), err) if isinstance(tried, dict) else err
    return str(first.strerror or first).lower() if isinstance(first, OSError) else str(first)
