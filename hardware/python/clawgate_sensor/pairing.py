"""One pairing run, the sensor's end (docs/protocol.md, "Pairing" and "Keys").

A run takes M1, M3 and M5 and returns M2, M4 and M6. It says with `Ended` that it is over; whoever drives it decides
what that costs. It writes nothing: `judge` and `keep` are called at the two points where something must be on disk
before the run goes on.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from . import crypto, kem
from .cbor import Refused, decode_map, encode, without
from .crypto import Hash, Untrue, expand, extract, join, lv, mac, same
from .keys import Key

ISSUED, LABEL = 1, 2
VERSION = 1
SUITES = (1, 2)
RUN_MS = 10_000
_NAMES = {ISSUED: b"issued", LABEL: b"label"}
_ID = re.compile(r"[a-z0-9_-]{1,32}")


class Ended(Exception):
    """The run is over because of what the peer sent. The peer is told Refuse and no reason."""


@dataclass(frozen=True)
class Own:
    """What this sensor is."""

    device: str
    static: bytes
    capabilities: str
    firmware: str
    suites: tuple[int, ...] = SUITES
    takes: int = 4096
    certificate: bytes | None = None


class Run:
    """One run, from a first M1."""

    def __init__(self, own: Own, prs: str, ceremony: int, m1: bytes, now_ms: int, random: Callable[[int], bytes]):
        """Takes M1; `self.answer` is then M2."""
        fields = _read(m1)
        suites = _field(fields, 2, bytes)
        common = [suite for suite in own.suites if suite in suites]
        if _field(fields, 1, int) != VERSION or _field(fields, 4, int) != ceremony or not common:
            raise Ended("another version or ceremony, or no common suite")
        if list(suites) != sorted(set(suites)):
            raise Ended("the suites are not ascending")
        self.own, self.ceremony, self.suite = own, ceremony, max(common)
        self.gateway = _field(fields, 3, str)
        if not _ID.fullmatch(self.gateway):
            raise Ended("this is no gateway id")
        self.until_ms = now_ms + RUN_MS
        self._random = random
        self._messages = [m1]
        nonce = random(16)
        self._scalar = random(32)
        self._sid = _field(fields, 5, bytes, 16) + nonce
        ci = join(
            b"claw-pair",
            bytes([VERSION]),
            _NAMES[ceremony],
            b"sensor" + own.device.encode(),
            b"gateway" + self.gateway.encode(),
            b"uart",
            crypto.H(m1),
        )
        g = crypto.cpace_generator(prs.encode(), ci, self._sid)
        self._ya = crypto.x25519(self._scalar, g)
        self._answer({1: VERSION, 2: self.suite, 3: own.device, 4: own.takes, 5: nonce, 6: self._ya}, 0x12)

    @property
    def answer(self) -> bytes:
        """The last message of this end."""
        return self._messages[-1]

    @property
    def done(self) -> bool:
        """Whether M6 is out. Such a run only repeats M6."""
        return len(self._messages) == 6

    def take(self, message: bytes, judge: Callable[[bool | None], None], keep: Callable[[Key], None]) -> bytes | None:
        """Takes M1, M3 or M5 and returns the answer, None for silence.

        `judge` is called before an own tag is sent or a guess compared (None), and with what the comparison said;
        `keep` stores the pending key.
        """
        if message == self._messages[-2]:
            return self.answer
        if message in self._messages or self.done:
            return None
        if message[0] == 0x13 and len(self._messages) == 2:
            self._take_m3(message, judge)
        elif message[0] == 0x15 and len(self._messages) == 4:
            self._take_m5(message, judge, keep)
        else:
            raise Ended("not the message that comes next")
        return self.answer

    def _take_m3(self, m3: bytes, judge) -> None:
        fields = _read(m3)
        yb = _field(fields, 1, bytes, 32)
        guess = _only_if(fields, 3, 32, self.ceremony == LABEL)
        ek = _only_if(fields, 2, kem.KEY_BYTES, self.suite == 2)
        m1, m2 = self._messages
        bare = b"\x13" + without(m3[1:], 3)
        k = crypto.x25519(self._scalar, yb)
        transcript = Hash(m1, m2, bare)
        prk = extract(transcript, crypto.cpace_isk(self._sid, k, self._ya, m2, yb, bare))
        ta = mac(expand(prk, "sensor tag", 64), transcript)[:32]
        self._tb = mac(expand(prk, "gateway tag", 64), transcript)[:32]
        judge(None)
        if self.ceremony == LABEL:
            right = same(guess, self._tb)
            judge(right)
            if not right:
                raise Ended("another code")
        self._kem, ct = kem.encapsulate(ek, self._random(32)) if self.suite == 2 else (b"", None)
        self._link = expand(prk, "link", 64)
        sealing = extract(expand(prk, "seal", 64), lv(self._kem))
        self._k5 = expand(sealing, "m5", 32)
        about = {1: crypto.public(self.own.static), 2: self.own.capabilities, 3: self.own.firmware}
        if self.own.certificate is not None:
            about[4] = self.own.certificate
        clear = {1: ta, 2: ct} if self.suite == 2 else {1: ta}
        aad = Hash(m1, m2, m3, b"\x14" + encode(clear))
        part = crypto.seal(expand(sealing, "m4", 32), 0, aad, encode(about))
        self._messages.append(m3)
        self._answer(clear | {3: part}, 0x14)

    def _take_m5(self, m5: bytes, judge, keep) -> None:
        fields = _read(m5)
        guess = _only_if(fields, 1, 32, self.ceremony == ISSUED)
        sealed, tag = _field(fields, 2, bytes), _field(fields, 3, bytes, 16)
        if self.ceremony == ISSUED:
            right = same(guess, self._tb)
            judge(right)
            if not right:
                raise Ended("another code")
        sent = self._messages
        part = crypto.unseal(self._k5, 0, Hash(*sent, b"\x15" + without(m5[1:], 2, 3)), sealed)
        about = _read(b"\x15" + part)
        gateway_static = _field(about, 1, bytes, 32)
        if len(_field(about, 2, bytes)) > 64:
            raise Ended("too many settings")
        own_public = crypto.public(self.own.static)
        if same(gateway_static, own_public):
            raise Ended("our own static key")
        dh = crypto.x25519(self.own.static, gateway_static)
        root = expand(
            extract(b"", join(self._link, self._kem, dh)),
            lv(Hash(*sent)) + lv(own_public) + lv(gateway_static),
            64,
        )
        if not same(tag, mac(expand(root, "m5 mac", 64), Hash(*sent, b"\x15" + without(m5[1:], 3)))[:16]):
            raise Ended("the MAC of M5 is wrong")
        self.key = Key.of(root, self.gateway, gateway_static)
        keep(self.key)
        sent.append(m5)
        self._answer({1: mac(expand(root, "m6 mac", 64), Hash(*sent))[:16]}, 0x16)

    def _answer(self, fields: dict, kind: int) -> None:
        self._messages.append(bytes([kind]) + encode(fields))


def _read(message: bytes) -> dict:
    try:
        return decode_map(message[1:])
    except Refused as error:
        raise Ended("not readable") from error


def _field(fields: dict, key: int, kind: type, size: int | None = None):
    value = fields.get(key)
    if type(value) is not kind or size not in (None, len(value) if kind is bytes else None):
        raise Ended(f"key {key} is missing or wrong")
    return value


def _only_if(fields: dict, key: int, size: int, wanted: bool) -> bytes | None:
    """A key that belongs to one ceremony or suite: there in that one, refused in the other."""
    if wanted:
        return _field(fields, key, bytes, size)
    if key in fields:
        raise Ended(f"key {key} belongs to another ceremony or suite")
    return None


__all__ = ["ISSUED", "LABEL", "Ended", "Own", "Run", "Untrue"]
