"""The whole sensor: messages and the time in, messages out (docs/protocol.md, "Discovery" and "Sensor behaviour").

It opens nothing and waits for nothing; `__main__` gives it a line, a clock and a keyboard. Times are milliseconds
since this process started (the sensor's uptime).
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from . import code, pairing
from .cbor import Refused, decode_map, encode
from .keys import Key, Store
from .pairing import ISSUED, LABEL, Ended, Own, Run
from .session import Sessions
from .telemetry import Queue, Reading

WINDOW_S = 300
REFUSE = b"\x1f\xa0"
_IDENTIFY_EVERY_MS = 10_000
_IDENTIFY_MOST_S = 60
_UNANSWERED_TAGS = 3
_HELLO_MS, _HELLO_MOST_MS = 3000, 30_000
_DONE, _REFUSED, _NOT_NOW = 0, 1, 2


@dataclass(frozen=True)
class About:
    """What this unit is, apart from its keys."""

    device: str
    name: str
    capabilities: str
    firmware: str
    label: str | None = None
    suites: tuple[int, ...] = pairing.SUITES


@dataclass
class Window:
    """While one is open a gateway may pair."""

    ceremony: int
    prs: str
    until_ms: int
    id: int
    unanswered: int = 0


class Sensor:
    """One sensor. `tell` is called with what a person beside it would see."""

    def __init__(self, about: About, store: Store, tell: Callable[[str], None], random=os.urandom, now_ms: int = 0):
        self.about, self.store, self._tell, self._random = about, store, tell, random
        self.queue = Queue()
        self._sessions = Sessions(random)
        self._window: Window | None = None
        self._run: Run | None = None
        self._showed_pending = False
        self._identified_ms = -_IDENTIFY_EVERY_MS
        self._clock_ms: int | None = None
        self._hello: tuple[int, int] | None = None
        self._ready_ms = now_ms + self._backoff_ms()

    # What a person does.

    def press_button(self, now_ms: int, seconds: int = WINDOW_S) -> bool:
        """Opens the label window; a unit without a label opens nothing."""
        if self.about.label is None:
            self._tell("this unit has no label: enter a code instead")
            return False
        self.store.attempts, self._ready_ms = 0, now_ms
        self.store.save()
        self._open(LABEL, self.about.label, seconds, now_ms)
        return True

    def enter_code(self, typed: str, now_ms: int) -> bool:
        """Opens the issued window for a code that was typed here."""
        try:
            self._open(ISSUED, code.parse(typed), WINDOW_S, now_ms)
        except code.WrongCode as error:
            self._tell(f"code refused: {error}")
            return False
        return True

    def factory_reset(self) -> None:
        """Erases keys, count and readings, and begins anew."""
        self.store.erase()
        self.queue.erase()
        self._sessions = Sessions(self._random)
        self._window = self._run = self._hello = None
        self._ready_ms = 0
        self._tell("reset: all keys erased")

    def add(self, records: list[dict], now_ms: int) -> int:
        """Takes one reading (SenML records, without a time) and returns its number."""
        if self._clock_ms is None:
            return self.queue.add(Reading(encode(records), now_ms))
        timed = [{-3: (self._clock_ms + now_ms) / 1000} | records[0], *records[1:]]
        return self.queue.add(Reading(encode(timed), None))

    def status(self) -> dict:
        """What a person beside it may want to know."""
        return {
            "paired": bool(self.store.current or self.store.pending),
            "connected": self._sessions.live is not None,
            "window": self._window is not None,
            "held": len(self.queue),
            "made": self.queue.last,
            "clock_set": self._clock_ms is not None,
        }

    # What the line and the clock do.

    def handle(self, message: bytes, now_ms: int) -> list[bytes]:
        """Takes a message; what is not understood, not expected or not true is dropped in silence."""
        self._time_passed(now_ms)
        if not message:
            return []
        kind = message[0]
        if kind in (0x11, 0x13, 0x15):
            answer = self._pairing(message, now_ms)
        elif kind == 0x21:
            keys = [key for key in (self.store.pending, self.store.current) if key]
            answer = self._sessions.handshake(message, keys, self.store.static, self.about.device, now_ms)
        elif kind == 0x23:
            return self._record(message, now_ms)
        else:
            answer = self._clear(message, now_ms)
        return [answer] if answer else []

    def poll(self, now_ms: int) -> bytes | None:
        """The next message that this sensor has to say by itself; call again until there is none."""
        self._time_passed(now_ms)
        session = self._sessions.live
        if session is None:
            return None
        if self._hello:
            at_ms, wait_ms = self._hello
            if now_ms < at_ms:
                return None
            self._hello = now_ms + wait_ms, min(2 * wait_ms, _HELLO_MOST_MS)
            synced = self._clock_ms is not None
            about = {1: self.queue.epoch, 2: self.queue.owed, 3: now_ms, 4: synced, 5: self.about.firmware}
            return session.seal(b"\x46" + encode(about))
        text = self.queue.next_message(now_ms)
        return text and session.seal(text)

    def bye(self) -> bytes | None:
        """Ends the session, as the last thing before the power is switched off in order."""
        return self._sessions.live and self._sessions.live.seal(b"\x47" + encode({}))

    def _time_passed(self, now_ms: int) -> None:
        if self._run and now_ms >= self._run.until_ms:
            self._end_run()
        if self._window and now_ms >= self._window.until_ms:
            self._close("its time is over")

    # Finding each other.

    def _clear(self, message: bytes, now_ms: int) -> bytes | None:
        try:
            fields = decode_map(message[1:])
        except Refused:
            return None
        if message[0] == 0x01:
            return self._ident(now_ms)
        if message[0] == 0x03 and type(fields.get(1)) is int and fields[1] >= 0:
            self._blink(fields[1], now_ms)
        if message[0] == 0x1F and self._run and not self._run.done:
            self._tell("pairing failed: the gateway refused")
            self._end_run()
        return None

    def _ident(self, now_ms: int) -> bytes:
        slots = [key for key in (self.store.current, self.store.pending) if key]
        fields = {1: pairing.VERSION, 2: bool(slots), 6: bytes(self.about.suites), 7: 4096}
        if slots:
            self._showed_pending = not self._showed_pending
            fields[4] = slots[-1 if self._showed_pending else 0].rotating_id(self._random(3))
        if self._window or not slots:
            fields |= {3: self.about.device, 5: self.about.name}
        if self._window:
            seconds = -(-(self._window.until_ms - now_ms) // 1000)
            fields[8] = {1: self._window.ceremony, 2: seconds, 3: self._window.id}
        return b"\x02" + encode(fields)

    def _blink(self, seconds: int, now_ms: int) -> bool:
        if now_ms - self._identified_ms < _IDENTIFY_EVERY_MS:
            return False
        self._identified_ms = now_ms
        self._tell(f"blink for {min(seconds, _IDENTIFY_MOST_S)} s")
        return True

    # Pairing.

    def _open(self, ceremony: int, prs: str, seconds: int, now_ms: int) -> None:
        self._run = None
        self._window = Window(ceremony, prs, now_ms + 1000 * seconds, secrets.randbits(32))
        whose = "label's" if ceremony == LABEL else "entered"
        self._tell(f"pairing window open for the {whose} code")

    def _close(self, why: str) -> None:
        self._window = self._run = None
        self._tell(f"pairing window closed: {why}")

    def _pairing(self, message: bytes, now_ms: int) -> bytes | None:
        if self._run is None and (message[0] != 0x11 or self._window is None):
            return None
        try:
            if self._run:
                return self._run.take(message, lambda right: self._judge(right, now_ms), self._keep)
            if self._window.ceremony == LABEL and now_ms < self._ready_ms:
                raise Ended("the waiting time after a wrong code is not over")
            about = self.about
            own = Own(about.device, self.store.static, about.capabilities, about.firmware, about.suites)
            self._run = Run(own, self._window.prs, self._window.ceremony, message, now_ms, self._random)
            return self._run.answer
        except (Ended, ValueError, OSError) as error:
            self._tell(f"pairing failed: {error}")
            self._end_run()
            return REFUSE

    def _end_run(self) -> None:
        self._run = None
        if self._window and self._window.unanswered >= _UNANSWERED_TAGS:
            self._close("its code is forgotten, nobody proved it in three runs")

    def _judge(self, right: bool | None, now_ms: int) -> None:
        """Counts before an own tag goes out or a guess is compared; a right guess clears what an entered code lost."""
        if self._run.ceremony == ISSUED:
            self._window.unanswered = 0 if right else self._window.unanswered + (right is None)
        elif right is None:
            self.store.attempts += 1
            self.store.save()
            self._ready_ms = now_ms + self._backoff_ms()

    def _backoff_ms(self) -> int:
        attempts = self.store.attempts
        return 1000 * min(300, 2 ** min(16, max(0, attempts - 5))) if attempts else 0

    def _keep(self, key: Key) -> None:
        before = self.store.pending, self.store.attempts
        self.store.pending, self.store.attempts = key, 0
        try:
            self.store.save()
        except OSError:
            self.store.pending, self.store.attempts = before
            raise
        self._window, self._ready_ms = None, 0
        self._tell(f"paired with {key.gateway}, suite {self._run.suite}, pairing {key.pairing_id.hex()}")

    # In a session.

    def _record(self, message: bytes, now_ms: int) -> list[bytes]:
        opened = self._sessions.open(message)
        if opened is None:
            return []
        text, begins = opened
        if begins:
            if self._sessions.live.key is self.store.pending:
                self.store.current, self.store.pending = self.store.pending, None
                self.store.save()
            self.queue.session_ended()
            self._hello = now_ms, _HELLO_MS
            self._tell("session open")
        try:
            fields = decode_map(text[1:])
        except Refused:
            return []
        return self._told(text[:1], fields, now_ms)

    def _told(self, kind: bytes, fields: dict, now_ms: int) -> list[bytes]:
        numbers = [fields.get(key) for key in (1, 2, 3)]
        whole = [type(number) is int and number >= 0 for number in numbers]
        if kind == b"\x41" and all(whole):
            if self._hello and numbers[0] == self.queue.epoch:
                self._hello = None
            self.queue.acknowledged(*numbers, now_ms)
        elif kind == b"\x43" and whole[0]:
            if self._clock_ms is None:
                self._tell("clock set")
            self._clock_ms = numbers[0] - now_ms
        elif kind == b"\x44" and whole[0]:
            return self._command(numbers[0], numbers[1], numbers[2] if whole[2] else None, now_ms)
        elif kind == b"\x47":
            self._sessions.live = self._hello = None
            self._tell("session closed by the gateway")
            self.queue.session_ended()
        return []

    def _command(self, number: int, what: object, seconds: int | None, now_ms: int) -> list[bytes]:
        status, session = _REFUSED, self._sessions.live
        if what == 1 and seconds is not None:
            status = _DONE if self._blink(seconds, now_ms) else _NOT_NOW
        elif what == 2 and seconds is not None and self.about.label is not None:
            self._open(LABEL, self.about.label, min(seconds, WINDOW_S), now_ms)
            status = _DONE
        elif what == 3:
            status = _DONE
        reply = session.seal(b"\x45" + encode({1: number, 2: status}))
        if what == 3:
            self.factory_reset()
        return [reply] if reply else []
