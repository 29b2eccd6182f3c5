"""When Cog's server is started again after a crash of its worker, and when no more."""

import asyncio
from typing import Any, cast

import pytest

from src.serving.cog.backend import Backend
from src.serving.cog.supervisor import Supervisor


class CrashingBackend:
    """Its worker crashes `crashes` times; after that its server ends."""

    def __init__(self, crashes: int) -> None:
        self.crashes = crashes
        self.restarts = 0
        self.process = self
        self.ended = asyncio.Event()

    async def wait(self) -> int:
        await self.ended.wait()
        return 0

    async def has_crashed(self) -> bool:
        self.crashes -= 1
        if self.crashes < 0:
            self.ended.set()
        return self.crashes >= 0

    async def restart(self) -> None:
        self.restarts += 1


def supervise(crashes: int, **options: Any) -> tuple[Supervisor, int]:
    """The supervisor after its server has ended, and the number of restarts."""

    async def run() -> tuple[Supervisor, int]:
        backend = CrashingBackend(crashes)
        supervisor = Supervisor(backend=cast("Backend", backend), poll_s=0, delay_s=0.001, **options)
        task = asyncio.create_task(supervisor.run())
        while not (supervisor.gave_up or task.done()):
            await asyncio.sleep(0)
        backend.ended.set()
        await task
        return supervisor, backend.restarts

    return asyncio.run(run())


def test_each_restart_waits_twice_as_long(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, restarts = supervise(3)
    assert (supervisor.gave_up, restarts) == (False, 3)
    assert [message.rpartition(" in ")[2] for message in caplog.messages] == ["0.001 s", "0.002 s", "0.004 s"]


def test_after_three_restarts_the_server_stays_down(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, restarts = supervise(10)
    assert (supervisor.gave_up, restarts) == (True, 3)
    assert caplog.messages[-1] == (
        "the worker has crashed again; 3 restarts within 60 minutes did not help, so the server must be started again"
    )


def test_restarts_of_long_ago_do_not_count() -> None:
    supervisor, restarts = supervise(10, window_s=0)
    assert (supervisor.gave_up, restarts) == (False, 10)
