"""The blocks of hexadecimal digits of docs/protocol.md, by the line above or beside them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/protocol.md").read_text()
VECTORS = ROOT / "protocol/tests/vectors"


def example(heading: str) -> dict[str, bytes]:
    """The values of one worked example: `# name`, then lines of bytes."""
    section = PAGE.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]
    block = section.split("```hex\n", 1)[1].split("```", 1)[0]
    parts = re.split(r"^# (.+)$", block, flags=re.M)[1:]
    return {name: bytes.fromhex(digits) for name, digits in zip(parts[::2], parts[1::2])}


def line(name: str) -> bytes:
    """A value that stands on one line behind its name; the last one, where BLE has another of that name."""
    return bytes.fromhex(re.findall(rf"^{re.escape(name)} +([0-9a-f]+)$", PAGE, flags=re.M)[-1])
