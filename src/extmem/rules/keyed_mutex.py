"""Rules for acquiring and releasing keyed mutexes with a submission.

NV's structure has no such rule, and the driver is the judge. That the Direct3D resource was made
with SHARED_KEYEDMUTEX cannot be seen from Vulkan.
"""

from __future__ import annotations

from extmem.handle_types import names_of
from extmem.rules.engine import Call, Findings, Site, rule
from extmem.vk import _constants as c

_TEXTURES = int(
    c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT
    | c.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT
)


@rule("VUID-VkWin32KeyedMutexAcquireReleaseInfoKHR-pAcquireSyncs-00081", stage="state")
def mutexes_of_imported_textures(call: Call, site: Site) -> Findings:
    for member, count in (("pAcquireSyncs", "acquireCount"), ("pReleaseSyncs", "releaseCount")):
        array = site.value(member)
        for index in range(int(site.value(count)) if array else 0):
            memory = call.world.find("VkDeviceMemory", int(array[index] or 0))
            if memory is None or memory.facts["import"] & _TEXTURES:
                continue
            source = memory.facts["import"]
            if source:
                origin = f"was imported as {'+'.join(names_of(source))}"
            elif memory.facts["import_nv"]:
                origin = "was imported through NV's structure"
            else:
                origin = "was not imported"
            yield site.broken(
                f"{member}[{index}]",
                f"{origin}; only a Direct3D 11 texture has a keyed mutex.",
                "Name memory that VkImportMemoryWin32HandleInfoKHR imported as D3D11_TEXTURE or "
                "D3D11_TEXTURE_KMT.",
            )
