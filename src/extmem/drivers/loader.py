"""The system's Vulkan driver: through the Vulkan loader, or an ICD library opened directly."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from extmem.drivers.driver import Command
from extmem.errors import DriverNotFound
from extmem.vk._prototype import Prototype

__all__ = ["LOADER_NAMES", "SystemDriver"]

LOADER_NAMES = ("vulkan-1.dll",) if sys.platform == "win32" else ("libvulkan.so.1", "libvulkan.so")

# The loader reads these when an instance is made or its extensions are listed. The first is the
# newer name; older loaders know only the second.
_MANIFEST_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")

_ICD_INTERFACE_VERSION = 5  # what this package knows of the loader-to-driver interface

if sys.platform == "win32":
    _function_type = ctypes.WINFUNCTYPE
else:
    _function_type = ctypes.CFUNCTYPE

_environment = threading.RLock()


class SystemDriver:
    """A real driver.

    `path` is None for whatever the system's loader finds, an ICD manifest (`.json`) for one
    driver through the loader, or a library: the loader itself, or an ICD opened without it.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.name = "system" if path is None else path
        self._manifest: str | None = None
        if path is not None and path.endswith(".json"):
            if not os.path.isfile(path):
                raise DriverNotFound(f"there is no driver manifest {path}")
            self._manifest = os.path.abspath(path)
            path = None
        if path is not None and not os.path.isfile(path):
            raise DriverNotFound(
                f"there is no driver {path}: give an ICD manifest (.json), a driver's library, "
                "'system' or 'embedded'"
            )
        library, self.origin = _open([path] if path is not None else list(LOADER_NAMES))
        self._library = library
        if self._manifest is not None:
            self.origin = f"{self._manifest} through {self.origin}"
        self._get = _entry(library, self.origin)
        self._kept: list[Any] | None = None  # libraries that must stay loaded

    def __repr__(self) -> str:
        return f"<SystemDriver {self.name} ({self.origin})>"

    def carries(self, instance: int, physical: int) -> Mapping[str, str]:
        return {}  # all that it offers is its own

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        command = self._function(self._get(None, spelling.encode()), prototype)
        if command is None:
            return None

        def through_the_loader(*arguments: Any) -> Any:
            with self._only_this_manifest() if self._manifest else nullcontext():
                result = command(*arguments)
            if spelling == "vkCreateInstance" and result == 0:
                self._keep_loaded()
            return result

        return through_the_loader

    def _keep_loaded(self) -> None:
        """Hold on to the libraries that the first instance brought, for the life of the process.

        The loader unloads a driver with its last instance and loads it again with the next. Some
        drivers do not survive that often: NVIDIA's fails to load after some tens of times.
        """
        if self._kept is None:
            self._kept = [ctypes.CDLL(path) for path in _libraries() if path not in _at_start]

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        return self._function(self._get(instance, spelling.encode()), prototype)

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        address = self._get(instance, b"vkGetDeviceProcAddr")
        if not address:
            return None
        get = _function_type(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(address)
        return self._function(get(device, spelling.encode()), prototype)

    def _function(self, address: int | None, prototype: Prototype) -> Command | None:
        if not address:
            return None
        return _function_type(prototype.restype, *prototype.argtypes)(address)

    @contextmanager
    def _only_this_manifest(self) -> Iterator[None]:
        # There is no other way with loaders before 1.3.243: the choice travels in the
        # environment. It is put back at once, and one thread at a time does this.
        assert self._manifest is not None
        with _environment:
            before = {name: os.environ.get(name) for name in _MANIFEST_VARIABLES}
            for name in _MANIFEST_VARIABLES:
                os.environ[name] = self._manifest
            try:
                yield
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


def _libraries() -> list[str]:
    """The shared libraries that are mapped now (Linux; nothing elsewhere)."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    except OSError:
        return []
    return sorted(path for path in paths if ".so" in path and os.path.isfile(path))


# Libraries that were there before any driver need no holding.
_at_start = frozenset(_libraries())


def _open(candidates: list[str]) -> tuple[Any, str]:
    problems = []
    for candidate in candidates:
        try:
            return ctypes.CDLL(candidate), candidate
        except OSError as error:
            problems.append(str(error))
            if os.path.isfile(candidate):  # somebody named this file
                raise DriverNotFound(
                    f"{candidate} cannot be loaded as a driver ({error}): give an ICD manifest "
                    "(.json), a driver's library of this system, 'system' or 'embedded'"
                ) from None
    raise DriverNotFound(
        f"no Vulkan loader here ({'; '.join(problems)}): install one (Debian and Ubuntu: "
        "libvulkan1, and mesa-vulkan-drivers for a software driver), or use driver='embedded'"
    )


def _entry(library: Any, origin: str) -> Any:
    """The function that finds all others, of a loader or of an ICD."""
    get_type = _function_type(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    negotiate = getattr(library, "vk_icdNegotiateLoaderICDInterfaceVersion", None)
    if negotiate is not None:
        version = ctypes.c_uint32(_ICD_INTERFACE_VERSION)
        negotiate(ctypes.byref(version))
    for symbol in ("vk_icdGetInstanceProcAddr", "vkGetInstanceProcAddr"):
        found = getattr(library, symbol, None)
        if found is not None:
            return get_type(ctypes.cast(found, ctypes.c_void_p).value or 0)
    raise DriverNotFound(f"{origin} is neither a Vulkan loader nor a Vulkan driver")
