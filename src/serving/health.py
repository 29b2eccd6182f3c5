"""Whether the process can serve requests, checked in a background thread so that the answer is immediate."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0
STALE_AFTER_S = 60.0
"""A check that takes longer counts as a fault: the device hangs."""
MIN_FREE_BYTES = 500 * 10**6


class Health:
    """Faults by subject: "device" if `probe` raises, "disk" if `folder` lacks space, and those set by `set_fault`.

    `probe` runs in the background thread, between requests and during them.
    """

    def __init__(
        self,
        probe: Callable[[], None],
        folder: Path,
        *,
        interval_s: float = INTERVAL_S,
        stale_after_s: float = STALE_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.probe = probe
        self.folder = folder
        self.interval_s = interval_s
        self.stale_after_s = stale_after_s
        self.clock = clock
        self.faults: dict[str, str] = {}
        self._watched = False
        self._stopped = threading.Event()
        self.check()

    def watch(self) -> None:
        """Check in a daemon thread every `interval_s` seconds."""
        self._watched = True
        threading.Thread(target=self._check_repeatedly, name="health", daemon=True).start()

    def stop(self) -> None:
        """End the thread after its current check."""
        self._stopped.set()

    def _check_repeatedly(self) -> None:
        while not self._stopped.wait(self.interval_s):
            self.check()

    def check(self) -> None:
        """Probe the device and measure the free disk space."""
        try:
            self.probe()
            self.set_fault("device", None)
        except Exception as error:  # noqa: BLE001 - whatever the device's driver raises
            self.set_fault("device", f"the device does not answer ({error})")
        self.set_fault("disk", self.disk_shortage())
        self._checked_at = self.clock()

    def disk_shortage(self) -> str | None:
        """Why no video can be written, None if one can."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"{self.folder} cannot be used ({error.strerror})"
        if not os.access(self.folder, os.W_OK):
            return f"{self.folder} cannot be written to"
        shortage = f"{self.folder} has {free / 1e6:,.0f} MB left; {MIN_FREE_BYTES / 1e6:,.0f} MB are needed"
        return shortage if free < MIN_FREE_BYTES else None

    def set_fault(self, subject: str, fault: str | None) -> None:
        """Set or clear a fault; changes are logged."""
        if fault is None:
            if self.faults.pop(subject, None):
                logger.info("%s: healthy again", subject)
            return
        if subject not in self.faults:
            logger.error("unhealthy: %s", fault)
        self.faults[subject] = fault

    @property
    def is_healthy(self) -> bool:
        """Whether there are no faults, and the last check is not stale."""
        stale = self._watched and self.clock() - self._checked_at > self.stale_after_s
        return not self.faults and not stale
