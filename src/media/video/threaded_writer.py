"""Encode frames in a thread while the next ones are generated.

F frames, H height, W width, 3 colors.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import numpy as np

from src.serving.cancellation import start_thread

QUEUE_SIZE = 24
"""Arrays of frames in the queue at most, which bounds its memory. The pipeline yields four frames at a time; a chunk of
81 fits, so that the encoder can be one chunk behind."""
BATCH_FRAMES = 8
"""Frames encoded between two checks for cancellation."""
POLL_S = 0.05
"""Longest single wait. Requests are cancelled by an exception between two Python instructions, which a longer blocking
call would delay."""


class ThreadedWriter:
    """Call `write` with the frames, in order, in a thread.

    A context manager: leaving it waits until all frames are written; after an exception the queued frames are dropped.
    The thread has ended in either case. An exception of `write` is raised by the next call, or on leaving.
    """

    def __init__(self, write: Callable[[np.ndarray], None], queue_size: int = QUEUE_SIZE) -> None:
        self._write = write
        self._queue: SimpleQueue[np.ndarray | None] = SimpleQueue()
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(queue_size):
            self._free.put(None)
        self._cancelled = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def __enter__(self) -> Self:
        return self

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Queue the next frames; blocks while the queue is full.

        The first call starts the thread: if that is cancelled, `__exit__` follows, which it would not in `__enter__`.
        """
        if self._thread.ident is None:
            start_thread(self._thread)
        self._put(frames_FHWC)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._put(None)
                while self._thread.is_alive():
                    self._thread.join(POLL_S)
        finally:
            self._cancelled = True
            if self._thread.ident is not None:
                self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _put(self, frames_FHWC: np.ndarray | None) -> None:
        while self._thread.is_alive():
            try:
                self._free.get(timeout=POLL_S)
            except Empty:
                continue
            self._queue.put(frames_FHWC)
            return
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (frames_FHWC := self._get()) is not None:
                for first in range(0, len(frames_FHWC), BATCH_FRAMES):
                    if self._cancelled:
                        return
                    self._write(frames_FHWC[first : first + BATCH_FRAMES])
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._error = error

    def _get(self) -> np.ndarray | None:
        """The next frames; None at the end or when cancelled."""
        while not self._cancelled:
            try:
                frames_FHWC = self._queue.get(timeout=POLL_S)
            except Empty:
                continue
            self._free.put(None)
            return frames_FHWC
        return None
