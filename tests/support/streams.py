"""What tests of streams begin with: a name of their own, publishers and subscriptions of it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import extmem
from extmem.share import slots, stream, subscribing

__all__ = ["PATIENCE", "Publish", "Subscribe", "fresh_name", "publisher_of", "subscriber_of"]

PATIENCE = 60.0  # seconds for what comes at once on a machine with nothing else to do

Publish = Callable[..., stream.Stream]
Subscribe = Callable[..., subscribing.Subscription]


@contextmanager
def fresh_name() -> Iterator[str]:
    """A stream's name that nobody else has."""
    chosen = f"test-{secrets.token_hex(6)}"
    yield chosen
    if sys.platform != "win32":  # a publisher that was killed leaves its socket's file
        from extmem.handles.directory.folder import where

        (where() / f"channel-{slots.listener_name(chosen)}.sock").unlink(missing_ok=True)


@contextmanager
def publisher_of(gpu: extmem.Device, name: str, **usual: Any) -> Iterator[Publish]:
    """Publishes under the name; what it is told is more than the usual."""
    with ExitStack() as made:
        yield lambda **options: made.enter_context(
            extmem.publish(name, **{"device": gpu, **usual, **options})
        )


@contextmanager
def subscriber_of(name: str) -> Iterator[Subscribe]:
    """Subscribes on a device of its own: one queue does everything in order, whoever asks."""
    with ExitStack() as made:
        opened = made.enter_context(extmem.open_device(driver="embedded"))
        yield lambda **options: made.enter_context(
            extmem.subscribe(name, **{"timeout": PATIENCE, "device": opened, **options})
        )
