#!/usr/bin/python3
"""Checks a clawgate audit log. Written from docs/audit.md alone, as a second opinion on `clawgate audit verify`.

    verify.py LOG [--key HEX] [--anchor FILE]

LOG is the folder `audit` of a gateway (or a copy), or a file that `clawgate audit export` wrote. --key is the public
key that signed it, now or before a change of keys. --anchor is a checkpoint that was kept elsewhere, for example as it
was published. Prints what is wrong, a line each, and exits 1; says "whole" and exits 0 where nothing is.
"""

import argparse
import hashlib
import json
import math
import pathlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MARK = b',"hash":"'
EMPTY = hashlib.sha256(b"").digest()
ZEROS = bytes(32)
BODY = ("size", "root", "head", "base", "time_ms", "key")
FIELDS = ("seq", "time", "boot_ms", "boot_id", "actor", "action", "subject", "outcome", "reason", "details", "prev")
# The longest line, its line feed included.
LONGEST = 64 << 10
# Objects and lists within each other, the line itself counted.
DEEPEST = 127
# Where the points of small order are: under such a key anything has a good signature.
FIELD = 2**255 - 19
SMALL_ORDER = {0, 1, FIELD - 1} | {
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
}


def leaf(data):
    return hashlib.sha256(b"\x00" + data).digest()


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def digest(text):
    """32 bytes from 64 lower-case hexadecimal digits and from nothing else."""
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("not 64 hexadecimal digits")
    return bytes.fromhex(text)


def whole(value, least=0, most=2**64 - 1):
    """A whole number in this range and nothing that merely equals one."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError("not a whole number in its range")
    return value


def typed(value, *kinds):
    if type(value) not in kinds:
        raise ValueError("a field of another type")
    return value


class Fields(dict):
    """An object, and which of its names stand in it more than once."""

    def __init__(self, pairs):
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = {name for name in names if names.count(name) > 1} if len(self) < len(names) else set()

    def has_once(self, *names):
        if self.twice & set(names):
            raise ValueError("a field twice")


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def decoded(text):
    """What JSON text says; an error for what another reader could take otherwise, or not at all."""

    def fraction(digits):
        if not math.isfinite(float(digits)):
            raise ValueError("no number")
        return float(digits)

    def number(digits):
        value = fraction(digits)
        return value if digits == "-0" else int(digits)

    def constant(word):
        raise ValueError(word)

    try:
        value = json.loads(
            text, object_pairs_hook=Fields, parse_int=number, parse_float=fraction, parse_constant=constant
        )
        json.dumps(value, ensure_ascii=False).encode()  # Half a character of two halves is none.
        if depth(value) > DEEPEST:
            raise ValueError("too deep")
    except RecursionError:
        raise ValueError("too deep") from None
    return typed(value, Fields)


def signed_by(key, signature, message):
    if (int.from_bytes(key, "little") & (2**255 - 1)) % FIELD in SMALL_ORDER:
        return False
    if not isinstance(signature, str) or not re.fullmatch("[0-9a-f]{128}", signature):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


class Tree:
    """An RFC 6962 tree: the roots of its full subtrees, each with its height, the largest first."""

    def __init__(self, size=0, peaks=(), last=ZEROS):
        heights = [height for height in range(64, -1, -1) if size >> height & 1]
        if len(heights) != len(peaks):
            raise ValueError("the number of peaks is not that of the size")
        self.size, self.last = size, last
        self.peaks = list(zip(heights, peaks))

    @classmethod
    def of(cls, state):
        edge = typed(typed(state, Fields)["edge"], Fields)
        state.has_once("edge", "last")
        edge.has_once("size", "peaks")
        peaks = [digest(peak) for peak in typed(edge["peaks"], list)]
        return cls(whole(edge["size"]), peaks, digest(state["last"]))

    def push(self, hash_):
        height, peak = 0, hash_
        while self.peaks and self.peaks[-1][0] == height:
            height, peak = height + 1, node(self.peaks.pop()[1], peak)
        self.peaks.append((height, peak))
        self.size, self.last = self.size + 1, hash_

    def root(self):
        if not self.peaks:
            return EMPTY
        *rest, (_, root) = self.peaks
        for _, peak in reversed(rest):
            root = node(peak, root)
        return root


def signed_state(state):
    """A state as it was signed: what else may stand in it is left out."""
    edge = state["edge"]
    return {"edge": {"size": edge["size"], "peaks": edge["peaks"]}, "last": state["last"]}


class Checkpoint:
    def __init__(self, text):
        value = decoded(text)
        value.has_once(*BODY, "signature")
        self.size, self.root, self.key = whole(value["size"]), digest(value["root"]), digest(value["key"])
        self.base, head = Tree.of(value["base"]), Tree.of(value["head"])
        whole(value["time_ms"], -(2**63), 2**63 - 1)
        states = {"head": signed_state(value["head"]), "base": signed_state(value["base"])}
        body = json.dumps({name: states.get(name, value[name]) for name in BODY}, separators=(",", ":"))
        message = b"clawgate audit checkpoint 1\n" + body.encode()
        self.genuine = (
            signed_by(self.key, typed(value["signature"], str), message)
            and head.size == self.size
            and head.root() == self.root
        )

    @classmethod
    def kept(cls, text):
        """The one in a file that was kept: its last line, or all of it."""
        try:
            return cls(text.strip().split("\n")[-1])
        except (ValueError, KeyError, TypeError):
            return cls(text)


class Rotation:
    """A line `audit.key`."""

    def __init__(self, entry):
        details = entry["details"] if isinstance(entry["details"], dict) else {}
        self.seq, self.start, self.end = entry["seq"], details.get("from"), details.get("to")
        message = f"clawgate audit key 1\n{self.start}\n{self.end}\n{self.seq}\n{entry['prev']}\n"
        try:
            self.genuine = signed_by(digest(self.start), details.get("signature"), message.encode())
        except ValueError:
            self.genuine = False


def parse(line):
    """The entry of a line and its hash; an error where it does not match its own hash."""
    body, mark, tail = line.rpartition(MARK)
    if not mark or not tail.endswith(b'"}') or len(line) >= LONGEST:
        raise ValueError("no line of the log")
    body += b"}"
    stated = digest(tail[:-2].decode("ascii"))
    if leaf(body) != stated:
        raise ValueError("it does not match its own hash")
    entry = decoded(body.decode())
    try:
        check(entry)
    except KeyError as missing:
        raise ValueError(f"no {missing}") from None
    return entry, stated


def check(entry):
    """That the fields are there, each once and of its type."""
    entry.has_once(*FIELDS)
    for name in ("seq", "boot_ms"):
        whole(entry[name])
    for name in ("time", "action", "subject"):
        typed(entry[name], str)
    typed(entry.get("boot_id", ""), str)
    typed(entry.get("reason"), str, type(None))
    entry["details"]
    digest(entry["prev"])
    if entry["outcome"] not in ("ok", "refused", "failed"):
        raise ValueError("no outcome")
    actor = typed(entry["actor"], Fields)
    actor.has_once("kind", *{"uid": ("uid", "name"), "device": ("id",), "cloud": ("key",)}.get(typed(actor["kind"], str), ()))
    if actor["kind"] == "uid":
        whole(actor["uid"], most=2**32 - 1)
        typed(actor.get("name"), str, type(None))
    elif actor["kind"] == "device":
        if not re.fullmatch("[a-z0-9_-]{1,32}", typed(actor["id"], str)):
            raise ValueError("no device")
    elif actor["kind"] == "cloud":
        typed(actor.get("key"), str, type(None))
    elif actor["kind"] != "daemon":
        raise ValueError("no actor")


class Verifier:
    def __init__(self, key=None, anchor=None):
        self.key, self.anchor, self.checkpoint = key, anchor, None
        self.findings, self.rotations, self.tree = [], [], Tree()

    def find(self, where, what):
        self.findings.append(f"{where}: {what}")

    def begin(self, text, old_keys=b""):
        if text is None:
            self.find("checkpoint", "it is missing")
        else:
            try:
                checkpoint = Checkpoint(text.decode())
            except (ValueError, KeyError, TypeError) as error:
                self.find("checkpoint", f"it is none: {error}")
            else:
                if checkpoint.genuine:
                    self.checkpoint, self.tree = checkpoint, checkpoint.base
                else:
                    self.find("checkpoint", "its signature is false")
        if self.anchor and not self.anchor.genuine:
            self.find("anchor", "its signature is false")
        kept = {}
        for line in old_keys.split(b"\n"):
            try:
                entry, hash_ = parse(line)
            except ValueError:
                continue
            if entry["action"] == "audit.key" and entry["seq"] < self.tree.size:
                kept[hash_] = entry
        for entry in sorted(kept.values(), key=lambda entry: entry["seq"]):
            self.rotate("keys.jsonl", Rotation(entry))
        self.compare()

    def rotate(self, where, rotation):
        if not rotation.genuine:
            self.find(where, "the change of the key was not signed by the key before it")
            return
        if self.rotations and self.rotations[-1].end != rotation.start:
            self.find(where, "the change of the key was signed by a key that was not in use")
        self.rotations.append(rotation)

    def line(self, where, line):
        """Takes up a line; its number, where it is one."""
        try:
            entry, hash_ = parse(line)
        except ValueError as error:
            self.find(where, f"the line was changed: {error}")
            self.tree.push(ZEROS)
            return None
        if entry["seq"] != self.tree.size:
            self.find(where, f"number {entry['seq']} where {self.tree.size} belongs: lines are missing or out of order")
            # Nothing can be said of the tree any more: go on with the numbers alone.
            self.tree = Numbers(entry["seq"])
        elif digest(entry["prev"]) != self.tree.last:
            self.find(where, "it does not follow from the line before")
        self.tree.push(hash_)
        self.compare()
        if entry["action"] == "audit.key":
            self.rotate(where, Rotation(entry))
        return entry["seq"]

    def compare(self):
        for name, stated in (("checkpoint", self.checkpoint), ("anchor", self.anchor)):
            if stated and stated.size == self.tree.size and self.tree.root() not in (None, stated.root):
                self.find(name, f"the {stated.size} lines up to here have another root: at least one was replaced")

    def key_at(self, size):
        for rotation in reversed(self.rotations):
            if rotation.seq < size:
                return rotation.end
        return self.rotations[0].start if self.rotations else None

    def end(self):
        for name, stated in (("checkpoint", self.checkpoint), ("anchor", self.anchor)):
            if stated and self.tree.size < stated.size:
                self.find(name, f"it speaks for {stated.size} lines, but the log ends after {self.tree.size}: cut off")
        if self.checkpoint:
            newest = self.checkpoint.key.hex()
            if self.key_at(self.checkpoint.size) not in (None, newest):
                self.find("checkpoint", "signed by a key that was not in use at its size")
            known = {newest} | {key for rotation in self.rotations for key in (rotation.start, rotation.end)}
            if self.key and self.key not in known:
                self.find("checkpoint", f"signed by another key: {newest}")
            if self.anchor and self.anchor.genuine:
                if self.anchor.key.hex() != (self.key_at(self.anchor.size) or newest):
                    self.find("anchor", f"signed by another key: {self.anchor.key.hex()}")
        return self.findings


class Numbers:
    """Stands for a tree whose hashes are lost: counts, and has no root."""

    def __init__(self, size):
        self.size, self.last = size, ZEROS

    def push(self, hash_):
        self.size, self.last = self.size + 1, hash_

    def root(self):
        return None


def verify_folder(verifier, folder):
    def read(name):
        path = folder / name
        return path.read_bytes() if path.exists() else None

    def number(path):
        """Of its first line; none for a file that has another kind of name."""
        digits = re.fullmatch(r"audit-([0-9]+)\.jsonl", path.name)
        first = int(digits[1]) if digits else None
        return first if digits and path.name == f"audit-{first:012}.jsonl" and first < 2**64 else None

    # The checkpoint before the lines: what is written meanwhile is merely not signed yet.
    text = read("checkpoint.json")
    verifier.begin(text, read("keys.jsonl") or b"")
    files = sorted((number(path), path) for path in folder.iterdir() if number(path) is not None)
    base = verifier.tree.size
    for index, (first, path) in enumerate(files):
        is_last = index + 1 == len(files)
        if not is_last and files[index + 1][0] <= base:
            continue  # Dropped already: only its removal was cut off.
        *lines, rest = path.read_bytes().split(b"\n")
        for count, line in enumerate(lines, 1):
            seq = verifier.line(f"{path.name}:{count}", line)
            if count == 1 and seq not in (None, first):
                verifier.find(path.name, f"it begins with number {seq}")
        if rest and (not is_last or len(rest) >= LONGEST):
            verifier.find(path.name, "it ends within a line")


def verify_export(verifier, path):
    *lines, checkpoint = path.read_bytes().rstrip(b"\n").split(b"\n")
    verifier.begin(checkpoint)
    for number, line in enumerate(lines, 1):
        verifier.line(f"{path.name}:{number}", line)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("log", type=pathlib.Path)
    arguments.add_argument("--key")
    arguments.add_argument("--anchor", type=pathlib.Path)
    given = arguments.parse_args()
    anchor = None
    if given.anchor:
        anchor = Checkpoint.kept(given.anchor.read_bytes().decode())
    verifier = Verifier(given.key, anchor)
    verify = verify_folder if given.log.is_dir() else verify_export
    verify(verifier, given.log)
    findings = verifier.end()
    for finding in findings:
        print(finding)
    if not findings:
        print(f"whole: {verifier.tree.size} lines, key {verifier.checkpoint.key.hex()}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
