"""How references are counted: the rules for a model of lifetimes, one by one."""

from __future__ import annotations

import pytest

from extmem import vk
from tests.support.sharing import (
    INVALID,
    KMT,
    NT,
    Gpu,
    close,
    from_handle,
    mapped_at,
    payload_of,
    refused,
    terms,
)

STALE = vk.VK_ERROR_MEMORY_MAP_FAILED


@pytest.mark.parametrize("sole", ["exporter", "import", "handle"])
def test_model_each_kind_of_reference_keeps_the_payload(gpu: Gpu, sole: str) -> None:
    exporter = gpu.export(NT)
    gpu.write(exporter, b"counted")
    handle = gpu.get(exporter, NT)
    imported = gpu.take(handle, NT)
    left = {"exporter": exporter, "import": imported}
    for each in left.keys() - {sole}:
        gpu.free(left.pop(each))
    if sole == "handle":
        left["handle"] = gpu.take(handle, NT)
    close(handle)
    assert gpu.read(left[sole], 7) == b"counted"


def test_model_kmt_values_and_importers_are_weak(gpu: Gpu) -> None:
    memory = gpu.export(KMT)
    number = gpu.get(memory, KMT)
    imports = [gpu.take(number, KMT) for _ in range(3)]
    gpu.free(memory)
    for each in imports:
        refused(gpu, lambda each=each: gpu.read(each, 1), result=STALE)
    refused(gpu, lambda: gpu.take(number, KMT), vuid="handleType-00661", result=INVALID)


def test_model_a_name_keeps_nothing(gpu: Gpu, name: str) -> None:
    memory = gpu.export(NT, terms(name=name))
    address = payload_of(memory).address
    handle = gpu.get(memory, NT)
    gpu.free(memory)
    close(handle)
    assert not mapped_at(address)
    # The name is free for another payload, which has nothing of the old one.
    other = gpu.export(NT, terms(name=name))
    assert gpu.read(gpu.take_name(name), 4) == bytes(4)
    gpu.free(other)


def test_model_kmt_ends_with_the_original_owner(gpu: Gpu) -> None:
    # One text lets a number live with the last memory of the payload, another with its first. The
    # second is the stricter: an import that could export it again does not prolong it.
    owner = gpu.export(KMT)
    number = gpu.get(owner, KMT)
    again = gpu.export(KMT, from_handle(number, KMT))
    assert gpu.get(again, KMT) == number
    gpu.free(owner)
    refused(gpu, lambda: gpu.take(number, KMT), vuid="handleType-00661", result=INVALID)
    refused(gpu, lambda: gpu.get(again, KMT), result=vk.VK_ERROR_VALIDATION_FAILED)
    refused(gpu, lambda: gpu.read(again, 1), result=STALE)
