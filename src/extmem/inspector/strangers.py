"""Connections of whom it is not known yet whether they have the secret: few, and for a short time.

Any user of the machine can connect. Who says nothing, or says it slowly, would keep the owner
out: so each gets a few seconds to ask with the secret, and of too many the oldest has to go.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Strangers"]

MOST = 64  # at the same time
PATIENCE = 5.0  # seconds that each gets


class Strangers:
    """Those who have not shown the secret. For the thread of the loop alone."""

    def __init__(self, most: int = MOST, patience: float = PATIENCE) -> None:
        self._most = most
        self._patience = patience
        self._found: dict[Any, tuple[asyncio.BaseTransport, asyncio.TimerHandle]] = {}

    def came(self, transport: asyncio.Transport) -> None:
        """Somebody has connected."""
        if len(self._found) >= self._most:
            oldest, timer = self._found.pop(next(iter(self._found)))
            timer.cancel()
            _abort(oldest)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._patience, _abort, transport)
        self._found[_address(transport)] = transport, timer

    def known(self, address: Any) -> None:
        """This one has the secret, or is gone."""
        found = self._found.pop(address, None)
        if found is not None:
            found[1].cancel()

    def protocol(self) -> type[H11Protocol]:
        """What speaks HTTP with them."""
        strangers = self

        class Watched(H11Protocol):
            _address: Any = None  # a connection that is lost has none

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                self._address = _address(transport)
                strangers.came(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                strangers.known(self._address)
                super().connection_lost(exc)

        return Watched


def _address(transport: asyncio.BaseTransport) -> Any:
    """What a request says of whom it is: no two connections have the same at a time."""
    found = transport.get_extra_info("peername")
    return None if found is None else (str(found[0]), int(found[1]))


def _abort(transport: asyncio.BaseTransport) -> None:
    assert isinstance(transport, asyncio.WriteTransport)
    transport.abort()
