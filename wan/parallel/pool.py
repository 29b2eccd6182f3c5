"""Rank 0's side: starts the processes of the other ranks, and runs one function on all ranks at a time."""

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from wan.checkpoint import Precision
from wan.configs.schema import ModelConfig
from wan.parallel.group import TIMEOUT, RankGroup, open_store
from wan.parallel.messages import ABORT, Failure, RankSetup, dump, is_disconnection, load

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPLY_TIMEOUT_S = TIMEOUT.total_seconds()
"""How long the other ranks may take to answer once rank 0 is done, or has failed."""
EXIT_TIMEOUT_S = 5.0
WORKER = "wan.parallel.worker"
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


class RankError(RuntimeError):
    """A rank has ended or does not answer. The process has to be started again."""


class RankProcess:
    """The process of one rank, and its replies."""

    def __init__(self, setup: RankSetup, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called in another thread as soon as the rank reports a failure or ends."""
        self.rank = setup.rank
        self.on_failure = on_failure
        self.replies: queue.SimpleQueue[Failure | None] = queue.SimpleQueue()
        self.connection, child = Pipe()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(child.fileno())],
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=(child.fileno(),),
            stdin=subprocess.DEVNULL,
        )
        child.close()
        self.has_ended = self.is_busy = False
        threading.Thread(target=self._read, name=f"rank {self.rank}", daemon=True).start()
        self.send(dump(setup))

    def send(self, message: bytes) -> None:
        """Send a message, to which a reply is due unless it is ABORT; nothing happens if the process has ended."""
        self.is_busy = self.is_busy or message != ABORT
        try:
            self.connection.send_bytes(message)
        except OSError:
            self.has_ended = True

    def _read(self) -> None:
        while True:
            try:
                reply: Failure | None = load(self.connection.recv_bytes(), CPU)
            except (EOFError, OSError):
                self.has_ended = True
                reply = Failure(kind="disconnected", message="the process has ended", details="")
            if reply is not None:
                self.on_failure()
            self.replies.put(reply)
            if self.has_ended:
                return

    @property
    def status(self) -> str:
        """How the process has ended."""
        try:
            return f"status {self.process.wait(EXIT_TIMEOUT_S)}"
        except subprocess.TimeoutExpired:
            return "its pipe is closed"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


class RankPool:
    """All ranks of a pipeline. Any failure ends the running call on every rank, and the next call works again, unless
    a process has ended: then every call raises `RankError`."""

    def __init__(self, setups: Sequence[RankSetup], store: TCPStore) -> None:
        """Start a process for each setup but the first, which is rank 0's; they load their weights meanwhile.

        Call `wait_until_loaded` when rank 0 has its own.
        """
        first = setups[0]
        self.group = RankGroup(store, 0, len(setups), first.device, first.config.transformer.num_heads)
        self.generation = 0
        self.fault: str | None = None
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="ranks")
        self._sender.submit(int).result()  # starts the thread now: a cancellation could end it while it starts
        self.ranks = [RankProcess(setup, self.group.abort) for setup in setups[1:]]

    def wait_until_loaded(self) -> None:
        """Wait for the weights of every rank and connect. Raises RuntimeError, with the rank's reason, if one fails."""
        for rank in self.ranks:
            number, failure = rank.rank, rank.replies.get()
            rank.is_busy = False
            if failure is not None:
                self.close()
                raise RuntimeError(f"GPU {number} could not load the model: {failure.message}")
        self._connect()

    def call(self, local: Callable[[], T], method: str, *args: Any) -> T:
        """Run `local` here and the `Worker`'s `method` on all other ranks; the result of `local`.

        Raises what `local` raises; a RuntimeError or torch.OutOfMemoryError with the message of another rank that
        failed first; `RankError` if a process has ended or does not answer. Afterwards all ranks are ready again.
        """
        self.check()
        message = dump((method, args))
        try:
            self._send(message)
            result = local()
            failures = self._collect()
        except BaseException as error:
            self._recover(error)
            raise
        if failures:
            self._recover(None, failures)
        return result

    def check(self) -> None:
        """Raise `RankError` if a process has ended or has not answered."""
        if self.fault is None:
            ended = [rank for rank in self.ranks if rank.has_ended]
            if ended:
                self.fault = "; ".join(f"the process of GPU {rank.rank} has ended ({rank.status})" for rank in ended)
        if self.fault is not None:
            raise RankError(f"{self.fault}; restart the server")

    def close(self) -> None:
        """End all processes."""
        self.group.disconnect()
        for rank in self.ranks:
            rank.close()
        self._sender.shutdown()

    def _send(self, message: bytes) -> None:
        """Send to all other ranks, in a thread for it: a cancellation must not leave half a message in a pipe."""

        def send_to_all() -> None:
            for rank in self.ranks:
                rank.send(message)

        self._sender.submit(send_to_all).result()

    def _collect(self) -> dict[int, Failure]:
        """The failures of the ranks that have a reply due, by number; one that does not answer in time is ended."""
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        failures: dict[int, Failure] = {}
        for rank in filter(lambda each: each.is_busy, self.ranks):
            try:
                failure = rank.replies.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.fault = f"GPU {rank.rank} did not answer within {REPLY_TIMEOUT_S:.0f} s"
                rank.process.kill()
                continue
            rank.is_busy = False
            if failure is not None:
                failures[rank.rank] = failure
        return failures

    def _recover(self, error: BaseException | None, failures: dict[int, Failure] | None = None) -> None:
        """Connect all ranks again. Raises the exception of another rank where that is the cause of `error`."""
        self.group.disconnect(error)
        if failures is None:
            self._send(ABORT)
            failures = self._collect()
        self.check()
        self._connect()
        causes = {rank: failure for rank, failure in failures.items() if failure.kind != "disconnected"}
        if causes and (error is None or is_disconnection(error)):
            rank, failure = min(causes.items(), key=lambda item: item[1].kind != "out of memory")
            logger.error("rank %d: %s", rank, failure.details)
            raise failure.exception(rank) from error
        if error is None:
            raise RuntimeError(f"the GPUs lost their connection: {next(iter(failures.values())).message}")

    def _connect(self) -> None:
        self.generation += 1
        self._send(dump(("connect", (self.generation,))))
        try:
            self.group.connect(self.generation)
        except (RuntimeError, torch.distributed.DistError) as error:
            self.fault = f"the GPUs could not connect ({error})"
        failures = self._collect()
        if failures:
            self.fault = f"the GPUs could not connect: {next(iter(failures.values())).message}"
        self.check()


def start_ranks(
    config: ModelConfig,
    checkpoint_dir: Path,
    precision: Precision,
    devices: Sequence[torch.device],
    num_resident_blocks: int | None,
) -> RankPool:
    """A process for each device but the first. `num_resident_blocks`: those loaded to it, None for all."""
    store = open_store()
    setups = [
        RankSetup(
            config=config,
            checkpoint_dir=checkpoint_dir,
            precision=precision,
            rank=rank,
            num_ranks=len(devices),
            device=device,
            num_resident_blocks=num_resident_blocks,
            port=store.port,
        )
        for rank, device in enumerate(devices)
    ]
    return RankPool(setups, store)
