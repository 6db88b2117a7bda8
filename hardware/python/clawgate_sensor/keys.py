"""What a pairing leaves behind, and the file that keeps it over a power cut."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from . import crypto
from .crypto import expand


@dataclass(frozen=True)
class Key:
    """All that a sensor keeps of one pairing."""

    gateway: str
    gateway_static: bytes
    psk: bytes
    key_id_key: bytes
    key_id: bytes
    pairing_id: bytes
    advertising_key: bytes

    @classmethod
    def of(cls, root: bytes, gateway: str, gateway_static: bytes) -> "Key":
        """Expands the root of a pairing run; the root itself is then forgotten."""
        return cls(
            gateway,
            gateway_static,
            psk=expand(root, "noise psk", 32),
            key_id_key=expand(root, "key-id key", 32),
            key_id=expand(root, "key id", 8),
            pairing_id=expand(root, "pairing id", 8),
            advertising_key=expand(root, "advertising key", 32),
        )

    def rotating_id(self, random: bytes) -> bytes:
        """The id that only the gateway of this pairing knows again."""
        return random + crypto.mac(self.advertising_key, random)[:5]


class Damaged(Exception):
    """The key file is there and cannot be read: a person decides, see `--reset`."""


class Store:
    """The static key, the count of label attempts and the two slots, in one file that is replaced in one step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            self._load()
        else:
            self.erase()

    def erase(self) -> None:
        """A factory reset: nothing of what was before is left, the static key is a new one."""
        self.static, self.attempts = os.urandom(32), 0
        self.current: Key | None = None
        self.pending: Key | None = None
        self.save()

    def save(self) -> None:
        """Returns when the new content is on disk; a power cut leaves the old or the new."""
        content = {
            "static": self.static.hex(),
            "attempts": self.attempts,
            "current": _to_json(self.current),
            "pending": _to_json(self.pending),
        }
        beside = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _load(self) -> None:
        try:
            content = json.loads(self._path.read_text())
            self.static, self.attempts = bytes.fromhex(content["static"]), int(content["attempts"])
            self.current, self.pending = _from_json(content["current"]), _from_json(content["pending"])
            if len(self.static) != 32:
                raise ValueError("the static key has 32 bytes")
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{self._path} cannot be read ({error}); start once with --reset to begin anew") from error


def _to_json(key: Key | None):
    return key and {name: x.hex() if isinstance(x, bytes) else x for name, x in asdict(key).items()}


def _from_json(content) -> Key | None:
    return content and Key(**{name: x if name == "gateway" else bytes.fromhex(x) for name, x in content.items()})
