"""Readings, kept until the gateway has them (docs/protocol.md, "Telemetry", "Flow")."""

import secrets
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from .cbor import encode

_RESEND_MS = 3000
_RESEND_MOST_MS = 30_000
_BACK_MS = 1000
_BATCH = 3500
"""Bytes of packs in one record: what a message takes, less what stands around them."""


@dataclass(frozen=True)
class Reading:
    """One pack; its uptime is there when the clock was not set at the capture. Uptimes never go back."""

    pack: bytes
    uptime_ms: int | None


class Queue:
    """The readings that are not yet safe, with their numbers."""

    def __init__(self, room: int = 10_000) -> None:
        self._room = room
        self._readings: deque[Reading] = deque()
        self.erase()

    def erase(self) -> None:
        """Forgets all readings and begins a new epoch."""
        self.epoch = secrets.randbits(64) or 1
        self._readings.clear()
        self.safe, self.last = 0, 0
        self._cursor: int | None = None
        self.session_ended()

    def __len__(self) -> int:
        return len(self._readings)

    def add(self, reading: Reading) -> int:
        """Takes a reading and returns its number. A full memory drops the oldest."""
        if len(self._readings) == self._room:
            self._readings.popleft()
        self._readings.append(reading)
        self.last += 1
        return self.last

    @property
    def owed(self) -> int:
        """The lowest number that is still owed; owing nothing, the one that comes next."""
        return self.safe + 1

    @property
    def _held(self) -> int:
        return self.last - len(self._readings) + 1

    def session_ended(self) -> None:
        """Nothing is sent until the gateway has said what it has."""
        self._cursor = self._before = self._news_ms = None
        self._wait_ms, self._one_only, self._went_back = _RESEND_MS, False, (0, 0)
        self._carried, self._most = 0, self._room

    def acknowledged(self, epoch: int, safe: int, following: int, now_ms: int) -> None:
        """Takes an Ack: forgets what is safe, goes on or back to what the gateway expects."""
        if epoch != self.epoch or following <= safe or following > self.last + 1:
            return
        while self._readings and self._held <= safe:
            self._readings.popleft()
        self.safe = max(self.safe, safe)
        if self._cursor is None:
            self._cursor, self._news_ms = max(following, self.owed), now_ms
        elif self._before == (safe, following) and following < self._cursor:
            number, at_ms = self._went_back
            if number != following or now_ms - at_ms >= _BACK_MS:
                self._cursor, self._went_back = max(following, self.owed), (following, now_ms)
                self._lost()
        else:
            self._cursor = max(self._cursor, following)
        if self._before != (safe, following):
            self._wait_ms, self._news_ms = _RESEND_MS, now_ms
            self._most = min(self._most + self._most // 4 + 1, self._room)
        self._before = (safe, following)
        self._one_only = False

    def next_message(self, now_ms: int) -> bytes | None:
        """The next Readings or Gap to send, if any may go now."""
        if self._cursor is None:
            return None
        if self._cursor == self.owed:
            self._news_ms = now_ms if not self._one_only else self._news_ms
        elif now_ms - self._news_ms >= self._wait_ms:
            self._cursor, self._one_only = self.owed, True
            self._news_ms, self._wait_ms = now_ms, min(2 * self._wait_ms, _RESEND_MOST_MS)
            self._lost()
        elif self._one_only:
            return None
        if self._cursor > self.last:
            return None
        first = self._cursor
        if first < self._held:
            self._cursor = self._held
            return b"\x42" + encode({1: self.epoch, 2: first, 3: self._held - 1, 4: 0})
        batch = self._batch(first)
        self._carried = len(batch)
        self._cursor += len(batch)
        fields = {1: self.epoch, 2: first, 3: [reading.pack for reading in batch]}
        if batch[0].uptime_ms is not None:
            uptimes = [reading.uptime_ms for reading in batch]
            fields[4] = uptimes[:1] + [later - earlier for earlier, later in pairwise(uptimes)]
        return b"\x40" + encode(fields)

    def _lost(self) -> None:
        """On a bad link the long records are lost most: the next ones carry half as many readings."""
        self._most = max(1, self._carried // 2)

    def _batch(self, first: int) -> list[Reading]:
        """Readings in a row that fit into one record and all have an uptime, or none has."""
        batch, size = [], 0
        for number in range(first, min(self.last, first + self._most - 1) + 1):
            reading = self._readings[number - self._held]
            size += len(reading.pack) + 3 + (0 if reading.uptime_ms is None else 9)
            if batch and (size > _BATCH or (reading.uptime_ms is None) != (batch[0].uptime_ms is None)):
                break
            batch.append(reading)
        return batch
