"""Keys out of secrets, and records opened with them. Needs `cryptography`."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from multifd_proto.capture.tls.hello import HEADER, TLS13, Hello
from multifd_proto.capture.tls.keylog import HANDSHAKE_SECRETS, MASTER_SECRET, TRAFFIC_SECRETS
from multifd_proto.capture.tls.suites import Suite

_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}
_MACS = {20: "sha1", 32: "sha256", 48: "sha384"}
_NONCE = 12
_SALT = 4  # the part of a nonce that does not come with each record, but of ChaCha20
_BLOCK = 16

Content = tuple[int, memoryview]
"""Type of a record and its plaintext."""
_Aead = AESGCM | AESCCM | ChaCha20Poly1305


class Protection(Protocol):
    """The keys of one direction, until they change."""

    overhead: int
    """Bytes by which a record is longer than its plaintext, without header; the least of them."""
    constant: bool
    """Every record has this overhead, unless its sender pads."""

    def open(self, number: int, record: memoryview) -> Content | None:
        """Open a whole record with its number; None if it is not authentic."""

    def update(self) -> Protection | None:
        """Return what follows after a KeyUpdate; None where there is no such message."""


class Aead13:
    """TLS 1.3 (RFC 8446, section 5.2)."""

    constant = True

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._suite, self._secret = suite, secret
        self._aead = _aead(suite, _expand(suite, secret, "key", suite.key))
        self._iv = int.from_bytes(_expand(suite, secret, "iv", _NONCE), "big")
        self.overhead = suite.tag + 1

    def open(self, number: int, record: memoryview) -> Content | None:
        """Open a record: the last byte that is not zero is its type, zeros behind it pad it."""
        nonce = (self._iv ^ number).to_bytes(_NONCE, "big")
        plain = _decrypt(self._aead, nonce, record[HEADER:], record[:HEADER])
        if plain is None:
            return None
        end = len(plain) - 1
        if end >= 0 and not plain[end]:
            end = len(plain.rstrip(b"\0")) - 1
        return (plain[end], memoryview(plain)[:end]) if end >= 0 else None

    def update(self) -> Aead13:
        """Derive the next secret."""
        return Aead13(
            self._suite, _expand(self._suite, self._secret, "traffic upd", len(self._secret))
        )


class Aead12:
    """TLS 1.2 with GCM (RFC 5288), CCM (RFC 6655) or ChaCha20 (RFC 7905)."""

    constant = True

    def __init__(self, suite: Suite, key: bytes, iv: bytes) -> None:
        self._aead, self._iv = _aead(suite, key), iv
        self._explicit = _NONCE - len(iv)  # bytes of the nonce that each record brings along
        self.overhead = self._explicit + suite.tag

    def open(self, number: int, record: memoryview) -> Content | None:
        """Open a record."""
        length = len(record) - HEADER - self.overhead
        if length < 0:
            return None
        start = HEADER + self._explicit
        if self._explicit:
            nonce = self._iv + bytes(record[HEADER:start])
        else:
            nonce = (int.from_bytes(self._iv, "big") ^ number).to_bytes(_NONCE, "big")
        plain = _decrypt(self._aead, nonce, record[start:], _associated(number, record, length))
        return None if plain is None else (record[0], memoryview(plain))

    def update(self) -> None:
        """TLS 1.2 has no such message."""


class Cbc12:
    """TLS 1.2 with AES-CBC and HMAC (RFC 5246), or the MAC outside (RFC 7366)."""

    constant = False

    def __init__(self, suite: Suite, key: bytes, mac_key: bytes, *, mac_outside: bool) -> None:
        self._key, self._mac_key, self._mac_outside = AES(key), mac_key, mac_outside
        self._mac_size, self._digest = suite.tag, _MACS[suite.tag]
        self.overhead = _BLOCK + suite.tag + 1

    def open(self, number: int, record: memoryview) -> Content | None:
        """Open a record: IV, then content, MAC and padding encrypted."""
        body = bytes(record[HEADER:])
        tail = self._mac_size if self._mac_outside else 0
        sealed = body[: len(body) - tail]
        if len(sealed) < 2 * _BLOCK or len(sealed) % _BLOCK:
            return None
        if self._mac_outside and not self._authentic(number, record, sealed, body[-tail:]):
            return None
        decryptor = Cipher(self._key, CBC(sealed[:_BLOCK])).decryptor()
        plain = decryptor.update(sealed[_BLOCK:]) + decryptor.finalize()
        end = len(plain) - 1 - plain[-1] - (self._mac_size - tail)
        if end < 0:
            return None
        mac = plain[end : end + self._mac_size]
        if not self._mac_outside and not self._authentic(number, record, plain[:end], mac):
            return None
        return record[0], memoryview(plain)[:end]

    def _authentic(self, number: int, record: memoryview, content: bytes, mac: bytes) -> bool:
        text = _associated(number, record, len(content)) + content
        return hmac.compare_digest(hmac.digest(self._mac_key, text, self._digest), mac)

    def update(self) -> None:
        """TLS 1.2 has no such message."""


def protections(
    suite: Suite, client: Hello, server: Hello, secrets: Mapping[str, bytes]
) -> tuple[Sequence[Protection], Sequence[Protection]] | None:
    """Return what the client and what the server protects with, one after the other.

    Args:
        suite: the one that the server chose.
        client: the client's hello.
        server: the server's.
        secrets: those of the connection by their labels; None is returned if one is missing.
    """
    if server.version == TLS13:
        if not {*HANDSHAKE_SECRETS, *TRAFFIC_SECRETS} <= secrets.keys():
            return None
        both = [
            [Aead13(suite, secrets[label[end]]) for label in (HANDSHAKE_SECRETS, TRAFFIC_SECRETS)]
            for end in (0, 1)
        ]
        return both[0], both[1]
    if MASTER_SECRET not in secrets:
        return None
    block = _key_block(suite, secrets[MASTER_SECRET], server.random + client.random)
    return [_tls12(suite, block[0], server)], [_tls12(suite, block[1], server)]


def _key_block(suite: Suite, master: bytes, randoms: bytes) -> list[list[bytes]]:
    """Return the client's and the server's MAC key, key and IV (RFC 5246, section 6.3)."""
    mac = suite.tag if suite.cipher == "cbc" else 0
    sizes = (mac, suite.key, {"cbc": 0, "chacha": _NONCE}.get(suite.cipher, _SALT))
    block = BytesIO(_prf(suite.hash, master, b"key expansion" + randoms, 2 * sum(sizes)))
    parts = [(block.read(size), block.read(size)) for size in sizes]
    return [list(end) for end in zip(*parts, strict=True)]


def _tls12(suite: Suite, keys: list[bytes], server: Hello) -> Protection:
    mac_key, key, iv = keys
    if suite.cipher == "cbc":
        return Cbc12(suite, key, mac_key, mac_outside=server.encrypt_then_mac)
    return Aead12(suite, key, iv)


def _aead(suite: Suite, key: bytes) -> _Aead:
    if suite.cipher == "gcm":
        return AESGCM(key)
    return AESCCM(key, suite.tag) if suite.cipher == "ccm" else ChaCha20Poly1305(key)


def _decrypt(
    aead: _Aead, nonce: bytes, sealed: memoryview, associated: bytes | memoryview
) -> bytes | None:
    try:
        return aead.decrypt(nonce, sealed, associated)
    except InvalidTag:
        return None


def _associated(number: int, record: memoryview, length: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(record[:3]) + length.to_bytes(2, "big")


def _expand(suite: Suite, secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label without context (RFC 8446, section 7.1)."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(_HASHES[suite.hash], size, info).derive(secret)


def _prf(digest: str, secret: bytes, seed: bytes, size: int) -> bytes:
    """Pseudo-random function of TLS 1.2 (RFC 5246, section 5)."""
    out, link = b"", seed
    while len(out) < size:
        link = hmac.digest(secret, link, digest)
        out += hmac.digest(secret, link + seed, digest)
    return out[:size]
