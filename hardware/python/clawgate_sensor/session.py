"""Noise_KKpsk0_25519_ChaChaPoly_SHA512 and the records under it, the sensor's end (docs/protocol.md, "Session")."""

from collections import deque
from collections.abc import Callable

from . import crypto
from .crypto import Untrue, join, mac, same
from .keys import Key

_NAME = b"Noise_KKpsk0_25519_ChaChaPoly_SHA512"
_LAST_COUNTER = 0xFFFFFFFE
_DISPLACE_MS = 2000


class _Symmetric:
    """Noise's symmetric state."""

    def __init__(self) -> None:
        self.h = self.ck = _NAME.ljust(64, b"\0")
        self.k = b""

    def mix_hash(self, data: bytes) -> None:
        self.h = crypto.H(self.h + data)

    def _outputs(self, secret: bytes, count: int) -> list[bytes]:
        temp, outputs = mac(self.ck, secret), [b""]
        for n in range(1, count + 1):
            outputs.append(mac(temp, outputs[-1] + bytes([n])))
        return outputs[1:]

    def mix_key(self, secret: bytes) -> None:
        self.ck, k = self._outputs(secret, 2)
        self.k = k[:32]

    def mix_key_and_hash(self, secret: bytes) -> None:
        self.ck, hashed, k = self._outputs(secret, 3)
        self.mix_hash(hashed)
        self.k = k[:32]

    def seal(self, text: bytes) -> bytes:
        sealed = crypto.seal(self.k, 0, self.h, text)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        text = crypto.unseal(self.k, 0, self.h, sealed)
        self.mix_hash(sealed)
        return text

    def split(self) -> tuple[bytes, bytes]:
        first, second = self._outputs(b"", 2)
        return first[:32], second[:32]


def respond(prologue: bytes, psk: bytes, theirs: bytes, static: bytes, ephemeral: bytes, one: bytes, payload=b""):
    """Noise's responder: the second message for the first, its payload, and the keys (receive, send)."""
    noise = _Symmetric()
    for data in (prologue, theirs, crypto.public(static)):
        noise.mix_hash(data)
    noise.mix_key_and_hash(psk)
    noise.mix_hash(one[:32])
    noise.mix_key(one[:32])  # the pattern has a psk, so an ephemeral is a key too
    noise.mix_key(crypto.x25519(static, one[:32]))
    noise.mix_key(crypto.x25519(static, theirs))
    received = noise.open(one[32:])
    ours = crypto.public(ephemeral)
    noise.mix_hash(ours)
    noise.mix_key(ours)
    noise.mix_key(crypto.x25519(ephemeral, one[:32]))
    noise.mix_key(crypto.x25519(ephemeral, theirs))
    return ours + noise.seal(payload), received, noise.split()


def answer(handshake1: bytes, key: Key, static: bytes, device: str, ephemeral: bytes) -> tuple[bytes, "Session"]:
    """Handshake2 and the session behind it, for a Handshake1 whose 8-byte tag is right."""
    index = handshake1[1:2]
    prologue = join(
        b"claw-session",
        b"\x01",
        b"sensor" + device.encode(),
        b"gateway" + key.gateway.encode(),
        b"uart",
        key.key_id,
        index,
    )
    two, _, keys = respond(prologue, key.psk, key.gateway_static, static, ephemeral, handshake1[10:])
    return b"\x22" + index + two, Session(index[0], key, *keys)


class Session:
    """The two directions of records."""

    def __init__(self, index: int, key: Key, receive: bytes, send: bytes) -> None:
        self.index, self.key = index, key
        self._receive, self._send = receive, send
        self._next = 0
        self._highest, self._taken = -1, 0

    def seal(self, text: bytes) -> bytes | None:
        """The next record; None when the counters are used up and the gateway has not renewed the session."""
        if self._next > _LAST_COUNTER:
            return None
        head = b"\x23" + bytes([self.index]) + self._next.to_bytes(4, "big")
        record = head + crypto.seal(self._send, self._next, head, text)
        self._next += 1
        return record

    def open(self, record: bytes) -> bytes:
        """What a record carries; raises Untrue for one that came before, is too old or does not authenticate."""
        if len(record) < 22:
            raise Untrue("too short for a record")
        counter = int.from_bytes(record[2:6], "big")
        behind = self._highest - counter
        if counter > _LAST_COUNTER or behind >= 64 or behind >= 0 and self._taken >> behind & 1:
            raise Untrue("a counter that came before")
        text = crypto.unseal(self._receive, counter, record[:6], record[6:])
        if behind < 0:
            self._taken = (self._taken << -behind | 1) & (1 << 64) - 1 if behind > -64 else 1
            self._highest = counter
        else:
            self._taken |= 1 << behind
        return text


class Sessions:
    """The live session, the one that waits for its first record, and which handshakes were answered."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._tags: deque[bytes] = deque(maxlen=16)
        self.live: Session | None = None
        self._pending: Session | None = None
        self._question = self._reply = b""
        self._since_ms = 0

    def handshake(self, message: bytes, keys: list[Key], static: bytes, device: str, now_ms: int) -> bytes | None:
        """Handshake2 for a Handshake1, or silence. `keys` are the pending one and the current one."""
        if self._pending and message == self._question:
            return self._reply
        if len(message) != 58:
            return None
        index, tag, ephemeral = message[1:2], message[2:10], message[10:42]
        right = [key for key in keys if same(tag, mac(key.key_id_key, ephemeral + index)[:8])]
        if not right or tag in self._tags or self.live and self.live.index == index[0]:
            return None
        if self._pending and now_ms - self._since_ms < _DISPLACE_MS:
            return None
        try:
            reply, session = answer(message, right[0], static, device, self._random(32))
        except Untrue:
            return None
        self._tags.append(tag)
        self._question, self._reply = message, reply
        self._pending, self._since_ms = session, now_ms
        return reply

    def open(self, record: bytes) -> tuple[bytes, bool] | None:
        """What a record carries, and whether it made the pending session the live one; None for silence."""
        for session in (self.live, self._pending):
            if session and len(record) > 1 and session.index == record[1]:
                try:
                    text = session.open(record)
                except Untrue:
                    return None
                begins = session is self._pending
                if begins:
                    self.live, self._pending = session, None
                return text, begins
        return None
