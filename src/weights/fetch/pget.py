"""Replicate's parallel downloader, which knows no checksum, no temporary name and no resuming: we watch over it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from src.weights.disk import tree_bytes
from src.weights.errors import CorruptError, SourceError
from src.weights.fetch.tar import check_tree
from src.weights.retry import RetryPolicy

REPLICATE_PGET = re.compile(r"^pget version \S", re.IGNORECASE)
POLL_S = 0.2
# Becomes pget, which the system then ends when we are killed: an orphan would go on writing for hours.
LAUNCH = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
with_prctl = hasattr(ctypes.CDLL(None), "prctl")
if with_prctl:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)
os.execv(command[0], command)
"""


def find_pget() -> str | None:
    """Replicate's downloader on PATH, or nothing; another program of that name is not taken for it."""
    if (program := shutil.which("pget")) is None:
        return None
    with suppress(subprocess.TimeoutExpired, OSError):
        answer = subprocess.run([program, "version"], capture_output=True, text=True, timeout=10, check=False)
        if REPLICATE_PGET.match(answer.stdout):
            return program
    return None


def download(program: str, url: str, run: Path, patience: RetryPolicy) -> Path:
    """Download and unpack a tar into the new folder `run/tree`. Returns that folder.

    Raises SourceError for a failure, for `timeout_s` over all and for `stall_s` without a new byte on the disk, and
    CorruptError for a tree that leads out.
    """
    tree = run / "tree"
    run.mkdir(parents=True)
    with (run / "log").open("w+b") as output:
        command = [program, "--pid-file", str(run / "pid"), "-xf", url, str(tree)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            watch(process, url, tree, patience)
        finally:
            end(process)
        if process.returncode != 0:
            raise SourceError(f"pget ended with status {process.returncode} for {url}{last_line(run / 'log')}")
    check(run, tree)
    return tree


def watch(process: subprocess.Popen[bytes], url: str, tree: Path, patience: RetryPolicy) -> None:
    """Wait for the end; SourceError when it takes too long altogether, or stands still."""
    started = moved = time.monotonic()
    size = -1
    while process.poll() is None:
        patience.check()
        now = time.monotonic()
        if (grown := tree_bytes(tree)) != size:
            size, moved = grown, now
        if now - moved > patience.stall_s:
            raise SourceError(f"pget wrote nothing for {patience.stall_s:g} s from {url}")
        if now - started > patience.timeout_s:
            raise SourceError(f"pget did not end within {patience.timeout_s:g} s for {url}")
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)


def end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the process and its children behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check(run: Path, tree: Path) -> None:
    """CorruptError if the tree leads out, or if something was written beside it."""
    if beside := sorted(entry.name for entry in run.iterdir() if entry.name not in {"tree", "log", "pid"}):
        raise CorruptError(f"is refused: it wrote {', '.join(beside)} outside")
    if not tree.is_dir():
        raise CorruptError("unpacked to nothing")
    check_tree(tree)


def last_line(log: Path) -> str:
    """`: the last thing pget said`, if it said anything."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""
