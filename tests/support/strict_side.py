"""A device of both Win32 extensions for tests of rules: exactly which a call breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extmem import RuleViolation, vk
from tests.support.win32 import SIDE, SIZE, VISIBLE, Side

__all__ = ["StrictSide"]

_BUFFER_USAGE = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
_IMAGE_USAGE = vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT


class StrictSide(Side):
    """A side that destroys its buffers and images, and says what a call breaks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        dispatch: Any = self.device.dispatch
        self.dispatch, self.world = dispatch, dispatch.world

    def __exit__(self, *problem: Any) -> None:
        for name, destroy in (("VkBuffer", vk.vkDestroyBuffer), ("VkImage", vk.vkDestroyImage)):
            for handle in list(self.world.objects.get(name, ())):
                destroy(self.device, handle)
        super().__exit__(*problem)

    # -- resources

    def picture_info(self, *chain: Any, side: int = SIDE, **members: Any) -> Any:
        members = {"usage": _IMAGE_USAGE, "extent": (side, SIDE, 1)} | members
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=vk.VK_FORMAT_R8G8B8A8_UNORM,
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            **members,
        )
        return vk.link(info, *chain)

    def picture(self, *chain: Any, **members: Any) -> Any:
        return vk.vkCreateImage(self.device, self.picture_info(*chain, **members))

    def shared_picture(self, types: int, side: int = SIDE) -> Any:
        return self.picture(vk.VkExternalMemoryImageCreateInfo(handleTypes=types), side=side)

    def buffer(self, types: int = 0, *chain: Any, size: int = SIZE) -> Any:
        external = [vk.VkExternalMemoryBufferCreateInfo(handleTypes=types)] if types else []
        info = vk.VkBufferCreateInfo(size=size, usage=_BUFFER_USAGE)
        return vk.vkCreateBuffer(self.device, vk.link(info, *external, *chain))

    def facts(self, handle: Any) -> dict[str, Any]:
        """What is known of an object."""
        found: dict[str, Any] = self.world.find(type(handle).__name__, int(handle)).facts
        return found

    # -- breaking rules

    @contextmanager
    def _untouched(self, command: str) -> Iterator[None]:
        def called(*arguments: Any) -> int:
            pytest.fail(f"{command} reached the driver")

        table: Any = self.dispatch if command in _OF_DEVICES else self.instance.dispatch
        known = getattr(table, command)
        setattr(table, command, called)
        try:
            yield
        finally:
            setattr(table, command, known)

    def breaks(self, vuids: str | set[str], command: Callable[..., Any], *arguments: Any) -> str:
        """The call breaks these rules and no other, and no driver sees it. What it was told."""
        wanted = {vuids} if isinstance(vuids, str) else vuids
        with self._untouched(command.__name__), pytest.raises(RuleViolation) as caught:
            command(*arguments)
        problems = caught.value.problems
        assert {problem.vuid for problem in problems} == wanted, caught.value
        for problem in problems:
            assert problem.problem.endswith("."), problem
            # What is derived from the registry says all in its problem, sometimes.
            assert problem.remedy.endswith(".") or problem.vuid.endswith("parent"), problem
        return str(caught.value)

    def refuses(
        self, vuids: str | set[str], *chain: Any, size: int = SIZE, index: int = VISIBLE
    ) -> str:
        """vkAllocateMemory breaks these rules and no other."""
        info = self.asking(*chain, size=size, index=index)
        return self.breaks(vuids, vk.vkAllocateMemory, self.device, info)


_OF_DEVICES = (
    "vkAllocateMemory",
    "vkBindBufferMemory",
    "vkBindBufferMemory2",
    "vkBindImageMemory",
    "vkBindImageMemory2",
    "vkCreateBuffer",
    "vkCreateImage",
    "vkGetMemoryWin32HandleKHR",
    "vkGetMemoryWin32HandleNV",
    "vkGetMemoryWin32HandlePropertiesKHR",
)
