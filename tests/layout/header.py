"""A C header for everything in scope, written by Khronos' own C generator from its registry."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import vulkan_object
from vulkan_object.base_generator import SetMergedApiNames, SetTargetApiName
from vulkan_object.cgenerator import CGeneratorOptions, COutputGenerator
from vulkan_object.reg import Registry
from vulkan_object.vkconventions import VulkanConventions

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from registry.scope import EXTENSIONS

# vk_platform.h and, away from Windows, the few Windows types, at the widths that Windows gives
# them. (SECURITY_ATTRIBUTES as Microsoft documents it.)
PROLOGUE = """\
#pragma once
#include <stddef.h>
#include <stdint.h>
#define VKAPI_ATTR
#ifdef _WIN32
#include <windows.h>
#define VKAPI_CALL __stdcall
#define VKAPI_PTR __stdcall
#else
#define VKAPI_CALL
#define VKAPI_PTR
typedef void *HANDLE;
typedef uint32_t DWORD;
typedef int32_t BOOL;
typedef const uint16_t *LPCWSTR;
typedef void *HINSTANCE, *HWND, *HMONITOR;
typedef struct _SECURITY_ATTRIBUTES {
    DWORD nLength;
    void *lpSecurityDescriptor;
    BOOL bInheritHandle;
} SECURITY_ATTRIBUTES;
#endif
"""


def write_header(folder: Path) -> Path:
    """Write scope.h, and what it includes, into a folder, and say where."""
    (folder / "vk_platform.h").write_text(PROLOGUE)
    SetTargetApiName("vulkan")
    SetMergedApiNames(None)
    # Presenting is out of scope, but VK_KHR_device_group's part of the header names its types.
    extensions = [*EXTENSIONS, "VK_KHR_surface", "VK_KHR_swapchain"]
    wanted = "^(" + "|".join(extensions) + ")$"
    options = CGeneratorOptions(
        conventions=VulkanConventions(),
        filename="scope.h",
        directory=str(folder),
        apiname="vulkan",
        profile=None,
        versions=".*",
        emitversions=".*",
        defaultExtensions=None,
        addExtensions=wanted,
        removeExtensions=None,
        emitExtensions=wanted,
        prefixText=["#pragma once"],
        genFuncPointers=True,
        protectFile=False,
        protectFeature=False,
        apicall="VKAPI_ATTR ",
        apientry="VKAPI_CALL ",
        apientryp="VKAPI_PTR *",
        alignFuncParam=48,
    )
    generator = COutputGenerator(errFile=sys.stderr, warnFile=None, diagFile=None)
    registry = Registry(generator, options)
    source = Path(vulkan_object.__file__).parent / "vk.xml"
    registry.loadElementTree(ElementTree.parse(source))
    registry.apiGen()
    return folder / "scope.h"
