"""Frames are encoded in a thread of their own while the next ones are made.

F frames, H height, W width, 3 colours.
"""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np

QUEUE_SIZE = 24
"""Batches of frames that may wait for the encoder, so that memory does not grow where it is the slower one. They come
in fours, and a chunk of 81 may wait while the next one is made."""
BATCH_FRAMES = 8
"""Frames after which the thread looks whether it is still wanted."""
POLL_S = 0.05
"""A service stops a request between two steps of Python: nothing here may wait longer than this at once."""


class ThreadedWriter:
    """Passes frames on to `write` in order, from a thread.

    A context manager: leaving it waits until all is written; after an exception what waits is dropped, and in either
    case the thread has ended. What `write` raises is raised by the next call here, or on leaving.
    """

    def __init__(self, write: Callable[[np.ndarray], None], queue_size: int = QUEUE_SIZE) -> None:
        self._write = write
        self._waiting: queue.Queue[np.ndarray | None] = queue.Queue(queue_size)
        self._unwanted = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Hand the next frames over; waits while the encoder is behind."""
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
            self._unwanted.set()
            self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _put(self, frames_FHWC: np.ndarray | None) -> None:
        while self._thread.is_alive():
            try:
                return self._waiting.put(frames_FHWC, timeout=POLL_S)
            except queue.Full:
                continue
        if self._error is not None:
            raise self._error
        return None

    def _run(self) -> None:
        try:
            while (frames_FHWC := self._next()) is not None:
                for first in range(0, len(frames_FHWC), BATCH_FRAMES):
                    if self._unwanted.is_set():
                        return
                    self._write(frames_FHWC[first : first + BATCH_FRAMES])
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who is in another thread
            self._error = error

    def _next(self) -> np.ndarray | None:
        """The next frames; None when there are no more, or nobody wants them."""
        while not self._unwanted.is_set():
            try:
                return self._waiting.get(timeout=POLL_S)
            except queue.Empty:
                continue
        return None
