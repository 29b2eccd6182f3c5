"""HTTP/1.1 connections with limits: clients that send or read slowly cannot occupy the gateway."""

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """A request head must be complete after `head_s` seconds, its body after `body_s`, and what is written must be read
    after `write_s`; otherwise the connection is closed."""

    head_s: float = 10.0
    body_s: float = 130.0
    """Longer than the gateway's own limit, whose answer explains it."""
    write_s: float = 60.0
    keep_alive_s: int = 5
    max_head_bytes: int = 32 << 10
    max_connections: int = 128


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol within `limits`. Where there are `max_connections`, a new one closes the one that has waited
    longest for its request."""

    def __init__(self, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self.limits = limits
        self.awaited: object = None
        self.receive_timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` follows each write that is not read at once
        if len(self.connections) >= self.limits.max_connections:
            self.close_slowest()
        self.watch_receiving()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch_receiving()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.watch_receiving()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_timer = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        cancel(self.write_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        cancel(self.receive_timer)
        cancel(self.write_timer)
        self.receive_timer = None
        super().connection_lost(exc)

    def watch_receiving(self) -> None:
        """Start the timer of a head or a body when that is awaited, and stop it when that is complete."""
        seconds: dict[object, float] = {h11.IDLE: self.limits.head_s, h11.SEND_BODY: self.limits.body_s}
        awaited = self.conn.their_state
        if awaited is self.awaited:
            return
        self.awaited = awaited
        cancel(self.receive_timer)
        self.receive_timer = (
            self.loop.call_later(seconds[awaited], self.transport.close) if awaited in seconds else None
        )

    def close_slowest(self) -> None:
        """Close the connection whose time to receive ends first."""
        ours = [each for each in self.connections if isinstance(each, BoundedProtocol)]
        waiting = {each.receive_timer.when(): each for each in ours if each.receive_timer is not None}
        if waiting:
            waiting[min(waiting)].transport.abort()


def cancel(timer: asyncio.TimerHandle | None) -> None:
    """Stop a timer, if there is one."""
    if timer is not None:
        timer.cancel()
