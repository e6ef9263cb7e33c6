"""A pool of processes and their directory, any of which can be killed; another takes its place."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from extmem.handles.winerror import code_of
from tests.support.directory import Place, gone, services_of
from tests.support.nursery import Nursery, Peer, open_nursery

__all__ = ["LOST", "Pool", "open_pool"]

LOST = 1722  # RPC_S_SERVER_UNAVAILABLE
_CHECKS = ("full", "full", "off", "off")


class Pool:
    """The processes and their directory. Those that are killed are replaced."""

    def __init__(self, place: Place, nursery: Nursery) -> None:
        self.nursery = nursery
        self.folder = place.folder
        self.kernel = place.kernel()
        self.service = self.kernel.status().process_id
        self.peers = [nursery.spawn(checks) for checks in _CHECKS]
        self.killed: Counter[str] = Counter()

    def replace(self, peer: Peer) -> None:
        """A fresh one for one that was killed just now."""
        self.nursery.bury(peer)
        self.killed["processes"] += 1
        self.peers[self.peers.index(peer)] = self.nursery.spawn(peer.checks)

    def kill_directory(self) -> None:
        os.kill(self.service, signal.SIGKILL)
        assert gone(self.service)
        self.killed["directories"] += 1

    def meet_directory(self) -> None:
        """Whoever comes first starts the next one."""
        try:
            self.kernel.status()
        except OSError as error:
            assert code_of(error) == LOST, error  # noqa: PT017
        before, self.service = self.service, self.kernel.status().process_id
        assert before != self.service

    def renew(self) -> None:
        """Begin again after a failure, whatever there is."""
        for peer in self.peers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(peer.pid, signal.SIGKILL)
        for service in services_of(self.folder):
            os.kill(service, signal.SIGKILL)
            assert gone(service)
        for _ in range(2):
            try:
                self.service = self.kernel.status().process_id
            except OSError:
                continue
        for peer in self.peers:
            self.nursery.forget(peer)
        self.peers = [self.nursery.spawn(checks) for checks in _CHECKS]

    def close(self) -> None:
        for peer in self.peers:
            self.nursery.dismiss(peer)
        assert self.nursery.children() == []


@contextmanager
def open_pool(place: Place) -> Iterator[Pool]:
    with open_nursery(place.environment) as nursery:
        pool = Pool(place, nursery)
        yield pool
        pool.close()
