"""Writes `_constants.py`: enumerations, flags, constants, extension names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from registry.scope import CORE, EXTENSIONS, HEADER, Scope

# Spellings of vendors whose extensions are not in scope; promoted values keep their KHR, EXT and
# NV names, because programs use those.
VENDORS = ("_AMD", "_ARM", "_GOOGLE", "_HUAWEI", "_IMG", "_INTEL", "_QCOM", "_VALVE")


def enum_members(fields: Iterable[Any], keep: set[str] | None) -> Iterator[tuple[str, int]]:
    for field in fields:
        if keep is None:
            from_elsewhere = field.definingRequirements or dict.fromkeys(field.extensions)
            if from_elsewhere and not any(n in CORE or n in EXTENSIONS for n in from_elsewhere):
                continue
        elif field.name not in keep:
            continue
        yield field.name, int(field.value)
        for alias in field.aliases:
            if not alias.endswith(VENDORS):
                yield alias, int(field.value)


def constants(scope: Scope) -> Iterator[str]:
    yield HEADER.format(
        title="Every constant, enumeration and flag in scope.", version=scope.version
    )
    yield "import enum as _enum\n"
    kept: dict[str, set[str]] = {
        "VkStructureType": {s.sType for s in scope.structs.values() if s.sType},
        "VkObjectType": {h.type for h in scope.handles.values()} | {"VK_OBJECT_TYPE_UNKNOWN"},
    }
    aliases: list[str] = []
    groups = [(name, e.fields, "IntEnum", e.aliases) for name, e in scope.enums.items()]
    groups += [(name, b.flags, "IntFlag", b.aliases) for name, b in scope.bitmasks.items()]
    for name, fields, kind, others in groups:
        members = list(enum_members(fields, kept.get(name)))
        yield f"\n\nclass {name}(_enum.{kind}):\n"
        yield f'    """Vulkan\'s {name}."""\n\n'
        if not members:
            yield "    pass\n"
        for member, value in members:
            yield f"    {member} = {hex(value) if kind == 'IntFlag' else value}\n"
        yield "\n\n"
        for member, _ in members:
            yield f"{member} = {name}.{member}\n"
        aliases += [f"{alias} = {name}\n" for alias in others]
    yield "\n"
    yield from sorted(aliases)
    yield "\n"
    for constant in scope.vk.constants.values():
        if constant.name == "VK_WHOLE_SIZE" or constant.valueStr == "(~0ULL)":
            yield f"{constant.name} = 0xFFFFFFFFFFFFFFFF\n"
        elif isinstance(constant.value, float) and "F" in constant.valueStr:
            yield f"{constant.name} = {float(constant.valueStr.rstrip('Ff'))}\n"
        else:
            yield f"{constant.name} = {int(constant.value) & 0xFFFFFFFF:#x}\n"
    yield "VK_NULL_HANDLE = 0\n"
    yield f"VK_HEADER_VERSION = {scope.vk.headerVersion}\n"
    for index in range(5):
        yield f"VK_API_VERSION_1_{index} = {1 << 22 | index << 12:#x}\n"
    yield "\n"
    for extension in scope.extensions:
        yield f'{extension.nameString} = "{extension.name}"\n'
        yield f"{extension.specVersion} = {extension.specVersionValue}\n"
