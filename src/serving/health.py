"""Whether requests can be served: looked after in a thread, so that the answer is there at once."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0
STALE_AFTER_S = 60.0
"""A device that has not answered for so long is as good as dead."""
MIN_FREE_BYTES = 500 * 10**6


class Health:
    """The device answers, the disk has room for a video, and the last video was one.

    `probe` raises when the device is dead. It runs in a thread of its own, between requests and during them.
    """

    def __init__(
        self, probe: Callable[[], None], folder: Path, *, every_s: float = INTERVAL_S, patience_s: float = STALE_AFTER_S
    ) -> None:
        self.probe = probe
        self.folder = folder
        self.every_s = every_s
        self.patience_s = patience_s
        self.watched = False
        self.faults: dict[str, str] = {}
        self.look()

    def watch(self) -> None:
        """Look again now and then, for as long as the process lives."""
        self.watched = True
        threading.Thread(target=self.keep_looking, name="health", daemon=True).start()

    def keep_looking(self) -> None:
        """Never ends."""
        pause = threading.Event()
        while not pause.wait(self.every_s):
            self.look()

    def look(self) -> None:
        """Try the device and measure the room."""
        try:
            self.probe()
            self.note("device", None)
        except Exception as error:  # noqa: BLE001 - whatever the device's driver raises
            self.note("device", f"the device does not answer ({error})")
        self.note("disk", self.shortage())
        self.looked = time.monotonic()

    def shortage(self) -> str | None:
        """Why no video could be written, if so."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"{self.folder} cannot be used ({error.strerror})"
        short = f"{self.folder} has {free / 1e6:,.0f} MB left; {MIN_FREE_BYTES / 1e6:,.0f} MB are needed"
        return short if free < MIN_FREE_BYTES else None

    def note(self, what: str, fault: str | None) -> None:
        """Remember a fault, or that it is gone; the log tells when that changes."""
        if fault is None:
            if self.faults.pop(what, None):
                logger.info("%s: well again", what)
        elif self.faults.get(what) is None:
            logger.error("unhealthy: %s", fault)
            self.faults[what] = fault
        else:
            self.faults[what] = fault

    @property
    def well(self) -> bool:
        """Whether there was no fault at the last look, which was not long ago."""
        late = self.watched and time.monotonic() - self.looked > self.patience_s
        return not self.faults and not late
