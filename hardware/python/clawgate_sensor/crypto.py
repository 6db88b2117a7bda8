"""The primitives under the protocol's names (docs/protocol.md, "Keys"), and CPace's map to the curve."""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hashlib import sha512

_P = 2**255 - 19
_A = 486662


class Untrue(ValueError):
    """What the peer sent does not authenticate, or is a point that gives away nothing but zeros."""


def lv(x: bytes) -> bytes:
    """The length as LEB128, and x."""
    head, length = bytearray(), len(x)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length]) + x


def join(*parts: bytes) -> bytes:
    """The lv of each part."""
    return b"".join(map(lv, parts))


def H(data: bytes) -> bytes:
    """SHA-512."""
    return sha512(data).digest()


def Hash(*parts: bytes) -> bytes:
    """SHA-512 over the lv of each part."""
    return H(join(*parts))


def mac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA512."""
    return hmac.digest(key, data, "sha512")


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract. No salt is 64 zero bytes, which to HMAC is the same as none."""
    return mac(salt or bytes(64), secret)


def expand(key: bytes, info: bytes | str, size: int) -> bytes:
    """HKDF-Expand of at most one block."""
    info = info.encode() if isinstance(info, str) else info
    return mac(key, info + b"\x01")[:size]


def seal(key: bytes, counter: int, aad: bytes, text: bytes) -> bytes:
    """ChaCha20-Poly1305; the nonce is four zero bytes and the counter, little-endian."""
    return ChaCha20Poly1305(key).encrypt(bytes(4) + counter.to_bytes(8, "little"), text, aad)


def unseal(key: bytes, counter: int, aad: bytes, sealed: bytes) -> bytes:
    """The reverse of `seal`; refuses what does not authenticate."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(4) + counter.to_bytes(8, "little"), sealed, aad)
    except InvalidTag as error:
        raise Untrue("the tag of an encrypted part is wrong") from error


def same(a: bytes, b: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(a, b)


def public(secret: bytes) -> bytes:
    """The X25519 public key of a secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def x25519(secret: bytes, point: bytes) -> bytes:
    """X25519; an all-zero result is refused."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError as error:
        raise Untrue("a point of low order") from error


def elligator2(representative: bytes) -> bytes:
    """The u-coordinate that a string of 32 bytes maps to. Not constant-time."""
    r = int.from_bytes(representative, "little") % 2**255 % _P
    v = -_A * pow(1 + 2 * r * r, _P - 2, _P) % _P
    square = pow(v * (v * v + _A * v + 1), (_P - 1) // 2, _P) in (0, 1)
    return (v if square else (-v - _A) % _P).to_bytes(32, "little")


def cpace_generator(prs: bytes, ci: bytes, sid: bytes) -> bytes:
    """CPace's g for a password, a channel and a session id."""
    dsi = lv(b"CPace255")
    zeros = bytes(128 - 1 - len(lv(prs)) - len(dsi))
    return elligator2(H(dsi + join(prs, zeros, ci, sid))[:32])


def cpace_isk(sid: bytes, k: bytes, ya: bytes, ada: bytes, yb: bytes, adb: bytes) -> bytes:
    """CPace's ISK, the sensor being its A."""
    return H(join(b"CPace255_ISK", sid, k, ya, ada, yb, adb))
