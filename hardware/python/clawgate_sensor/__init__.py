"""A clawgate sensor for the lab bench, in plain Python over a serial line.

Written from docs/protocol.md alone, so that it is also a test of that page. It is meant to be read: every module
is one section of the page. Its arithmetic on secrets is **not constant-time** (Python's integers never are), so it
has no place on a line that an attacker can time.
"""
