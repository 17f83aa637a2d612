#!/usr/bin/env python3
"""Reads a kin vault without kin: docs/vault-format.md, as a program.

    age -d -i IDENTITY vault.age | docs/recover.py IDENTITY           names and versions
    age -d -i IDENTITY vault.age | docs/recover.py IDENTITY REF       the value, on standard output
    age -d -i IDENTITY vault.age | docs/recover.py IDENTITY REF N     its version N

IDENTITY holds one line AGE-SECRET-KEY-1…; with a passphrase, `age -d identity.age > IDENTITY` makes it. With a recovery
key, or another recipient's, `--owner age1…` stands before IDENTITY: the recipient of the vault's owner.
Only Python's standard library is used.
"""

import base64
import hmac
import json
import struct
import sys


def extract(secret):
    """HKDF-SHA256 (RFC 5869), the first step, without salt."""
    return hmac.digest(bytes(32), secret, "sha256")


def derive(root, purpose):
    """HKDF-SHA256, the second step, 32 bytes: one block."""
    return hmac.digest(root, purpose + b"\x01", "sha256")


def decode(text):
    """The 32 bytes of an age key: Bech32 (BIP 173), whose checksum age has looked at."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    value = 0
    for letter in text.lower().rsplit("1", 1)[1][:-6]:
        value = value << 5 | letters.index(letter)
    return (value >> 4).to_bytes(32, "big")


def encode(key):
    """The recipient `age1…` of 32 bytes."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    value = int.from_bytes(key, "big") << 4
    data = [value >> 5 * (51 - at) & 31 for at in range(52)]
    check = 1
    for digit in [3, 3, 3, 0, 1, 7, 5, *data, 0, 0, 0, 0, 0, 0]:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ digit
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return "age1" + "".join(letters[digit] for digit in data + [(check ^ 1) >> 5 * (5 - at) & 31 for at in range(6)])


def x25519(key, point):
    """RFC 7748, section 5."""
    p, a24 = 2**255 - 19, 121665
    k = int.from_bytes(key, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    x1 = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, (aa - bb) * (aa + a24 * (aa - bb)) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def shared_root(identity, owner, payload):
    """The root of the owner's keys, which is sealed for this identity too."""
    key = decode(identity.decode())
    ours = encode(x25519(key, (9).to_bytes(32, "little")))
    found = [other for other in json.loads(payload).get("recipients", []) if other["recipient"] == ours]
    if not found:
        sys.exit("error: this vault is not for this identity")
    agreed = derive(extract(x25519(key, decode(owner))), b"kin/recipient/1")
    return unseal(agreed, f"kin/root/1/{owner}/{ours}".encode(), base64.b64decode(found[0]["sealed"]))


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


def authenticated(root, payload):
    """The last member is the MAC of every byte before its comma."""
    body, mac = payload[: -len(',"mac":""}') - 44], payload[-46:-2]
    ours = base64.b64encode(hmac.digest(derive(root, b"kin/vault-mac/1"), body, "sha256"))
    return hmac.compare_digest(ours, mac)


def main():
    arguments = sys.argv[1:]
    owner = arguments[1] if arguments[:1] == ["--owner"] else None
    arguments = arguments[2:] if owner else arguments
    if len(arguments) not in (1, 2, 3):
        sys.exit(__doc__)
    with open(arguments[0], encoding="ascii") as file:
        lines = [line.strip() for line in file]
    identity = next(line for line in lines if line.startswith("AGE-SECRET-KEY-1")).encode()
    payload = sys.stdin.buffer.read()
    root = shared_root(identity, owner, payload) if owner else extract(identity)
    if not authenticated(root, payload):
        sys.exit("error: this vault was not written by the owner of this identity")
    vault = json.loads(payload)
    if vault["format"] not in (1, 2):
        sys.exit("error: this program reads formats 1 and 2")
    if len(arguments) == 1:
        for reference, record in sorted(vault["secrets"].items()):
            kept = [str(version["version"]) for version in record["versions"] if "sealed" in version]
            print(reference, ",".join(kept))
        return
    reference = arguments[1]
    versions = vault["secrets"][reference]["versions"]
    wanted = int(arguments[2]) if len(arguments) == 3 else versions[-1]["version"]
    found = next(version for version in versions if version["version"] == wanted)
    wrap = derive(root, b"kin/vault-key/1")
    key = unseal(wrap, b"kin/data-key/1", base64.b64decode(vault["data_key"]))
    place = f"kin/value/1/{wanted}/{reference}".encode()
    sys.stdout.buffer.write(unseal(key, place, base64.b64decode(found["sealed"])))


main()
