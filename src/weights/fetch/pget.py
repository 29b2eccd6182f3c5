"""Run Replicate's pget as a subprocess; it neither verifies, resumes nor writes atomically, so this module does."""

import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from src.weights.disk import tree_bytes
from src.weights.errors import CorruptDownloadError, SourceError
from src.weights.retry import RetryPolicy

RELEASES_URL = "https://github.com/replicate/pget/releases"
REPLICATE_PGET = re.compile(r"^pget version \S", re.IGNORECASE)
POLL_S = 0.2
CHUNK_BYTES = 1 << 22
# Sets PR_SET_PDEATHSIG, so that the kernel kills pget when this process is killed, then becomes pget.
LAUNCHER = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
    libc.prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)
os.execv(command[0], command)
"""


def find_pget() -> str | None:
    """The path of Replicate's pget, or None. Other programs have the same name, so its version is asked for."""
    if (program := shutil.which("pget")) is None:
        return None
    with suppress(subprocess.TimeoutExpired, OSError):
        result = subprocess.run([program, "version"], capture_output=True, text=True, timeout=10, check=False)
        if REPLICATE_PGET.match(result.stdout):
            return program
    return None


def download(program: str, url: str, run_dir: Path, policy: RetryPolicy, *, trusted: bool) -> Path:
    """Download and unpack a tar into the new folder `run_dir/tree`, and return that folder.

    pget unpacks a tar of a trusted server while it downloads; other tars are unpacked here. Raises SourceError
    if pget fails, exceeds `timeout_s`, or writes nothing for `stall_s`; CorruptDownloadError for a malicious tar.
    """
    tree, tar = run_dir / "tree", run_dir / "tar"
    run_dir.mkdir(parents=True)
    run(program, ["-xf", url, str(tree)] if trusted else ["-f", url, str(tar)], url, run_dir, policy)
    if not trusted:
        unpack(tar, tree, policy)
        tar.unlink()
    if unexpected := sorted(entry.name for entry in run_dir.iterdir() if entry.name not in {"tree", "log", "pid"}):
        raise CorruptDownloadError(f"is rejected: it wrote {', '.join(unexpected)} outside its folder")
    if not tree.is_dir():
        raise CorruptDownloadError("is an empty tar")
    check_tree(tree)
    return tree


def run(program: str, arguments: list[str], url: str, run_dir: Path, policy: RetryPolicy) -> None:
    """Run pget to its end, with its own pid file; with the default one, it waits for every other pget."""
    command = [program, "--pid-file", str(run_dir / "pid"), *arguments]
    with (run_dir / "log").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            watch(process, url, run_dir, policy)
        finally:
            kill_group(process)
    if process.returncode != 0:
        raise SourceError(f"pget ended with status {process.returncode} for {url}{last_line(run_dir / 'log')}")


def watch(process: subprocess.Popen[bytes], url: str, run_dir: Path, policy: RetryPolicy) -> None:
    """Wait for the end of the process. Raises SourceError on timeout or stall, CancelledError on cancellation."""
    log = run_dir / "log"
    started = grown = time.monotonic()
    size = -1
    while process.poll() is None:
        policy.raise_if_cancelled()
        now = time.monotonic()
        if (new_size := tree_bytes(run_dir) - log.stat().st_size) > size:
            size, grown = new_size, now
        if now - grown > policy.stall_s:
            raise SourceError(f"pget wrote nothing for {policy.stall_s:g} s from {url}")
        if now - started > policy.timeout_s:
            raise SourceError(f"pget did not end within {policy.timeout_s:g} s for {url}")
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The last line that pget printed, after a colon, or nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""


class TarReader(io.FileIO):
    """A tar on disk. Reading stops on cancellation, and no header can request a read of arbitrary length."""

    def __init__(self, path: Path, policy: RetryPolicy) -> None:
        super().__init__(path)
        self.policy = policy

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most CHUNK_BYTES. Raises CorruptDownloadError for other sizes."""
        self.policy.raise_if_cancelled()
        if size is None or not 0 <= size <= CHUNK_BYTES:
            raise CorruptDownloadError("is rejected: a tar header with an invalid size")
        return super().read(size) or b""


def unpack(path: Path, tree: Path, policy: RetryPolicy) -> None:
    """Unpack an uncompressed tar of files and folders. Raises CorruptDownloadError for anything else."""
    try:
        with (
            TarReader(path, policy) as reader,
            tarfile.TarFile(fileobj=reader, copybufsize=CHUNK_BYTES) as archive,
        ):
            archive.extractall(tree, filter=check_member)
    except (tarfile.TarError, ValueError, RecursionError) as error:  # tarfile does not convert the last two
        raise CorruptDownloadError(f"is not a valid tar: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise CorruptDownloadError(f"is not a valid tar: {error.strerror}") from error


def check_member(member: tarfile.TarInfo, tree: str) -> tarfile.TarInfo:
    """tarfile's data filter, which rejects names outside `tree`; links, devices and sparse files are rejected too."""
    if not (member.isfile() or member.isdir()) or member.issparse() or member.size < 0:
        raise CorruptDownloadError(f"is rejected: {member.name!r} is neither a file nor a folder")
    return tarfile.data_filter(member, tree)


def check_tree(tree: Path) -> None:
    """Raise CorruptDownloadError if `tree` contains links to outside or special files."""
    root = tree.resolve()
    num_links: dict[int, int] = {}
    num_names: Counter[int] = Counter()
    for path in tree.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            is_allowed = Path(os.path.realpath(path)).is_relative_to(root)
        else:
            is_allowed = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        if not is_allowed:
            name = path.relative_to(tree).as_posix()
            raise CorruptDownloadError(f"is rejected: {name!r} is a link to outside or a special file")
        if stat.S_ISREG(status.st_mode):
            num_names[status.st_ino] += 1
            num_links[status.st_ino] = status.st_nlink
    if num_names != num_links:  # a hard link to a file outside
        raise CorruptDownloadError("is rejected: it contains a hard link to a file outside")
