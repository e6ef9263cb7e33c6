"""Stand-ins for what other APIs make: D3D11 textures with or without a keyed mutex, D3D12 heaps,
resources and fences.

They are sections with a label, made by nobody's graphics API: no texture unit, no swizzle, no
driver. With them the whole way of a foreign handle (ask for its memory types, import, bind, use)
runs and can be tested on every system.

>>> with texture11(size=4096) as texture:
...     texture.view[:3] = b"rgb"      # what D3D11 would have drawn
...     texture.handle % 4, texture.kmt, texture.size
(0, 0, 4096)
"""

from __future__ import annotations

import ctypes
import weakref
from types import TracebackType
from typing import Any, Self

from extmem.drivers.embedded import sections, shared_signals
from extmem.drivers.embedded.keyed_mutex import ABANDONED, INFINITE, TIMEOUT, KeyedMutex
from extmem.drivers.embedded.labels import Label
from extmem.drivers.embedded.limits import HEAP_SIZE, IDENTITIES
from extmem.drivers.embedded.payload import Contents, Terms
from extmem.drivers.embedded.sections import Section
from extmem.drivers.embedded.titles import SEMAPHORE, Title
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.vk import _constants as c

__all__ = [
    "INFINITE",
    "WAIT_ABANDONED",
    "WAIT_TIMEOUT",
    "Fence12",
    "Foreign",
    "fence12",
    "heap12",
    "resource12",
    "texture11",
]

_TEXTURE11 = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)
_HEAP12 = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
_RESOURCE12 = int(c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE_BIT)

_FENCE12 = int(c.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT)

WAIT_ABANDONED, WAIT_TIMEOUT = ABANDONED, TIMEOUT  # as Windows' headers have them

_DEVICE_LOCAL = 0b001  # memory type 0, where such resources live


class Foreign:
    """One resource of another API. It lives until `close`, and for as long as others hold it."""

    def __init__(self, section: Section, what: str, name: str | None) -> None:
        self._section = section
        self._array: weakref.ref[Any] | None = None
        self._what = what
        self.name = name  # what it can be opened by, None if it has no name
        self.kmt = section.label.kmt  # its number, 0 if it has an NT handle
        self.keyed_mutex = section.label.keyed_mutex
        self.memory_types = section.label.memory_types  # as a mask
        self.size = section.size  # bytes

    @property
    def closed(self) -> bool:
        """Whether it has been released."""
        return not self._section.address

    @property
    def handle(self) -> int:
        """Its NT handle, which stays its own: duplicate it to keep one. 0 if it has a number."""
        return 0 if self.kmt else self._section.handle

    @property
    def view(self) -> memoryview:
        """Its bytes, as the API that made it reads and writes them."""
        if self.closed:
            raise ValueError(f"this {self._what} is closed")
        array = self._array() if self._array is not None else None
        if array is None:
            made: Any = (ctypes.c_ubyte * self.size).from_address(self._section.address)
            self._array, array = weakref.ref(made), made
        return memoryview(array).cast("B")

    # -- IDXGIKeyedMutex ------------------------------------------------------------------------

    def acquire(self, key: int, timeout_ms: int = INFINITE) -> int:
        """AcquireSync: 0 (S_OK), WAIT_TIMEOUT or WAIT_ABANDONED, after so many milliseconds.

        >>> with texture11(size=64, keyed_mutex=True) as texture:
        ...     answers = [texture.acquire(0), texture.release(7), texture.acquire(0, 10)]
        ...     answers == [0, None, WAIT_TIMEOUT], texture.acquire(7)
        (True, 0)
        """
        return self._mutex().acquire(key, timeout_ms)

    def release(self, key: int) -> None:
        """ReleaseSync: to whoever acquires it with this key. ValueError if it is not ours."""
        self._mutex().release(key)

    def _mutex(self) -> KeyedMutex:
        if self.closed:
            raise ValueError(f"this {self._what} is closed")
        if self._section.mutex is None:
            raise ValueError(f"this {self._what} was made without a keyed mutex")
        return self._section.mutex

    def close(self) -> None:
        """Release it. Handles that were duplicated from its own, and NT imports, keep the bytes."""
        if self._array is not None and self._array() is not None:
            raise BufferError(f"something still looks at the bytes of this {self._what}")
        self._section.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<stand-in for a {self._what}, closed>"
        by = f"KMT {self.kmt:#x}" if self.kmt else f"handle {self.handle:#x}"
        return f"<stand-in for a {self._what}, {self.size} bytes, {by}>"


def _made(
    what: str,
    kind: int,
    size: int,
    *,
    name: str | None = None,
    kmt: bool = False,
    keyed_mutex: bool = False,
    memory_types: int,
    device: int,
    access: int = ACCESS_ALL,
    security: Security | None = None,
) -> Foreign:
    if not 0 < size <= HEAP_SIZE:
        raise ValueError(f"a {what} of {size} bytes; expected 1 to {HEAP_SIZE}")
    if kmt and (name or security):
        raise ValueError("names and security belong to NT handles; a KMT number has neither")
    contents = Contents(size, 0, IDENTITIES[device].uuid)
    label = Label(kind, memory_types, keyed_mutex)
    if kmt:
        return Foreign(sections.make_kmt(contents, label), what, None)
    section = sections.make(contents, label, name, security)
    try:
        if access != ACCESS_ALL:
            sections.narrow(section, access, security)
    except OSError:
        section.close()
        raise
    return Foreign(section, what, name)


def texture11(
    *,
    size: int,  # bytes
    name: str | None = None,
    kmt: bool = False,  # a number instead of an NT handle
    keyed_mutex: bool = False,  # made with SHARED_KEYEDMUTEX
    memory_types: int = _DEVICE_LOCAL,  # that it can be imported as, a mask
    device: int = 0,  # the embedded physical device that it lives on
    access: int = ACCESS_READ | ACCESS_WRITE,  # that its NT handle grants
    security: Security | None = None,
) -> Foreign:
    """A D3D11 texture that was made to be shared."""
    return _made(
        "D3D11 texture",
        _TEXTURE11,
        size,
        name=name,
        kmt=kmt,
        keyed_mutex=keyed_mutex,
        memory_types=memory_types,
        device=device,
        access=access,
        security=security,
    )


def heap12(
    *,
    size: int,
    name: str | None = None,
    memory_types: int = _DEVICE_LOCAL,
    device: int = 0,
    security: Security | None = None,
) -> Foreign:
    """A D3D12 heap that was made to be shared, for buffers."""
    return _made(
        "D3D12 heap",
        _HEAP12,
        size,
        name=name,
        memory_types=memory_types,
        device=device,
        security=security,
    )


def resource12(
    *,
    size: int,
    name: str | None = None,
    memory_types: int = _DEVICE_LOCAL,
    device: int = 0,
    security: Security | None = None,
) -> Foreign:
    """A committed D3D12 resource that was made to be shared."""
    return _made(
        "D3D12 resource",
        _RESOURCE12,
        size,
        name=name,
        memory_types=memory_types,
        device=device,
        security=security,
    )


class Fence12:
    """A shared fence of D3D12: a counter, which may also go back."""

    def __init__(self, shared: shared_signals.Shared, name: str | None) -> None:
        self._shared = shared
        self.name = name  # what it can be opened by, None if it has no name

    @property
    def handle(self) -> int:
        """Its NT handle, which stays its own: duplicate it to keep one. 0 once closed."""
        return self._shared.handle

    @property
    def value(self) -> int:
        """GetCompletedValue."""
        return self._shared.value()

    def signal(self, value: int) -> None:
        """Signal, from the host."""
        self._shared.signal(value)

    def wait(self, value: int, timeout: float | None = None) -> bool:
        """Sleep until it has this value or a greater one; False if the seconds passed before."""
        return self._shared.word.wait(value.__le__, timeout)

    def close(self) -> None:
        """Release it. Handles that were duplicated from its own, and imports, keep it."""
        self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self.handle:
            return "<stand-in for a D3D12 fence, closed>"
        return f"<stand-in for a D3D12 fence, at {self.value}, handle {self.handle:#x}>"


def fence12(
    value: int = 0,
    name: str | None = None,
    *,
    device: int = 0,
    security: Security | None = None,
) -> Fence12:
    """A D3D12 fence that was made to be shared.

    >>> with fence12(3) as fence:
    ...     fence.signal(5)
    ...     fence.value, fence.wait(4), fence.wait(6, timeout=0)
    (5, True, False)
    """
    title = Title(SEMAPHORE, _FENCE12, IDENTITIES[device].uuid)
    terms = Terms(name, ACCESS_ALL, security)
    return Fence12(shared_signals.create_nt(title, value, True, terms), name)
