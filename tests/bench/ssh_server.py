"""An ssh server of asyncssh, for machines without OpenSSH's: `python ssh_server.py PORT FOLDER`.

FOLDER holds its key `host` and `authorized_keys`, which is read anew for each connection. It knows what the tests
need: commands, SFTP, and ways on to other hosts; a connection that ends closes the stdin of its programs.
"""

import asyncio
import getpass
import os
import pwd
import signal
import sys
from pathlib import Path

import asyncssh

_AT_ONCE = 1 << 14
_USUAL = "/usr/local/bin:/usr/bin:/bin"


class _Server(asyncssh.SSHServer):
    def __init__(self, folder):
        self.folder = folder

    def connection_made(self, conn):
        self.conn = conn

    def begin_auth(self, username):
        self.conn.set_authorized_keys(str(self.folder / "authorized_keys"))
        return True

    def password_auth_supported(self):
        """Asked for each key refused, after which paramiko requests the service anew; OpenSSH grants it again."""
        self.conn._next_service = b"ssh-userauth"
        return False

    def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
        return True


async def run(process):
    """One command, through the user's shell as OpenSSH does it."""
    me = pwd.getpwuid(os.getuid())
    usual = {"HOME": me.pw_dir, "USER": getpass.getuser(), "SHELL": me.pw_shell, "PATH": _USUAL}
    program = await asyncio.create_subprocess_exec(
        me.pw_shell,
        "-c",
        process.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**usual, **process.env},
    )
    feeding = asyncio.create_task(_fed(process.stdin, program.stdin))
    pipes = [program._transport.get_pipe_transport(number) for number in (1, 2)]
    await asyncio.gather(
        _passed_on(program.stdout, process.stdout, pipes[0]), _passed_on(program.stderr, process.stderr, pipes[1])
    )
    process.stdout.write_eof()
    code = await program.wait()
    feeding.cancel()
    if code < 0:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        process.exit(code)


async def _fed(source, stdin):
    """Closes stdin when the channel or the connection ends."""
    try:
        while some := await source.read(_AT_ONCE):
            stdin.write(some)
            await stdin.drain()
    except (OSError, asyncssh.Error):
        pass
    finally:
        stdin.close()


async def _passed_on(source, target, pipe):
    """To the end of a program's stdout or stderr; ends its pipe when the channel is closed before."""
    try:
        while some := await source.read(_AT_ONCE):
            target.write(some)
            await target.drain()
    except (OSError, asyncssh.Error):
        pipe.close()


async def serve(port, folder):
    """Until it is ended."""
    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=lambda: _Server(folder),
        server_host_keys=[str(folder / "host")],
        process_factory=run,
        sftp_factory=True,
        encoding=None,
    )
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
