"""Images in OPAQUE_FD memory: 2D, RGBA8, optimal and linear, written and read by copies."""

from __future__ import annotations

import os
from typing import Any

import pytest

from extmem import vk
from tests.support.offers import require_images
from tests.support.rig import BYTES, OPAQUE_FD, Kind, Rig, pattern, prove_same

OPTIMAL, LINEAR = vk.VK_IMAGE_TILING_OPTIMAL, vk.VK_IMAGE_TILING_LINEAR


@pytest.fixture(params=[Kind(True, False), Kind(False, False)], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(params=[OPTIMAL, LINEAR], ids=["optimal", "linear"])
def tiling(request: pytest.FixtureRequest, rig: Rig, kind: Kind) -> Any:
    require_images(rig, request.param, OPAQUE_FD, kind)
    return request.param


def test_image_info(rig: Rig, kind: Kind, tiling: Any) -> None:
    """What the driver says it can do, it can; the same image without sharing is the measure."""
    private = rig.allocate_image(kind, tiling, export=0)
    private.write(pattern(1, BYTES), fresh=True)
    assert private.read() == pattern(1, BYTES)
    exported = rig.allocate_image(kind, tiling)
    exported.write(pattern(2, BYTES), fresh=True)
    assert exported.read() == pattern(2, BYTES)
    os.close(exported.export_fd())


def test_image_bind_export_import_bind(rig: Rig, kind: Kind, tiling: Any, importer: Any) -> None:
    exported = rig.allocate_image(kind, tiling, bind=False)
    exported.bind()
    fd = exported.export_fd()
    imported = importer.import_image(fd, exported.passport, tiling, bind=False)
    imported.bind()
    exported.write(pattern(9, BYTES), fresh=True)
    assert imported.read() == pattern(9, BYTES)
    prove_same(exported, imported)


def test_image_export_bind_import_bind(rig: Rig, kind: Kind, tiling: Any, importer: Any) -> None:
    exported = rig.allocate_image(kind, tiling, bind=False)
    fd = exported.export_fd()
    exported.bind()
    imported = importer.import_image(fd, exported.passport, tiling, bind=False)
    imported.bind()
    exported.write(pattern(9, BYTES), fresh=True)
    assert imported.read() == pattern(9, BYTES)
    prove_same(exported, imported)


def test_image_export_import_bind_bind(rig: Rig, kind: Kind, tiling: Any, importer: Any) -> None:
    exported = rig.allocate_image(kind, tiling, bind=False)
    fd = exported.export_fd()
    imported = importer.import_image(fd, exported.passport, tiling, bind=False)
    exported.bind()
    imported.bind()
    exported.write(pattern(9, BYTES), fresh=True)
    assert imported.read() == pattern(9, BYTES)
    prove_same(exported, imported)


def test_import_twice(rig: Rig, kind: Kind, tiling: Any, importer: Any) -> None:
    exported = rig.allocate_image(kind, tiling)
    fd = exported.export_fd()
    first = importer.import_image(os.dup(fd), exported.passport, tiling)
    second = importer.import_image(fd, exported.passport, tiling)
    exported.write(pattern(9, BYTES), fresh=True)
    prove_same(exported, first, second)


def test_exporter_freed_first(rig: Rig, kind: Kind, tiling: Any, importer: Any) -> None:
    exported = rig.allocate_image(kind, tiling)
    exported.write(pattern(3, BYTES), fresh=True)
    passport, fd = exported.passport, exported.export_fd()
    exported.free()
    assert importer.import_image(fd, passport, tiling).read() == pattern(3, BYTES)
