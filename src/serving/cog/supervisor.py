"""Start Cog's server again after its worker has crashed: Cog itself then answers 409 to every prediction, for ever."""

import asyncio
import logging
from dataclasses import dataclass, field

from src.serving.cog.backend import Backend

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Restarts the backend at most `max_restarts` times in `window_s`, each time after twice the delay of the last."""

    backend: Backend
    max_restarts: int = 3
    window_s: float = 3600.0
    delay_s: float = 5.0
    poll_s: float = 2.0
    restarts: list[float] = field(default_factory=list)
    """When the latest restarts were, by the event loop's clock."""
    gave_up: bool = False

    async def run(self) -> None:
        """Watch the worker; returns when Cog's server ends by itself."""
        while True:
            ended = asyncio.ensure_future(self.backend.process.wait())
            while not ended.done():
                await asyncio.wait({ended}, timeout=self.poll_s)
                if not ended.done() and not self.gave_up and await self.backend.has_crashed():
                    break
            if ended.done() or not await self.restart():
                await ended
                return

    async def restart(self) -> bool:
        """Start Cog's server again after a delay; False if that did not help before."""
        now = asyncio.get_running_loop().time()
        self.restarts = [time for time in self.restarts if now - time < self.window_s]
        if len(self.restarts) >= self.max_restarts:
            self.gave_up = True
            logger.error("the worker has crashed again; %s", self.advice)
            return False
        delay = self.delay_s * 2 ** len(self.restarts)
        logger.warning("the worker has crashed; Cog's server is started again in %g s", delay)
        await asyncio.sleep(delay)
        self.restarts.append(now)
        await self.backend.restart()
        return True

    @property
    def advice(self) -> str:
        """What a caller can do after a crash."""
        if not self.gave_up:
            return "the server starts it again; try again later"
        return (
            f"{len(self.restarts)} restarts within {self.window_s / 60:g} minutes did not help, so the server must be "
            "started again"
        )
