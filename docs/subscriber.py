#!/usr/bin/python3
"""Prints every reading once, as a JSON line: a subscriber of clawgate's telemetry in Python.

Needs paho-mqtt 1.6, PyJWT and cryptography (Debian: python3-paho-mqtt python3-jwt python3-cryptography).
The key is made by `clawgate issuer key dash.pem`; what that prints is registered with the issuer.
"""

import argparse
import collections
import json
import ssl
import sys
import time
import urllib.parse
import urllib.request
import uuid

import jwt
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REMEMBERED = 100_000  # ids; more than the broker can have in flight


def fetch_token(issuer, client, key):
    """An access token and its life in seconds: client_credentials with a signed assertion (RFC 7523)."""
    now = int(time.time())
    claims = {"iss": client, "sub": client, "aud": issuer, "iat": now, "exp": now + 60, "jti": uuid.uuid4().hex}
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION,
        "client_assertion": jwt.encode(claims, key, algorithm="ES256"),
    }
    body = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"{issuer}/token", body, timeout=20) as answer:
        token = json.load(answer)
    return token["access_token"], token["expires_in"]


def new_here(seen, name):
    """Whether this reading came for the first time: the broker delivers at least once."""
    if name in seen:
        return False
    seen[name] = None
    if len(seen) > REMEMBERED:
        seen.popitem(last=False)
    return True


def on_message(_client, seen, message):
    attributes = dict(getattr(message.properties, "UserProperty", []))
    if message.topic.endswith("/up/state"):
        line = {"topic": message.topic, "state": json.loads(message.payload)}
    elif not new_here(seen, attributes["id"]):
        return
    else:
        line = {"topic": message.topic, "id": attributes["id"], "type": attributes["type"]}
        if message.properties.ContentType == "application/senml+cbor":
            line["cbor"] = message.payload.hex()
        else:
            line["content"] = json.loads(message.payload)
    print(json.dumps(line), flush=True)


def say(words):
    print(words, file=sys.stderr, flush=True)


def run(options):
    key = open(options.key, encoding="ascii").read()
    client = mqtt.Client(options.client, userdata=collections.OrderedDict(), protocol=mqtt.MQTTv5)
    client.on_message = on_message
    # A session that the broker keeps: nothing is missed while the token changes.
    client.on_connect = lambda client, *_: client.subscribe(options.topic, qos=1)
    client.on_subscribe = lambda *_: say("subscribed")
    if options.ca:
        client.tls_set(options.ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
    keep = Properties(PacketTypes.CONNECT)
    keep.SessionExpiryInterval = 3600
    while True:
        token, life = fetch_token(options.issuer, options.client, key)
        say(f"token for {life} s")
        client.username_pw_set(options.client, token)
        client.connect(options.host, options.port, keepalive=30, clean_start=False, properties=keep)
        # paho 1.6 cannot re-authenticate on a live connection: connect anew before the token ends.
        refresh_at = time.monotonic() + 0.75 * life
        while time.monotonic() < refresh_at:
            if client.loop(timeout=0.5) != mqtt.MQTT_ERR_SUCCESS:
                time.sleep(1)
                break
        client.disconnect()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--ca", help="the CA of the broker's certificate; without it there is no TLS")
    parser.add_argument("--issuer", default="http://127.0.0.1:7480")
    parser.add_argument("--client", default="dash", help="the name that is registered with the issuer")
    parser.add_argument("--key", default="dash.pem", help="its private key")
    parser.add_argument("--topic", default="claw/v1/default/+/+/up/#")
    try:
        run(parser.parse_args())
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
