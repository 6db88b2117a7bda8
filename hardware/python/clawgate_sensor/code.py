"""Pairing codes: what a person reads and types (docs/protocol.md, "Codes")."""

import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class WrongCode(ValueError):
    """What was typed is no code; says why."""


def parse(typed: str) -> str:
    """The seven random symbols of a typed code, which are the password."""
    code = typed.upper().replace(" ", "").replace("-", "").translate(str.maketrans("OIL", "011"))
    for symbol in code:
        if symbol not in ALPHABET:
            raise WrongCode(f"{symbol!r} is in no code")
    if len(code) != 8:
        raise WrongCode(f"a code has 8 symbols, this has {len(code)}")
    if check(code[:7]) != code[7]:
        raise WrongCode("mistyped: the last symbol does not belong to the others")
    return code[:7]


def check(symbols: str) -> str:
    """The check symbol of seven symbols."""
    total = 0
    for symbol in reversed(symbols):
        total = (total ^ ALPHABET.index(symbol)) << 1
        if total > 31:
            total ^= 0x25
    return ALPHABET[total]


def show(symbols: str) -> str:
    """As it is printed: XXXX-XXXX."""
    return f"{symbols[:4]}-{symbols[4:]}{check(symbols)}"


def new() -> str:
    """Seven new random symbols, for a label."""
    return "".join(secrets.choice(ALPHABET) for _ in range(7))


def qr(device: str, symbols: str) -> str:
    """The text of the label's QR code."""
    return f"CLAWGATE:1:{device}:{show(symbols)}"
