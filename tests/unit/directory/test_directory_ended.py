"""What the embedded device does with its memory when the directory was killed under it."""

from __future__ import annotations

import os
import signal

import pytest

import extmem
from extmem import vk, win32
from extmem.handles.system import kernel
from extmem.handles.winerror import code_of
from tests.support import second
from tests.support.directory import Place, gone
from tests.support.leaks import held
from tests.support.second import Channel
from tests.support.sharing import INVALID, KMT, NT, UNKNOWN, Gpu, assert_shared, terms, use_once


def _outlive(channel: Channel, first: str) -> None:
    """first: which call finds out"""
    use_once()
    before = held()["bytes of shared mappings"]
    with Gpu("off") as gpu, Gpu("off") as other:
        named = gpu.export(NT, terms(name="Local\\x"))  # its handle is the device's, to the end
        handle = gpu.get(fetched := gpu.export(NT), NT)
        number = gpu.get(numbered := gpu.export(KMT), KMT)
        pairs = [
            (named, other.take_name("Local\\x")),
            (fetched, other.take(handle, NT)),
            (numbered, other.take(number, KMT)),
        ]
        service = kernel().status().process_id  # type: ignore[attr-defined]
        os.kill(service, signal.SIGKILL)
        assert gone(service)
        calls = {
            "close": lambda: win32.CloseHandle(handle),
            "fetch": lambda: gpu.get(named, NT),
            "import": lambda: other.take(number, KMT),
        }
        if first == "free":
            gpu.free(named)
            del pairs[0]
        elif first in calls:
            with pytest.raises((OSError, extmem.DriverError)):
                calls[first]()
        for _ in range(2):  # with the first, who asks is told; with the second, another answers
            for mine, theirs in pairs:
                assert_shared((gpu, mine), (other, theirs))
        with pytest.raises(OSError, match="the directory") as closing:
            win32.CloseHandle(handle)
        assert code_of(closing.value) == 6
        for memory, handle_type in ((numbered, KMT), *([(named, NT)] if first != "free" else [])):
            with pytest.raises(extmem.DriverError) as fetching:
                gpu.get(memory, handle_type)
            assert fetching.value.result == UNKNOWN
        with pytest.raises(extmem.DriverError) as importing:
            other.take(number, KMT)
        assert importing.value.result == INVALID
        gpu.free(numbered)  # which its importers are told, as always
        with pytest.raises(extmem.DriverError) as mapping:
            other.read(pairs[-1][1], 1)
        assert mapping.value.result == vk.VK_ERROR_MEMORY_MAP_FAILED
        again = gpu.export(NT, terms(name="Local\\x"))
        assert_shared((gpu, again), (other, other.take_name("Local\\x")))
    assert held()["bytes of shared mappings"] == before


@pytest.mark.parametrize("first", ["map", "free", "close", "fetch", "import"])
def test_memory_outlives_the_directory(place: Place, first: str) -> None:
    with second.start(_outlive, environment=place.environment, first=first) as other:
        other.result()
