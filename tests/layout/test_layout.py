"""Every structure in scope lies in memory as the C compiler lays it, on Linux and for Windows.

A C file puts size, alignment and every member's offset of every structure, and the value of every
constant, into one section of an object file. The section is read back from the object, so that
what was compiled for Windows is compared without Windows.
"""

from __future__ import annotations

import enum
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from extmem.vk import _constants
from tests.layout.facts import facts, structures
from tests.layout.header import PROLOGUE, write_header
from tests.support.strict import missing

COMPILERS = {"linux": ("gcc", "objcopy"), "windows": ("x86_64-w64-mingw32-gcc",) * 2}
DISTRIBUTION = Path("/usr/include/vulkan")


def compiler(system: str) -> tuple[str, str]:
    """The compiler and objcopy for a system."""
    name = COMPILERS[system][0]
    if shutil.which(name) is None:
        missing(f"{name} (package gcc-mingw-w64-x86-64)" if system == "windows" else name)
    return name, name.replace("gcc", "objcopy")


def c_facts(name: str, cls: Any) -> str:
    """The same facts as C expressions."""
    offsets = [f"offsetof({name}, {field[0]})" for field in cls._fields_]
    return ", ".join([f"sizeof({name})", f"_Alignof({name})", *offsets])


def compiled(
    system: str, folder: Path, include: str, rows: list[str], flags: tuple[str, ...] = ()
) -> list[int]:
    """The values of C expressions, from an object file compiled for a system."""
    gcc, objcopy = compiler(system)
    source = folder / f"layout_{system}.c"
    table = ",\n".join(rows)
    source.write_text(
        f"{include}\n"
        '__attribute__((section(".layout"), used))\n'
        f"const long long layout[] = {{\n{table}\n}};\n"
    )
    obj, binary = source.with_suffix(".o"), source.with_suffix(".bin")
    command = [gcc, "-std=gnu11", "-I", str(folder), *flags, "-c", str(source), "-o", str(obj)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    subprocess.run(
        [objcopy, "-O", "binary", "--only-section=.layout", str(obj), str(binary)], check=True
    )
    data = binary.read_bytes()
    return list(struct.unpack(f"<{len(data) // 8}q", data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("layout")
    write_header(made)
    return made


def compare(names: dict[str, Any], values: list[int]) -> None:
    position = 0
    wrong = []
    for name, cls in names.items():
        ours = facts(cls)
        theirs = values[position : position + len(ours)]
        position += len(ours)
        if ours != theirs:
            wrong.append(f"{name}: ctypes {ours}, C {theirs}")
    assert not wrong, "\n".join(wrong)
    # Compilers may pad the section, never cut it.
    assert len(values) >= position


@pytest.mark.parametrize("system", COMPILERS)
def test_every_structure_lies_as_the_c_compiler_lays_it(system: str, folder: Path) -> None:
    names = structures()
    assert len(names) > 250
    rows = [c_facts(name, cls) for name, cls in names.items()]
    compare(names, compiled(system, folder, '#include "scope.h"', rows))


def test_every_constant_has_c_s_value(folder: Path) -> None:
    ours = {
        name: int(value)
        for name, value in vars(_constants).items()
        if name.startswith("VK_") and isinstance(value, int)
    }
    # The header spells some aliases in its own way only from a later registry on.
    known = (folder / "scope.h").read_text()
    words = set(re.findall(r"\bVK_\w+", known))
    checked = {name: value for name, value in ours.items() if name in words}
    assert len(checked) > 1200
    rows = [f"(long long)({name})" for name in checked]
    values = compiled("linux", folder, '#include "scope.h"', rows)
    different = {
        name: (value, found)
        for (name, value), found in zip(checked.items(), values, strict=False)
        if value & 0xFFFFFFFFFFFFFFFF != found & 0xFFFFFFFFFFFFFFFF
    }
    assert not different


def test_the_distribution_s_headers_agree_as_far_as_they_reach(tmp_path: Path) -> None:
    if not (DISTRIBUTION / "vulkan_core.h").exists():
        missing("the Vulkan headers (package libvulkan-dev)")
    (tmp_path / "windows.h").write_text(PROLOGUE)
    text = "".join(
        (DISTRIBUTION / name).read_text() for name in ("vulkan_core.h", "vulkan_win32.h")
    )
    defined = set(re.findall(r"^typedef (?:struct|union) (Vk\w+) \{", text, re.MULTILINE))
    names = {name: cls for name, cls in structures().items() if name in defined}
    assert len(names) > 150
    rows = [c_facts(name, cls) for name, cls in names.items()]
    include = "#include <windows.h>\n#define VK_USE_PLATFORM_WIN32_KHR\n#include <vulkan/vulkan.h>"
    values = compiled("linux", tmp_path, include, rows)
    compare(names, values)


def test_enumerations_are_complete() -> None:
    """No name of a group is missing at module level, and groups are what they say."""
    groups = [
        group
        for group in vars(_constants).values()
        if isinstance(group, type) and issubclass(group, enum.Enum)
    ]
    assert len(groups) > 60
    for group in groups:
        for name, member in group.__members__.items():
            assert getattr(_constants, name) is member
