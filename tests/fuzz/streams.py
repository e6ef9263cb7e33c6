"""What a stream's subscriber reads of its publisher: the greeting, and the fields of a frame."""

from __future__ import annotations

from extmem.share.formats import format_of, images_of, told
from extmem.share.slots import VERSION, Greeting, decode_fields, encode_fields

__all__ = ["fields", "greeting", "of_fields", "of_greetings"]


def greeting(data: bytes) -> None:
    """Which is refused with ValueError, or tells a format that tells the same again."""
    found = Greeting.decode(data)
    assert Greeting.decode(found.encode()) == found
    try:
        format = found.format
    except TypeError as error:  # of numbers that NumPy has not
        raise ValueError(str(error)) from None
    assert format.size > 0 or not format.shape
    word, record = told(format)
    again = Greeting(VERSION, shape=format.shape, dtype=word, record=record, texels=format.texels)
    assert again.format == format
    str(format)


def fields(data: bytes) -> None:
    """Which are refused with ValueError, or can be sent again."""
    found = decode_fields(data)
    assert isinstance(found, dict)
    encode_fields(found)


def of_greetings() -> list[bytes]:
    formats = (
        format_of((1080, 1920, 4), "uint8"),
        format_of(7, "bfloat16"),
        format_of((2, 2), [("x", "f4"), ("y", ">i8")]),
        images_of((1080, 1920), "nv12"),
        images_of((4, 7), "rgba16f", "linear", "sampled"),
    )
    made = [Greeting(VERSION, "no seat is left").encode()]
    for each in formats:
        word, record = told(each)
        seat = bytes(range(16))
        told_of = Greeting(VERSION, "", each.shape, word, "all", 4, seat, record, True, each.texels)
        made.append(told_of.encode())
    return made


def of_fields() -> list[bytes]:
    return [
        encode_fields(each)
        for each in (
            {},
            {"exposure": 0.5, "tags": ["a", "b"], "raw": b"\0\1", "nested": {"n": None}},
            {"far": 1 << 63, "near": -(1 << 63), "yes": True},
        )
    ]
