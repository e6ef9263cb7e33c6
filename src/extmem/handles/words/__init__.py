"""Numbers in shared pages that several processes read, change and wait for.

`word.py` says what a word is; `futex.py` has it for Linux, `events.py` for Windows. `pages.py` has
the pages that words live in, `holds.py` what tells others that a process still lives.
"""

from __future__ import annotations

import sys

from extmem.handles.words.holds import Hold
from extmem.handles.words.pages import Pages
from extmem.handles.words.word import PATIENCE, SLICE, WORD_SIZE

if sys.platform == "win32":
    from extmem.handles.words.events import Watcher, Word
else:
    from extmem.handles.words.futex import Watcher, Word

__all__ = ["PATIENCE", "SLICE", "WORD_SIZE", "Hold", "Pages", "Watcher", "Word"]
