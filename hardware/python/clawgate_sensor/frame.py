"""Bytes to frames, and fragments to messages (docs/protocol.md, "Frames" and "Fragments")."""

import zlib
from collections.abc import Iterator

MESSAGE = 4096
"""The longest message."""
ENCODED = 4119
"""The longest frame on the line, delimiters not counted."""
WHOLE = 0xC0
"""The fragment header of a message that goes in one piece."""
_OURS = 0x00


def cobs(data: bytes) -> bytes:
    """Removes every zero."""
    out, run = bytearray(), bytearray()
    for byte in data:
        if byte:
            run.append(byte)
        if not byte or len(run) == 254:
            out.append(len(run) + 1)
            out += run
            run.clear()
    return bytes(out + bytes([len(run) + 1]) + run)


def uncobs(data: bytes) -> bytes | None:
    """Puts the zeros back; None if the lengths point past the end."""
    out, at = bytearray(), 0
    while at < len(data):
        code = data[at]
        run = data[at + 1 : at + code]
        if code == 0 or len(run) != code - 1:
            return None
        out += run
        at += code
        if code != 0xFF and at < len(data):
            out.append(0)
    return bytes(out)


def frame(message: bytes) -> bytes:
    """The frame that carries a whole message."""
    body = bytes([_OURS, WHOLE]) + message
    return b"\0" + cobs(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"


class Deframer:
    """Bytes of the line in, messages out. Holds one frame and one message, however long the noise is."""

    def __init__(self) -> None:
        self._frame = bytearray()
        self._assembler = Assembler()
        self.dropped = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes what the line brought; yields each message that became whole."""
        for byte in data:
            if byte:
                if len(self._frame) <= ENCODED:
                    self._frame.append(byte)
                continue
            if self._frame:
                message = self._whole(bytes(self._frame))
                if message is not None:
                    yield message
            self._frame.clear()

    def _whole(self, encoded: bytes) -> bytes | None:
        body = uncobs(encoded) if len(encoded) <= ENCODED else None
        if body is None or len(body) < 7 or zlib.crc32(body[:-4]) != int.from_bytes(body[-4:], "little"):
            self.dropped += 1
            return None
        if body[0] != _OURS:
            return None
        return self._assembler.push(body[1], body[2:-4])


class Assembler:
    """Fragments in, whole messages out."""

    def __init__(self) -> None:
        self._message: bytearray | None = None
        self._index = 0

    def push(self, header: int, piece: bytes) -> bytes | None:
        """Takes the next fragment; returns the message that it ends."""
        first, last, index = header & 0x80, header & 0x40, header & 0x3F
        if first:
            self._message, self._index = bytearray(), 0
        if self._message is None or index != self._index or len(self._message) + len(piece) > MESSAGE:
            self._message = None
            return None
        self._message += piece
        self._index = (index + 1) % 64
        if not last:
            return None
        message, self._message = bytes(self._message), None
        return message
