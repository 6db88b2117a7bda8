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
import pathlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MARK = b',"hash":"'
EMPTY = hashlib.sha256(b"").digest()
ZEROS = bytes(32)
BODY = ("size", "root", "head", "base", "time_ms", "key")


def leaf(data):
    return hashlib.sha256(b"\x00" + data).digest()


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def digest(text):
    """32 bytes from 64 lower-case hexadecimal digits and from nothing else."""
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("not 64 hexadecimal digits")
    return bytes.fromhex(text)


def signed_by(key, signature, message):
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
        edge = state["edge"]
        return cls(edge["size"], [digest(peak) for peak in edge["peaks"]], digest(state["last"]))

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


class Checkpoint:
    def __init__(self, text):
        value = json.loads(text)
        if list(value) != [*BODY, "signature"]:
            raise ValueError("not the fields of a checkpoint, or not in their order")
        body = json.dumps({name: value[name] for name in BODY}, separators=(",", ":"))
        self.size, self.root, self.key = value["size"], digest(value["root"]), digest(value["key"])
        self.base, head = Tree.of(value["base"]), Tree.of(value["head"])
        message = b"clawgate audit checkpoint 1\n" + body.encode()
        self.genuine = (
            signed_by(self.key, value["signature"], message) and head.size == self.size and head.root() == self.root
        )


class Rotation:
    """A line `audit.key`."""

    def __init__(self, entry):
        details = entry["details"] or {}
        self.seq, self.start, self.end = entry["seq"], details.get("from"), details.get("to")
        message = f"clawgate audit key 1\n{self.start}\n{self.end}\n{self.seq}\n{entry['prev']}\n"
        try:
            self.genuine = signed_by(digest(self.start), details.get("signature"), message.encode())
        except ValueError:
            self.genuine = False


def parse(line):
    """The entry of a line and its hash; an error where it does not match its own hash."""
    body, mark, tail = line.rpartition(MARK)
    if not mark or not tail.endswith(b'"}'):
        raise ValueError("no line of the log")
    body += b"}"
    stated = digest(tail[:-2].decode("ascii"))
    if leaf(body) != stated:
        raise ValueError("it does not match its own hash")
    return json.loads(body), stated


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
                checkpoint = Checkpoint(text)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.find("checkpoint", f"it is none: {error}")
            else:
                if checkpoint.genuine:
                    self.checkpoint, self.tree = checkpoint, checkpoint.base
                else:
                    self.find("checkpoint", "its signature is false")
        if self.anchor and not self.anchor.genuine:
            self.find("anchor", "its signature is false")
        seen = set()
        for line in old_keys.splitlines():
            try:
                entry, hash_ = parse(line)
            except ValueError:
                continue
            if entry["action"] == "audit.key" and entry["seq"] < self.tree.size and hash_ not in seen:
                seen.add(hash_)
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
        try:
            entry, hash_ = parse(line)
        except ValueError as error:
            self.find(where, f"the line was changed: {error}")
            self.tree.push(ZEROS)
            return
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

    # The checkpoint before the lines: what is written meanwhile is merely not signed yet.
    text = read("checkpoint.json")
    verifier.begin(None if text is None else text.decode("utf-8", "replace"), read("keys.jsonl") or b"")
    files = sorted(folder.glob("audit-*.jsonl"), key=lambda path: int(path.stem.removeprefix("audit-")))
    firsts = [int(path.stem.removeprefix("audit-")) for path in files]
    for index, path in enumerate(files):
        is_last = index + 1 == len(files)
        if not is_last and firsts[index + 1] <= verifier.tree.size and firsts[index] < verifier.tree.size:
            continue  # Dropped already: only its removal was cut off.
        *lines, rest = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            verifier.line(f"{path.name}:{number}", line)
        if rest and not is_last:
            verifier.find(path.name, "it ends within a line")


def verify_export(verifier, path):
    *lines, checkpoint = path.read_bytes().rstrip(b"\n").split(b"\n")
    verifier.begin(checkpoint.decode("utf-8", "replace"))
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
        anchor = Checkpoint(given.anchor.read_text().strip().splitlines()[-1])
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
