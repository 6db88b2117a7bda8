"""The one form of CBOR that the protocol allows (docs/protocol.md, "CBOR").

The package cbor2 reads much more than that form and does not keep the bytes that it read, which the hashes over
messages "without" a key need. The form is small enough to spell out.
"""

import math
import struct

DEPTH = 8


class Refused(ValueError):
    """Bytes that are not CBOR in the one allowed form."""


def encode(value) -> bytes:
    """Encodes integers, bytes, text, booleans, floats, lists and maps in the shortest form, keys sorted."""
    if value is True:
        return b"\xf5"
    if value is False:
        return b"\xf4"
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(encode(item) for item in value)
    if isinstance(value, dict):
        pairs = sorted((encode(key), encode(item)) for key, item in value.items())
        return _head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    if isinstance(value, float) and math.isfinite(value):
        if abs(value) < 3e38 and struct.unpack(">f", struct.pack(">f", value))[0] == value:
            return b"\xfa" + struct.pack(">f", value)
        return b"\xfb" + struct.pack(">d", value)
    raise Refused(f"{value!r} has no form in this CBOR")


def decode(data: bytes):
    """Decodes one item that fills `data` to its end."""
    value, end = _item(data, 0, 1)
    if end != len(data):
        raise Refused(f"{len(data) - end} bytes follow the item")
    return value


def decode_map(data: bytes) -> dict:
    """Decodes one map that fills `data` to its end."""
    value = decode(data)
    if not isinstance(value, dict):
        raise Refused("this is no map")
    return value


def without(data: bytes, *keys: int) -> bytes:
    """The map `data`, encoded again without `keys`: all other bytes stay as they were sent."""
    count, at = _argument(data, 0)
    kept = []
    for _ in range(count):
        start = at
        key, at = _item(data, at, 1)
        _, at = _item(data, at, 1)
        if key not in keys:
            kept.append(data[start:at])
    return _head(5, len(kept)) + b"".join(kept)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | extra]) + number.to_bytes(size, "big")
    raise Refused(f"{number} needs more than 64 bits")


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size > len(data) - at:
        raise Refused("the item goes past the end")
    return data[at : at + size], at + size


def _argument(data: bytes, at: int) -> tuple[int, int]:
    head, after = _take(data, at, 1)
    extra = head[0] & 0x1F
    if extra < 24:
        return extra, after
    if extra > 27:
        raise Refused("an indefinite length, or a reserved head")
    raw, after = _take(data, after, 1 << (extra - 24))
    number = int.from_bytes(raw, "big")
    if _head(0, number) != bytes([extra]) + raw:
        raise Refused("a number that is not in its shortest form")
    return number, after


def _item(data: bytes, at: int, depth: int):
    if depth > DEPTH:
        raise Refused(f"nested more than {DEPTH} deep")
    head, _ = _take(data, at, 1)
    major = head[0] >> 5
    if major == 7:
        return _simple(data, at)
    number, at = _argument(data, at)
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major == 2:
        return _take(data, at, number)
    if major == 3:
        raw, at = _take(data, at, number)
        try:
            return raw.decode(), at
        except UnicodeDecodeError as error:
            raise Refused("text that is not UTF-8") from error
    if major == 4:
        items = []
        for _ in range(number):
            item, at = _item(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == 5:
        return _map(data, at, number, depth)
    raise Refused("a tag")


def _map(data: bytes, at: int, count: int, depth: int):
    items, before = {}, b""
    for _ in range(count):
        start = at
        key, at = _item(data, at, depth + 1)
        if data[start:at] <= before or isinstance(key, (list, dict)):
            raise Refused("keys that are not sorted, come twice or are no plain value")
        before = data[start:at]
        items[key], at = _item(data, at, depth + 1)
    return items, at


def _simple(data: bytes, at: int):
    head, at = _take(data, at, 1)
    if head[0] in (0xF4, 0xF5):
        return head[0] == 0xF5, at
    for first, size, code in ((0xF9, 2, ">e"), (0xFA, 4, ">f"), (0xFB, 8, ">d")):
        if head[0] == first:
            raw, at = _take(data, at, size)
            value = struct.unpack(code, raw)[0]
            if math.isfinite(value):
                return value, at
    raise Refused("null, a simple value, or a float that is not finite")
