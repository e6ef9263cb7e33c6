"""Writes `commands.py`: one Python function per command that is a plain translation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.prototypes import kind_of, python_type
from registry.scope import HEADER, Scope

# Written by hand, because more than a translation happens there.
BY_HAND = {
    "extmem.vk.instances": (
        "vkCreateInstance",
        "vkDestroyInstance",
        "vkEnumerateInstanceVersion",
        "vkEnumerateInstanceExtensionProperties",
        "vkEnumerateInstanceLayerProperties",
        "vkEnumeratePhysicalDevices",
        "vkCreateDevice",
        "vkDestroyDevice",
        "vkGetInstanceProcAddr",
        "vkGetDeviceProcAddr",
    ),
    "extmem.vk.memories": (
        "vkAllocateMemory",
        "vkFreeMemory",
        "vkMapMemory",
        "vkMapMemory2",
        "vkUnmapMemory",
        "vkUnmapMemory2",
        "vkGetMemoryFdKHR",
        "vkGetMemoryFdPropertiesKHR",
        "vkGetMemoryWin32HandleKHR",
        "vkGetMemoryWin32HandleNV",
        "vkGetMemoryWin32HandlePropertiesKHR",
    ),
    "extmem.vk.submits": ("vkQueueSubmit", "vkQueueSubmit2"),
    "extmem.vk.synchronisation": (
        "vkImportSemaphoreFdKHR",
        "vkImportSemaphoreWin32HandleKHR",
        "vkImportFenceFdKHR",
        "vkImportFenceWin32HandleKHR",
        "vkGetSemaphoreFdKHR",
        "vkGetSemaphoreWin32HandleKHR",
        "vkGetFenceFdKHR",
        "vkGetFenceWin32HandleKHR",
    ),
}


def commands(scope: Scope) -> Iterator[str]:
    yield HEADER.format(
        title="Every command that is a plain translation of its C namesake.", version=scope.version
    )
    yield "from __future__ import annotations\n\nfrom typing import Any\n\n"
    yield "from extmem.vk import _prototypes as p\n"
    yield "from extmem.vk import _structures as s\n"
    yield "from extmem.vk.calls import allocate, answer, fetch, listing, run\n"
    by_hand = {name for names in BY_HAND.values() for name in names}
    exported: list[str] = []
    aliases: list[str] = []
    for command in scope.commands:
        if command.name in by_hand:
            continue
        exported.append(command.name)
        aliases += [f"{a} = {command.name}\n" for a in scope.aliases.get(command.name, ())]
        yield from command_text(scope, command)
    yield "\n\n"
    yield from aliases


def command_text(scope: Scope, command: Any) -> Iterator[str]:
    kinds = {param.name: kind_of(scope, command, param) for param in command.params}
    signature: list[str] = []
    passed: list[str] = []
    out: Any = None
    for index, param in enumerate(command.params):
        kind = kinds[param.name]
        if kind == "allocator":
            passed.append("None")
        elif kind.startswith("out"):
            out = param if kind != "out_count" else out
        else:
            if kind == "handle":
                hint = f"s.{param.type}" if index == 0 else "int | None"
            elif kind == "value":
                hint = "float" if param.type == "float" else "int"
            elif kind == "string":
                hint = "str | None"
            elif kind == "struct":
                hint = f"s.{param.type}" + (" | None" if param.optional else "")
            else:
                hint = "Any"
            signature.append(f"{param.name}: {hint}")
            passed.append(param.name)
    arguments = f"({', '.join(passed)},)" if len(passed) == 1 else f"({', '.join(passed)})"
    several = len(command.successCodes) > 1
    providers = ", ".join(scope.providers(command))
    if out is None:
        hint = "None"
        if several or command.returnType not in ("VkResult", "void"):
            hint = "int"
        verb = f"{'run' if hint == 'None' else 'answer'}(p.{command.name}, {arguments})"
    elif kinds[out.name] == "out_list":
        kind = f"s.{out.type}" if python_type(scope, out) != "None" else "int"
        verb = f"listing(p.{command.name}, {arguments}, {kind})"
        hint = f"list[{kind}]"
    elif kinds[out.name] == "out_array":
        kind = f"s.{out.type}" if python_type(scope, out) != "None" else "int"
        verb = f"allocate(p.{command.name}, {arguments}, {kind})"
        hint = f"list[{kind}]"
    else:
        struct = scope.structs.get(out.type)
        hint = f"s.{out.type}" if python_type(scope, out) != "None" else "int"
        if struct is not None and struct.sType:
            signature.append(f"{out.name}: s.{out.type} | None = None")
            verb = f"fetch(p.{command.name}, {arguments}, {hint}, {out.name})"
        else:
            verb = f"fetch(p.{command.name}, {arguments}, {hint})"
    back = "" if hint == "None" else "return "
    yield f"\n\ndef {command.name}({', '.join(signature)}) -> {hint}:\n"
    yield f'    """{providers}."""\n'
    yield f"    {back}{verb}\n"
