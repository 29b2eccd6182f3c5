"""Cog's server as the gateway's child process, on a loopback port."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from src.serving.cog.environment import free_port, server_environment
from src.serving.temp_dirs import OwnedDir, compiler_cache

LAUNCHER = Path(__file__).with_name("coglet.py")
STOP_WAIT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
HEALTH_TIMEOUT_S = 5.0


@dataclass(slots=True, kw_only=True)
class Backend:
    """Cog's server for the predictor in `folder`; all its temporary files are in `temp_dir`."""

    folder: Path
    predictor: str
    temp_dir: OwnedDir
    env: Mapping[str, str]
    upload_url: str | None = None
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process = field(init=False)
    client: httpx2.AsyncClient = field(init=False)

    async def start(self) -> None:
        """Start the process; it answers a moment later."""
        await self._start_process()
        self.client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def restart(self) -> None:
        """End the process and start another one on the same port."""
        await self._end_process()
        await self._start_process()

    async def _start_process(self) -> None:
        upload = [self.upload_url] if self.upload_url else []
        arguments = [self.predictor, str(self.port), str(self.temp_dir.path), *upload]
        environment = server_environment(
            self.predictor, self.port, {**self.env, **compiler_cache(), "TMPDIR": str(self.temp_dir.path)}
        )
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(LAUNCHER), *arguments),
            cwd=self.folder,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            process_group=0,  # a terminal's Ctrl-C reaches only the gateway, which waits for predictions
            pass_fds=(self.temp_dir.fd,),  # so that it holds the folder's lock, should the gateway be killed
        )

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """The response with its body unread; the caller closes it. Cancelling closes the connection, which cancels the
        prediction."""
        request = self.client.build_request(method, path, content=body, headers=headers)
        return await self.client.send(request, stream=True)

    async def health(self) -> dict[str, Any]:
        """Cog's own account of its state; STARTING until it answers."""
        try:
            response = await self.client.get("/health-check", timeout=HEALTH_TIMEOUT_S)
            health: dict[str, Any] = response.json()
        except (httpx2.HTTPError, ValueError):
            return {"status": "STARTING"}
        return health

    async def has_crashed(self) -> bool:
        """Whether Cog's worker process has ended: Cog then answers 409 to every prediction, for ever."""
        return "channel closed" in str((await self.health()).get("user_healthcheck_error"))

    async def stop(self) -> int:
        """End the process: asked first, forced after STOP_WAIT_S. Returns its exit status."""
        await self.client.aclose()
        return await self._end_process()

    async def _end_process(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), STOP_WAIT_S)
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()
