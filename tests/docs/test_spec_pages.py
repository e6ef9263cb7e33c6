"""The pages of the specification explain every structure and function of the extensions, whole."""

from __future__ import annotations

import re
from pathlib import Path

import docs_names
import pytest

from extmem import vk
from extmem.rules import catalogue
from extmem.vk import _prototypes
from tests.support.second import ROOT

PARENTS = {each.parent for each in catalogue.entries()}
EVERY = [
    *docs_names.CORE,
    *(
        name
        for extension in docs_names.EXPLAINED
        for name in (*docs_names.structures_of(extension), *docs_names.functions_of(extension))
    ),
]


def sections() -> dict[str, str]:
    """What is said under each heading of these pages."""
    found: dict[str, str] = {}
    for page in (ROOT / "docs" / "spec").glob("*.md"):
        for part in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            title, _, text = part.partition("\n")
            assert title not in found, f"{title} is explained twice"
            found[title] = text
    return found


@pytest.mark.parametrize("name", EVERY)
def test_it_is_explained_with_all_its_members_and_rules(name: str) -> None:
    text = sections()[name]
    if name.startswith("vk"):
        members = [each.name for each in getattr(_prototypes, name).params]
    else:
        members = [each[0] for each in getattr(vk, name)._fields_]
        # Said once for all: filled in by extmem, and the chain.
        members = [each for each in members if each not in ("sType", "pNext")]
    for member in members:
        assert f"`{member}`" in text or f"({member}" in text or f" {member}" in text, member
    if name in PARENTS:
        assert f"<!-- rules: {name} -->" in text


def test_the_list_is_the_registrys() -> None:
    """Held against the registry itself, where it is installed, and not what was generated of it."""
    from vulkan_object import get_vulkan_object  # of the test extra

    registry = get_vulkan_object()
    names = {
        each.name.removesuffix("KHR") if extension in docs_names.PROMOTED else each.name
        for extension in (*docs_names.EXPLAINED, *docs_names.PROMOTED)
        for each in (
            *registry.extensions[extension].structs,
            *registry.extensions[extension].commands,
        )
    }
    assert names == set(EVERY)
    assert {"VkImportMemoryWin32HandleInfoNV", "vkGetMemoryWin32HandleKHR"} <= names


def test_every_public_name_has_words() -> None:
    """A docstring, or for an attribute a comment; that it is on a page is seen by the build."""
    assert not [*docs_names.undocumented()]


def test_a_name_without_a_page_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<dt id="extmem.open_device">')
    problems = docs_names.problems(tmp_path)
    assert "extmem.Memory.export is on no page" in problems
    assert "extmem.open_device is on no page" not in problems
    assert any(each.startswith("vkGetMemoryWin32HandleNV of VK_NV") for each in problems)
