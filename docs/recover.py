#!/usr/bin/env python3
"""Reads a kin vault without kin: docs/vault-format.md, as a program.

    age -d -i IDENTITY vault.age | docs/recover.py IDENTITY           names and versions
    age -d -i IDENTITY vault.age | docs/recover.py IDENTITY REF       the value, on standard output
    age -d -i IDENTITY vault.age | docs/recover.py IDENTITY REF N     its version N

IDENTITY holds one line AGE-SECRET-KEY-1…; with a passphrase, `age -d identity.age > IDENTITY` makes it.
Only Python's standard library is used.
"""

import base64
import hmac
import json
import struct
import sys


def derive(identity, purpose):
    """HKDF-SHA256 (RFC 5869) without salt, 32 bytes: one block."""
    key = hmac.digest(bytes(32), identity, "sha256")
    return hmac.digest(key, purpose + b"\x01", "sha256")


def rotate(x, n):
    return (x << n | x >> (32 - n)) & 0xFFFFFFFF


def quarter(s, a, b, c, d):
    for first, second, third, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[first] = (s[first] + s[second]) & 0xFFFFFFFF
        s[third] = rotate(s[third] ^ s[first], n)


def rounds(state):
    s = list(state)
    for _ in range(10):
        for column in range(4):
            quarter(s, column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(s, *(4 * row + (diagonal + row) % 4 for row in range(4)))
    return s


def initial(key, last):
    return [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), *struct.unpack("<4I", last)]


def chacha20(key, nonce, counter, text):
    out = bytearray()
    for at in range(0, len(text), 64):
        state = initial(key, struct.pack("<I", counter + at // 64) + nonce)
        stream = struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, rounds(state))))
        out += bytes(a ^ b for a, b in zip(text[at : at + 64], stream))
    return bytes(out)


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        block = message[at : at + 16] + b"\x01"
        total = (total + int.from_bytes(block, "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:], "little")) % (1 << 128)).to_bytes(16, "little")


def unseal(key, place, sealed):
    """XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha): nonce, ciphertext, tag; the place is authenticated."""
    nonce, text, tag = sealed[:24], sealed[24:-16], sealed[-16:]
    s = rounds(initial(key, nonce[:16]))
    subkey, rest = struct.pack("<8I", *s[:4], *s[12:]), bytes(4) + nonce[16:]
    pad = lambda part: part + bytes(-len(part) % 16)
    message = pad(place) + pad(text) + struct.pack("<QQ", len(place), len(text))
    once = chacha20(subkey, rest, 0, bytes(32))
    if not hmac.compare_digest(poly1305(once, message), tag):
        sys.exit(f"error: what is sealed for {place.decode()} does not authenticate")
    return chacha20(subkey, rest, 1, text)


def authenticated(identity, payload):
    """The last member is the MAC of every byte before its comma."""
    body, mac = payload[: -len(',"mac":""}') - 44], payload[-46:-2]
    ours = base64.b64encode(hmac.digest(derive(identity, b"kin/vault-mac/1"), body, "sha256"))
    return hmac.compare_digest(ours, mac)


def main():
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as file:
        lines = [line.strip() for line in file]
    identity = next(line for line in lines if line.startswith("AGE-SECRET-KEY-1")).encode()
    payload = sys.stdin.buffer.read()
    if not authenticated(identity, payload):
        sys.exit("error: this vault was not written by the owner of this identity")
    vault = json.loads(payload)
    if vault["format"] != 1:
        sys.exit("error: this program reads format 1")
    if len(sys.argv) == 2:
        for reference, record in sorted(vault["secrets"].items()):
            kept = [str(version["version"]) for version in record["versions"] if "sealed" in version]
            print(reference, ",".join(kept))
        return
    reference = sys.argv[2]
    versions = vault["secrets"][reference]["versions"]
    wanted = int(sys.argv[3]) if len(sys.argv) == 4 else versions[-1]["version"]
    found = next(version for version in versions if version["version"] == wanted)
    wrap = derive(identity, b"kin/vault-key/1")
    key = unseal(wrap, b"kin/data-key/1", base64.b64decode(vault["data_key"]))
    place = f"kin/value/1/{wanted}/{reference}".encode()
    sys.stdout.buffer.write(unseal(key, place, base64.b64decode(found["sealed"])))


main()
