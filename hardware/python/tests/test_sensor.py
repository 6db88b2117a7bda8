"""What the sensor does with a gateway that errs, and how it keeps what it owes."""

import os
import tempfile
import unittest
from pathlib import Path

from clawgate_sensor import cbor, crypto
from clawgate_sensor.keys import Damaged, Store
from clawgate_sensor.sensor import REFUSE, About, Sensor
from clawgate_sensor.telemetry import Queue, Reading

CODE = "K7QF-3M9B"


def m1(ceremony: int, suites: bytes = b"\1") -> bytes:
    return b"\x11" + cbor.encode({1: 1, 2: suites, 3: "shed", 4: ceremony, 5: os.urandom(16)})


def m3(guess: bytes | None) -> bytes:
    share = {1: crypto.public(os.urandom(32))}
    return b"\x13" + cbor.encode(share | ({} if guess is None else {3: guess}))


class WithSensor(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "keys"
        self.power_on()

    def power_on(self):
        self.said = []
        about = About("th-kit", "TH-Kit", "temperature:Cel", "1.0.0", "K7QF3M9", (1,))
        self.sensor = Sensor(about, Store(self.file), self.said.append)

    def guesses(self, now_ms: int) -> bytes:
        """One run with a wrong guess; the kind of the last answer."""
        answers = self.sensor.handle(m1(2), now_ms)
        return (answers if answers == [REFUSE] else self.sensor.handle(m3(bytes(32)), now_ms))[0]


class Pairing(WithSensor):
    def test_outside_the_window_there_is_silence(self):
        self.assertEqual(self.sensor.handle(m1(2), 0), [])
        self.sensor.press_button(0)
        self.assertEqual(self.sensor.handle(m1(2), 300_000), [])

    def test_a_wrong_guess_is_in_the_file_before_it_is_judged_and_the_next_must_wait(self):
        self.sensor.press_button(0)
        self.assertEqual(self.guesses(0), REFUSE)
        self.assertEqual(Store(self.file).attempts, 1)
        self.assertEqual(self.sensor.handle(m1(2), 999), [REFUSE])
        self.assertEqual(self.sensor.handle(m1(2), 1000)[0][0], 0x12)

    def test_from_the_sixth_wrong_guess_the_wait_doubles_and_a_power_cycle_begins_it_anew(self):
        self.sensor.press_button(0)
        now_ms = 0
        for wait_ms in (1000, 1000, 1000, 1000, 1000, 2000, 4000):
            self.guesses(now_ms)
            self.assertEqual(self.sensor.handle(m1(2), now_ms + wait_ms - 1), [REFUSE])
            now_ms += wait_ms
        self.power_on()
        self.sensor._open(2, "K7QF3M9", 300, 0)  # by a command: only a physical act ends the wait
        self.assertEqual(self.sensor.handle(m1(2), 3999), [REFUSE])
        self.sensor.press_button(3999)
        self.assertEqual(self.sensor.handle(m1(2), 3999)[0][0], 0x12)

    def test_three_tags_that_nobody_answers_forget_an_entered_code(self):
        self.sensor.enter_code(CODE, 0)
        for _ in range(3):
            self.sensor.handle(m1(1), 0)
            self.assertEqual(self.sensor.handle(m3(None), 0)[0][0], 0x14)
            self.sensor.handle(REFUSE, 0)
        self.assertEqual(self.sensor.handle(m1(1), 0), [])

    def test_a_second_m3_ends_the_run_and_the_same_one_is_answered_again(self):
        self.sensor.enter_code(CODE, 0)
        self.sensor.handle(m1(1), 0)
        first = m3(None)
        answer = self.sensor.handle(first, 0)
        self.assertEqual(self.sensor.handle(first, 0), answer)
        self.assertEqual(self.sensor.handle(m3(None), 0), [REFUSE])
        self.assertEqual(self.sensor.handle(first, 0), [])

    def test_another_ceremony_version_or_suite_is_refused_and_a_run_ends_after_ten_seconds(self):
        self.sensor.enter_code(CODE, 0)
        self.assertEqual(self.sensor.handle(m1(2), 0), [REFUSE])
        self.assertEqual(self.sensor.handle(m1(1, b"\2"), 0), [REFUSE])
        self.sensor.handle(m1(1), 0)
        self.assertEqual(self.sensor.handle(m3(None), 10_000), [])

    def test_bytes_of_any_kind_are_survived(self):
        self.sensor.enter_code(CODE, 0)
        for n in range(3000):
            self.sensor.handle(bytes([n % 256]) + os.urandom(n % 70), n)
            if n % 5 == 0:
                self.sensor.handle(m1(1), n)


class Keys(WithSensor):
    def test_a_file_that_cannot_be_read_is_not_taken_for_a_first_start(self):
        self.file.write_text(self.file.read_text()[:-20])
        self.assertRaises(Damaged, Store, self.file)

    def test_a_reset_leaves_nothing(self):
        before = self.sensor.store.static
        self.sensor.add([{2: 1}], 0)
        self.sensor.factory_reset()
        self.assertNotEqual(Store(self.file).static, before)
        self.assertEqual(len(self.sensor.queue), 0)


class Cbor(unittest.TestCase):
    def test_only_the_one_form_is_read(self):
        for refused in (
            "a1011800",  # a number that is longer than it must be
            "bf0101ff",  # indefinite
            "a201010101",  # a key twice
            "a202010101",  # keys not sorted
            "a101f6",  # null
            "a101c100",  # a tag
            "a101f97e00",  # not a number
            "a1010100",  # bytes behind it
            "a10142ff",  # shorter than it says
            "a10161ff",  # no UTF-8
            "8181818181818181" + "80",  # too deep
        ):
            with self.assertRaises(cbor.Refused, msg=refused):
                cbor.decode(bytes.fromhex(refused))
        self.assertEqual(cbor.decode(bytes.fromhex("a3010218180020f93c00")), {1: 2, 24: 0, -1: 1.0})

    def test_without_a_key_the_other_bytes_stay(self):
        self.assertEqual(cbor.without(bytes.fromhex("a3010118186161" "20f93c00"), 24).hex(), "a2010120f93c00")


class Telemetry(unittest.TestCase):
    def setUp(self):
        self.queue = Queue(room=5)

    def add(self, count: int, uptime_ms: int | None = None):
        for _ in range(count):
            self.queue.add(Reading(cbor.encode([{2: 1}]), uptime_ms))

    def sent(self, now_ms: int):
        message = self.queue.next_message(now_ms)
        return message and (message[0], cbor.decode_map(message[1:]))

    def ack(self, safe: int, following: int, now_ms: int = 0):
        self.queue.acknowledged(self.queue.epoch, safe, following, now_ms)

    def test_nothing_is_sent_before_the_gateway_has_said_what_it_has(self):
        self.add(1)
        self.assertIsNone(self.sent(0))
        self.ack(0, 1)
        self.assertEqual(self.sent(0)[1][2], 1)

    def test_a_reading_stays_until_it_is_safe(self):
        self.add(3)
        self.ack(0, 1)
        self.sent(0)
        self.ack(0, 4)
        self.assertEqual(len(self.queue), 3)
        self.ack(3, 4)
        self.assertEqual(len(self.queue), 0)

    def test_what_was_dropped_is_reported_before_what_follows(self):
        self.add(8)
        self.assertEqual(self.queue.owed, 1)
        self.ack(0, 1)
        kind, gap = self.sent(0)
        self.assertEqual((kind, gap[2], gap[3]), (0x42, 1, 3))
        self.assertEqual(self.sent(0)[1][2], 4)

    def test_a_lost_record_is_sent_again_at_once_but_not_twice_in_a_second(self):
        self.add(3)
        self.ack(0, 1)
        self.sent(0)
        self.ack(0, 1, 10)
        self.assertEqual(self.sent(10)[1][2], 1)
        while self.sent(10):
            pass
        self.ack(0, 1, 20)
        self.assertIsNone(self.sent(20))
        self.ack(0, 1, 1010)
        self.assertEqual(self.sent(1010)[1][2], 1)

    def test_after_a_loss_a_record_has_half_as_many_readings_and_more_again_with_news(self):
        self.add(5)
        self.ack(0, 1)
        self.assertEqual(len(self.sent(0)[1][3]), 5)
        self.ack(0, 1, 10)
        self.assertEqual(len(self.sent(10)[1][3]), 2)
        self.ack(0, 3, 20)
        self.assertEqual(len(self.sent(20)[1][3]), 3)

    def test_without_news_one_record_goes_again_after_three_seconds_then_six(self):
        self.add(2)
        self.ack(0, 1)
        self.sent(0)
        for at_ms in (3000, 9000, 21_000):
            self.assertIsNone(self.sent(at_ms - 1))
            self.assertEqual(self.sent(at_ms)[1][2], 1)
            self.assertIsNone(self.sent(at_ms))

    def test_an_ack_that_cannot_be_is_ignored(self):
        self.add(2)
        self.ack(0, 1)
        self.sent(0)
        self.ack(2, 2)
        self.ack(2, 4)
        self.queue.acknowledged(self.queue.epoch ^ 1, 2, 3, 0)
        self.assertEqual(len(self.queue), 2)

    def test_readings_with_an_uptime_and_without_one_do_not_share_a_message(self):
        self.add(1, 65_000)
        self.add(1, 65_250)
        self.add(1)
        self.ack(0, 1)
        fields = self.sent(0)[1]
        self.assertEqual((len(fields[3]), fields[4]), (2, [65_000, 250]))
        self.assertNotIn(4, self.sent(0)[1])


if __name__ == "__main__":
    unittest.main()
