"""Values that others published, and the worked example of docs/protocol.md."""

import json
import unittest
from itertools import count

from clawgate_sensor import cbor, code, crypto, frame, kem
from clawgate_sensor.keys import Key
from clawgate_sensor.pairing import ISSUED, LABEL, Own, Run
from clawgate_sensor.session import Session, answer, respond

from page import VECTORS, example, line

PRS, DEVICE = "K7QF3M9", "th-kit"
OWN = Own(DEVICE, bytes([0x22]) * 32, "temperature:Cel", "1.0.0", takes=256)


def upwards(start: int):
    """A random source that counts."""
    numbers = count(start)
    return lambda size: bytes(next(numbers) & 255 for _ in range(size))


def published(name: str) -> dict:
    return json.loads((VECTORS / name).read_text())


class Published(unittest.TestCase):
    def test_cpace_of_the_draft(self):
        v = {name: bytes.fromhex(x) for name, x in published("cpace-x25519-sha512.json")["G_25519"].items()}
        g = crypto.cpace_generator(v["PRS"], v["CI"], v["sid"])
        self.assertEqual(g, v["g"])
        self.assertEqual(crypto.x25519(v["ya"], g), v["Ya"])
        k = crypto.x25519(v["ya"], v["Yb"])
        self.assertEqual(k, v["K"])
        self.assertEqual(crypto.cpace_isk(v["sid"], k, v["Ya"], v["ADa"], v["Yb"], v["ADb"]), v["ISK_IR"])

    def test_points_of_low_order_are_refused_and_the_others_of_the_draft_compute(self):
        points = published("cpace-x25519-sha512.json")["X25519_points"]
        refused = set()
        for name, point in points.items():
            try:
                crypto.x25519(bytes([0x77]) * 32, bytes.fromhex(point))
            except crypto.Untrue:
                refused.add(name.split()[-1])
        self.assertEqual(refused, {"Y0", "Y1", "Y2", "Y3", "Y4", "Y5", "Y7"})

    def test_noise_kkpsk0_of_cacophony(self):
        for v in published("noise-kkpsk0-25519-chachapoly-sha512.json")["vectors"]:
            text = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in v["messages"]]
            two, payload, (receive, send) = respond(
                bytes.fromhex(v["resp_prologue"]),
                bytes.fromhex(v["resp_psks"][0]),
                bytes.fromhex(v["resp_remote_static"]),
                bytes.fromhex(v["resp_static"]),
                bytes.fromhex(v["resp_ephemeral"]),
                text[0][1],
                text[1][0],
            )
            self.assertEqual((payload, two), (text[0][0], text[1][1]))
            self.assertEqual(crypto.unseal(receive, 0, b"", text[2][1]), text[2][0])
            self.assertEqual(crypto.seal(send, 0, b"", text[3][0]), text[3][1])

    def test_ml_kem_768_of_nist(self):
        for v in published("ml-kem-768-encapsulation.json")["tests"]:
            ek, m = bytes.fromhex(v["ek"]), bytes.fromhex(v["m"])
            self.assertEqual(kem.encapsulate(ek, m), (bytes.fromhex(v["k"]), bytes.fromhex(v["c"])))

    def test_an_encapsulation_key_with_a_number_too_large_is_refused(self):
        with self.assertRaises(ValueError):
            kem.encapsulate(b"\xff\xff\xff" + bytes(1181), bytes(32))


class WorkedExample(unittest.TestCase):
    def pair(self, heading: str, ceremony: int) -> Run:
        v, counted = example(heading), []
        run = Run(OWN, PRS, ceremony, v["M1"], 0, upwards(0x80))
        self.assertEqual(run.answer, v["M2"])
        self.assertEqual(run.take(v["M3"], counted.append, self.fail), v["M4"])
        self.assertEqual(run.take(v["M5"], counted.append, lambda key: None), v["M6"])
        self.assertEqual(run.key.psk, v["psk"])
        self.assertEqual(counted, [None, True])
        return run

    def test_the_label_ceremony(self):
        key, v = self.pair("Label", LABEL).key, example("Label")
        self.assertEqual(key.key_id_key, v["key-id key"])
        self.assertEqual(key.key_id, v["key id"])
        self.assertEqual(key.pairing_id, v["pairing id"])
        self.assertEqual(key.advertising_key, v["advertising key"])

    def test_the_issued_ceremony(self):
        self.pair("Issued", ISSUED)

    def test_the_session_after_it(self):
        key, v = self.pair("Label", LABEL).key, example("The session after it")
        reply, session = answer(v["Handshake1"], key, OWN.static, DEVICE, upwards(0xC0)(32))
        self.assertEqual(v["Handshake1"][2:10], crypto.mac(key.key_id_key, v["Handshake1"][10:42] + b"\x60")[:8])
        self.assertEqual(reply, v["Handshake2"])
        self.assertEqual(session.open(v["Record"]), v["text of the first record"])
        with self.assertRaises(crypto.Untrue):
            session.open(v["Record"])


class Lines(unittest.TestCase):
    def test_frames(self):
        self.assertEqual(frame.frame(line("Probe")), line("its frame"))
        check = line("check frame")
        self.assertEqual(frame.uncobs(check[1:-1])[:-4], b"123456789")

    def test_a_message_in_fragments(self):
        assembler = frame.Assembler()
        pieces = [line(f"fragment {n}") for n in (1, 2, 3)]
        self.assertEqual([assembler.push(p[0], p[1:]) for p in pieces], [None, None, bytes(range(0x2D))])

    def test_codes(self):
        self.assertEqual(code.show(PRS), "K7QF-3M9B")
        self.assertEqual(code.qr("th-kit-7f3a", PRS), "CLAWGATE:1:th-kit-7f3a:K7QF-3M9B")
        self.assertEqual(code.parse("k7qf 3m9b"), PRS)
        for typed in ("K7QF-3M9C", "K7QF-3M9", "K7QU-3M9B"):
            with self.assertRaises(code.WrongCode):
                code.parse(typed)

    def test_a_rotating_id(self):
        key = Key("shed", b"", b"", b"", b"", b"", bytes([7]) * 32)
        self.assertEqual(key.rotating_id(bytes([1, 2, 3])), line("rotating id"))

    def test_messages_come_back_as_they_were(self):
        for name in ("Ident", "paired", "Readings", "with uptime", "Ack", "Gap", "Time", "Command", "Hello", "Bye"):
            text = line(name)
            self.assertEqual(cbor.encode(cbor.decode_map(text[1:])), text[1:], name)


if __name__ == "__main__":
    unittest.main()
