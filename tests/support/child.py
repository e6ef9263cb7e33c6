"""The main program of a second process; `second.py` starts it."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from tests.support.second import Channel
from tests.support.wire import Wire


class _Home(Channel):
    """To the test: what the function sends is told apart from how it ends."""

    def send(self, message: Any, fds: Sequence[int] = (), kind: str = "message") -> None:
        super().send([kind, message], fds)


def main() -> int:
    number, pid, module, name, arguments = sys.argv[1:]
    with Wire.inherited(int(number)) as wire:
        home = _Home(wire, int(pid))
        try:
            function = getattr(importlib.import_module(module), name)
            result = function(home, **json.loads(arguments))
        except BaseException:
            home.send(traceback.format_exc()[-60000:], kind="error")
            return 1
        home.send(result, kind="result")
    return 0


if __name__ == "__main__":
    sys.exit(main())
