"""A sensor on a serial line: `python3 -m clawgate_sensor --port /dev/ttyUSB0 --id lab-1 --keys lab-1.json`.

What a person does with it comes as lines on stdin: `button`, `code XXXX-XXXX`, `value 21.5`, `read 100` (so many
made-up readings at once), `reset`, `status`, `quit`. What a person would see goes to stdout, a line each.
"""

import argparse
import fcntl
import json
import math
import os
import select
import sys
import termios
import time
import tty
from pathlib import Path

from . import code
from .frame import Deframer, frame
from .keys import Damaged, Store
from .sensor import About, Sensor

FIRMWARE = "python-1"
_TICK_S = 0.05
_ENOUGH = 4096
"""Bytes that wait for the line, beyond which no more is sealed."""


def main() -> int:
    """Runs the sensor until `quit`, the end of stdin or the end of the line."""
    args = _arguments()
    if args.new_label:
        symbols = code.new()
        print(code.show(symbols), code.qr(args.id, symbols))
        return 0
    if args.reset:
        Path(args.keys).unlink(missing_ok=True)
    try:
        store = Store(Path(args.keys))
        label = args.label and code.parse(args.label)
    except (Damaged, code.WrongCode, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    about = About(
        args.id,
        args.name or args.id,
        f"{args.measures}:{args.unit}",
        FIRMWARE,
        label,
        tuple(range(1, args.suite + 1)),
    )
    sensor = Sensor(about, store, lambda text: print(text, flush=True))
    try:
        line = _pseudo(Path(args.pty)) if args.pty else _open(args.port, args.baud)
    except (OSError, ValueError) as error:
        print(f"{args.pty or args.port}: {error}", file=sys.stderr)
        return 1
    print(f"ready: {args.id} on {args.pty or args.port}", flush=True)
    return Bench(args, sensor, line).run()


class Bench:
    """Joins the sensor with the line, the clock and the keyboard."""

    def __init__(self, args: argparse.Namespace, sensor: Sensor, line: int) -> None:
        self._args, self._sensor, self._line = args, sensor, line
        self._start, self._typed, self._going = time.monotonic(), b"", True
        self._deframer, self._out = Deframer(), bytearray()
        self._next_value, self._made = self._now_ms(), 0

    def run(self) -> int:
        """Until told to end."""
        while self._going:
            readable, writable, _ = select.select([self._line, 0], [self._line] if self._out else [], [], _TICK_S)
            if 0 in readable:
                self._keyboard()
            if self._line in readable:
                data = os.read(self._line, 4096)
                if not data:
                    print("the line ended", file=sys.stderr)
                    return 1
                for message in self._deframer.feed(data):
                    self._say(self._sensor.handle(message, self._now_ms()))
            if self._args.every and self._now_ms() >= self._next_value:
                self._make_up(1)
                self._next_value += int(1000 * self._args.every)
            while len(self._out) < _ENOUGH and (message := self._sensor.poll(self._now_ms())):
                self._say([message])
            if self._line in writable:
                del self._out[: os.write(self._line, self._out)]
        return 0

    def _now_ms(self) -> int:
        return int(1000 * (time.monotonic() - self._start))

    def _say(self, messages: list[bytes]) -> None:
        for message in messages:
            self._out += frame(message)

    def _measure(self, value: float) -> None:
        self._sensor.add([{0: self._args.measures, 1: self._args.unit, 2: value}], self._now_ms())

    def _make_up(self, count: int) -> None:
        for _ in range(count):
            self._made += 1
            self._measure(20 + math.sin(self._made / 10))

    def _keyboard(self) -> None:
        data = os.read(0, 4096)
        self._typed += data
        *lines, self._typed = self._typed.split(b"\n")
        for line in lines:
            self._obey(*line.decode(errors="replace").partition(" ")[::2])
        if not data:
            self._quit()

    def _obey(self, word: str, rest: str) -> None:
        try:
            if word == "button":
                self._sensor.press_button(self._now_ms())
            elif word == "code":
                self._sensor.enter_code(rest, self._now_ms())
            elif word == "value":
                self._measure(float(rest))
            elif word == "read":
                self._make_up(int(rest))
            elif word == "status":
                print(json.dumps(self._sensor.status()), flush=True)
            elif word == "reset":
                self._sensor.factory_reset()
            elif word == "quit":
                self._quit()
            else:
                print(f"not understood: {word}", flush=True)
        except ValueError as error:
            print(f"{word}: {error}", flush=True)

    def _quit(self) -> None:
        if message := self._sensor.bye():
            os.set_blocking(self._line, True)
            os.write(self._line, self._out + frame(message))
        self._going = False


def _open(port: str, baud: int) -> int:
    line = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    fcntl.ioctl(line, termios.TIOCEXCL)
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise ValueError(f"no such rate: {baud}")
    tty.setraw(line)
    mode = termios.tcgetattr(line)
    mode[2] = mode[2] & ~termios.CRTSCTS | termios.CLOCAL
    mode[4] = mode[5] = speed
    termios.tcsetattr(line, termios.TCSANOW, mode)
    return line


def _pseudo(link: Path) -> int:
    """A pseudo terminal instead of a line, for a gateway on this machine; `link` leads to its other end."""
    line, other = os.openpty()  # the other end stays open: the terminal lives on while no gateway has it open
    tty.setraw(other)
    os.set_blocking(line, False)
    link.unlink(missing_ok=True)
    link.symlink_to(os.ttyname(other))
    return line


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clawgate_sensor", description="A clawgate sensor for the lab bench.")
    parser.add_argument("--port", default="/dev/ttyUSB0", help="the serial line")
    parser.add_argument("--pty", metavar="LINK", help="a pseudo terminal instead, and a link to it")
    parser.add_argument("--baud", type=int, default=115200)
    parser.add_argument("--id", default="lab-1", help="device id: a-z, 0-9, _ and -")
    parser.add_argument("--name", help="what people call it; the id if not given")
    parser.add_argument("--keys", default="lab-1.json", help="the key file; made at the first start")
    parser.add_argument("--label", help="the code on its label, XXXX-XXXX; without one only issued codes pair")
    parser.add_argument("--new-label", action="store_true", help="print a new code and its QR text, and end")
    parser.add_argument("--reset", action="store_true", help="factory reset before the start")
    parser.add_argument("--suite", type=int, choices=(1, 2), default=2, help="the highest suite it offers")
    parser.add_argument("--measures", default="temperature", help="name in its readings")
    parser.add_argument("--unit", default="Cel", help="unit of its readings (RFC 8428)")
    parser.add_argument("--every", type=float, default=0, help="seconds between made-up readings; 0: none")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
