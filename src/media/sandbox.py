"""Run a module that decodes an untrusted file in a process of its own, with limits on processor time and memory.

A decoder is C code that can neither be interrupted nor bounded from Python; its process can be killed, and a crash ends
only that process. It does not inherit environment variables, which may hold secrets.
"""

import contextlib
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from src.serving.cancellation import raise_if_cancelled

ROOT = Path(__file__).parents[2]
MAX_CPU_SECONDS = 60
MAX_MEMORY = 600_000_000
"""Bytes of memory that the process may use."""
POLL_MS = 100
"""Longest single wait, so that a cancelled request ends soon."""
READ_BYTES = 1 << 20
STATM = Path("/proc/self/statm")
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class SandboxError(Exception):
    """The process ended before it had written what was expected; the message says why."""


class Sandbox:
    """`python -m module arguments`, whose output is read and which may be sent lines.

    A context manager; leaving it kills the process, as does the end of this object.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", module, *arguments]

    def __enter__(self) -> Self:
        kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=kept
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent only, which then kills this process
        )
        self._kill = weakref.finalize(self, _kill, self._process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self._process.poll()

    def send(self, line: bytes) -> None:
        """Write one line, without its newline, to the process; if it has ended, the next read says so."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def read_line(self) -> bytes:
        """One line without its newline."""
        line = bytearray()
        while (byte := self.read(1)) != b"\n":
            line += byte
        return bytes(line)

    def read(self, num_bytes: int) -> bytes:
        """Exactly that many bytes. Raises SandboxError if the process ends before, CancelledError on a cancel."""
        data = bytearray()
        while len(data) < num_bytes:
            data += self._read_some(min(READ_BYTES, num_bytes - len(data)))
        return bytes(data)

    def _read_some(self, num_bytes: int) -> bytes:
        assert self._process.stdout is not None
        pipe, poller = self._process.stdout.fileno(), select.poll()
        poller.register(pipe, select.POLLIN)
        while not poller.poll(POLL_MS):
            raise_if_cancelled()
        raise_if_cancelled()
        data = os.read(pipe, num_bytes)
        if not data:
            raise SandboxError(self._exit_reason())
        return data

    def _exit_reason(self) -> str:
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return f"takes more than {MAX_CPU_SECONDS} s of processor time to decode"
        if status >= 0:
            raise RuntimeError(f"{' '.join(self._command)} ended with status {status}; the log above says why")
        return f"cannot be decoded: the decoder was ended by {signal.Signals(-status).name}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def limit_cpu(seconds: int = MAX_CPU_SECONDS) -> None:
    """SIGXCPU ends this process after that many further seconds of processor time."""
    _set_limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)


def limit_process(*, cpu_seconds: int = MAX_CPU_SECONDS, memory: int = MAX_MEMORY) -> None:
    """Limit this process: `limit_cpu`, and allocations beyond `memory` bytes fail."""
    limit_cpu(cpu_seconds)
    _set_limit(resource.RLIMIT_DATA, memory + _unused_bytes())
    _set_limit(resource.RLIMIT_CORE, 0)


def _set_limit(kind: int, limit: int) -> None:
    """Set the soft limit, below the hard limit that this process has been started with."""
    _, hard_limit = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard_limit == resource.RLIM_INFINITY else min(limit, hard_limit), hard_limit))


def _unused_bytes() -> int:
    """Bytes of this process that are allocated and not in memory; 0 where the system does not tell."""
    if not STATM.exists():
        return 0
    _, resident, _, _, _, data, _ = map(int, STATM.read_text().split())
    return max(0, data - resident) * resource.getpagesize()
