"""Which machine this is, and since when it runs: handles mean nothing beyond either.

The identity is a hash, so that a passport that gets about tells nobody the machine's own number.
"""

from __future__ import annotations

import functools
import hashlib
import sys

__all__ = ["boot", "machine"]

_LENGTH = 16  # bytes


@functools.cache
def machine() -> bytes:
    """The same in every process of this machine, and of none else as far as can be told.

    >>> len(machine())
    16
    """
    return _hashed("machine", _machine_number())


@functools.cache
def boot() -> bytes:
    """The same from one start of the machine to the next; zeros where the system does not tell."""
    number = _boot_number()
    return _hashed("boot", number) if number else bytes(_LENGTH)


def _hashed(what: str, number: str) -> bytes:
    return hashlib.blake2s(f"extmem {what} {number}".encode(), digest_size=_LENGTH).digest()


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _network_number() -> str:
    import uuid  # slow to import, and hardly ever needed

    return f"{uuid.getnode():x}"


def _machine_number() -> str:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography"
            ) as key:
                return str(winreg.QueryValueEx(key, "MachineGuid")[0])
        except OSError:
            return _network_number()
    # A container may lack the file. The boot number, which it shares with its host, tells machines
    # apart as well while they run.
    return _read("/etc/machine-id") or _boot_number() or _network_number()


def _boot_number() -> str:
    if sys.platform == "win32":
        return ""  # there is no such number; what is shared ends with the session anyway
    return _read("/proc/sys/kernel/random/boot_id")
