"""ML-KEM-768 encapsulation (FIPS 203), which is all that a sensor does of it in suite 2.

No Debian 12 package brings ML-KEM to Python; the half that a sensor needs is these few lines. The names are the
standard's. Not constant-time.
"""

from hashlib import sha3_256, sha3_512, shake_128, shake_256

KEY_BYTES, CIPHERTEXT_BYTES = 1184, 1088
_Q, _K, _DU, _DV = 3329, 3, 10, 4


def encapsulate(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    """The shared secret and the ciphertext for an encapsulation key, from 32 random bytes."""
    t = [_decode(ek[at : at + 384], 12) for at in range(0, 384 * _K, 384)]
    if len(ek) != KEY_BYTES or any(value >= _Q for poly in t for value in poly):
        raise ValueError("this is no encapsulation key")
    secret_and_coins = sha3_512(m + sha3_256(ek).digest()).digest()
    return secret_and_coins[:32], _encrypt(t, ek[384 * _K :], m, secret_and_coins[32:])


def _encrypt(t, rho: bytes, m: bytes, coins: bytes) -> bytes:
    y = [_ntt(_sample_cbd(coins, n)) for n in range(_K)]
    e1 = [_sample_cbd(coins, _K + n) for n in range(_K)]
    e2 = _sample_cbd(coins, 2 * _K)
    u = []
    for i in range(_K):
        # The matrix is transposed here: element (j, i) is drawn for place (i, j).
        row = [_sample_ntt(rho + bytes([i, j])) for j in range(_K)]
        u.append(_add(_inverse_ntt(_dot(row, y)), e1[i]))
    mu = [_decompress(bit, 1) for bit in _decode(m, 1)]
    v = _add(_add(_inverse_ntt(_dot(t, y)), e2), mu)
    return b"".join(_encode_compressed(poly, _DU) for poly in u) + _encode_compressed(v, _DV)


def _bit_reversed(n: int) -> int:
    return int(f"{n:07b}"[::-1], 2)


_ZETAS = [pow(17, _bit_reversed(n), _Q) for n in range(128)]
_GAMMAS = [pow(17, 2 * _bit_reversed(n) + 1, _Q) for n in range(128)]


def _ntt(f):
    f, n, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = _ZETAS[n] * f[j + length]
                f[j + length], f[j] = (f[j] - t) % _Q, (f[j] + t) % _Q
            n += 1
        length //= 2
    return f


def _inverse_ntt(f):
    f, n, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % _Q, _ZETAS[n] * (f[j + length] - t) % _Q
            n -= 1
        length *= 2
    return [value * 3303 % _Q for value in f]


def _dot(row, column):
    total = [0] * 256
    for f, g in zip(row, column):
        for n, gamma in enumerate(_GAMMAS):
            a0, a1, b0, b1 = f[2 * n], f[2 * n + 1], g[2 * n], g[2 * n + 1]
            total[2 * n] += a0 * b0 + a1 * b1 * gamma
            total[2 * n + 1] += a0 * b1 + a1 * b0
    return [value % _Q for value in total]


def _add(f, g):
    return [(a + b) % _Q for a, b in zip(f, g)]


def _sample_ntt(seed: bytes):
    stream, values = shake_128(seed).digest(168 * 12), []
    for at in range(0, len(stream), 3):
        a, b, c = stream[at : at + 3]
        values += [value for value in (a | (b & 15) << 8, b >> 4 | c << 4) if value < _Q]
    # 672 draws of which 81 % pass: fewer than 256 does not happen.
    return values[:256]


def _sample_cbd(coins: bytes, nonce: int):
    bits = _decode(shake_256(coins + bytes([nonce])).digest(128), 1)
    return [(bits[n] + bits[n + 1] - bits[n + 2] - bits[n + 3]) % _Q for n in range(0, 1024, 4)]


def _decode(data: bytes, width: int):
    number = int.from_bytes(data, "little")
    return [number >> at & (1 << width) - 1 for at in range(0, 8 * len(data), width)]


def _decompress(value: int, width: int) -> int:
    return (value * _Q + (1 << width - 1)) >> width


def _encode_compressed(poly, width: int) -> bytes:
    number = 0
    for n, value in enumerate(poly):
        number |= ((value << width) + _Q // 2) // _Q % (1 << width) << n * width
    return number.to_bytes(32 * width, "little")
