"""A service behind a socket: it begins, and when it is told to end it lets what runs finish."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Literal

import uvicorn

from dsv4.server.app import create_app
from dsv4.server.service import Service

IDLE = 75  # seconds that a connection may be silent between two requests


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound. Raises OSError that says where it could not be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise OSError(
            f"cannot listen at {host}:{port} ({why or error}): take another --port or --host"
        ) from error


class Server(uvicorn.Server):
    """Uvicorn's, whose end is the engine's: replies get `grace` seconds, then they are failed."""

    def __init__(
        self,
        service: Service,
        grace: float = 30.0,
        began: Callable[[Sequence[str]], None] = lambda urls: None,
        http: Literal["auto", "h11", "httptools"] = "auto",
    ):
        config = uvicorn.Config(
            create_app(service),
            http=http,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=int(grace) + 10,  # after the engine's
        )
        super().__init__(config)
        self._service, self._grace, self._began = service, grace, began

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._began(self.urls)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and end the engine while those that are open finish."""
        engine = asyncio.to_thread(self._service.engine.close, self._grace)
        await asyncio.gather(super().shutdown(sockets), engine)

    @property
    def urls(self) -> list[str]:
        """Where it listens."""
        found = [sock.getsockname() for server in self.servers for sock in server.sockets]
        return [
            f"http://{f'[{name[0]}]' if ':' in name[0] else name[0]}:{name[1]}" for name in found
        ]
