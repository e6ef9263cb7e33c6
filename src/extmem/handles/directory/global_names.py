"""Requests for Global\\ names: first other users' directories are asked; the rest comes later."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from extmem.handles import names, winerror
from extmem.handles.directory import foreign, requests
from extmem.handles.directory import protocol as p
from extmem.handles.directory.accounts import Account
from extmem.handles.directory.connection import Connection
from extmem.handles.directory.state import State
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["GlobalNames"]

log = logging.getLogger("extmem.directory")


class Loop(Protocol):
    """What is needed of the service."""

    def at(self, seconds: float, call: Callable[[], None]) -> None: ...
    def watch(self, sock: socket.socket, call: Callable[[], None]) -> None: ...
    def unwatch(self, sock: socket.socket) -> None: ...
    def read(self, connection: Connection) -> None: ...
    def end(self, connection: Connection, why: str) -> None: ...
    def answer(self, account: Account, request: p.Request, fd: int | None) -> requests.Answer: ...


class GlobalNames:
    """The questions that are under way."""

    def __init__(self, service: Loop, state: State, uid: int, own_name: str) -> None:
        self._service, self._state, self._uid, self._own_name = service, state, uid, own_name

    def asks_others(self, connection: Connection, request: p.Request, fd: int | None) -> bool:
        """Whether other users' directories have to be asked first; the answer comes later then."""
        if not isinstance(request, p.CreateSection | p.Share | p.OpenNamed) or not request.name:
            return False
        name = names.canonical(names.checked(p.unpack_text(request.name)) or "")
        if not name.startswith("Global\\"):
            return False
        sockets = foreign.others(self._own_name)
        if not sockets:
            return False
        mine = self._state.names.find(name)
        if mine is not None and not isinstance(request, p.OpenNamed):
            return False  # it is taken, whoever else has it
        packed = p.pack_text(name)
        question: p.Find | p.Borrow = p.Find(packed)
        if isinstance(request, p.OpenNamed) and mine is None:
            question = p.Borrow(request.kind, packed, request.access)
        self._service.unwatch(connection.sock)  # one request after the other
        lookup = foreign.Lookup(
            question,
            sockets,
            self._service.watch,
            self._service.unwatch,
            lambda answers: self._others_said(connection, request, fd, name, answers),
        )
        self._service.at(self._state.limits.foreign_seconds, lookup.give_up)
        lookup.begin()
        return True

    def _others_said(
        self,
        connection: Connection,
        request: p.CreateSection | p.Share | p.OpenNamed,
        fd: int | None,
        name: str,
        answers: list[foreign.Answer],
    ) -> None:
        """Go on with a request for a Global\\ name."""
        try:
            account = connection.account
            if connection.closed or account is None or account.ended:
                return
            try:
                reply, out = self._settle(account, request, fd, name, answers)
                if isinstance(request, p.Share):
                    fd = None
            except OSError as error:
                reply, out = p.failed(error), None
            except p.Malformed as error:
                self._service.end(connection, str(error))
                return
            except Exception:
                log.exception("a mistake in the directory, while it served %s", connection)
                reply, out = p.failed(failure(winerror.INTERNAL_ERROR, "cannot serve this")), None
            self._service.watch(connection.sock, partial(self._service.read, connection))
            try:
                connection.reply(reply, out)
            except OSError as error:
                self._service.end(connection, str(error))
        finally:
            if fd is not None:
                os.close(fd)
            for answer in answers:
                answer.give_back()

    def _settle(
        self,
        account: Account,
        request: p.CreateSection | p.Share | p.OpenNamed,
        fd: int | None,
        name: str,
        answers: list[foreign.Answer],
    ) -> requests.Answer:
        mine = self._state.names.find(name)
        users = [f"user {each.uid}" for each in answers]
        if mine is not None:
            users.insert(0, f"user {self._uid}")
        if not isinstance(request, p.OpenNamed):
            if answers:
                reply = answers[0].reply
                whose = users[-1]
                if isinstance(reply, p.Holder):
                    whose += f", process {reply.process_id} ({reply.command}),"
                asked = f"cannot make {name!r}"
                raise failure(winerror.ALREADY_EXISTS, asked, f"the name is taken: {whose} has it")
            return self._service.answer(account, request, fd)
        asked = f"cannot open {request.kind.lower()} {name!r}"
        if len(users) > 1:
            why = f"{' and '.join(users)} have that name, and nothing tells which is meant"
            raise failure(winerror.DUP_NAME, asked, why)
        if mine is not None or not answers:
            return self._service.answer(account, request, fd)
        if isinstance(answers[0].reply, p.Failed):
            code, text = answers[0].reply.code, answers[0].reply.text
            why = text.removeprefix(f"{asked}: ").removesuffix(f" (Windows error {code})")
            raise failure(code, asked, f"user {answers[0].uid}, whose it is, refuses: {why}")
        request = msgspec.structs.replace(request, name=p.pack_text(name))
        item, access, record = foreign.install(answers[0], request, account, asked)
        try:
            return p.Number(self._state.borrow(account, item, access, record)), None
        finally:
            if not item.handles:
                item.end()
