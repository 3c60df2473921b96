"""The beginning of a TLS connection: what both ends say in the clear."""

from __future__ import annotations

from dataclasses import dataclass

from multifd_proto.capture.tls.keylog import RANDOM

TLS12, TLS13 = 0x0303, 0x0304
HEADER = 5
"""Bytes of a record's header: type, version (2 bytes), length (2 bytes)."""
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
"""Types of records."""

_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_ENCRYPT_THEN_MAC, _SUPPORTED_VERSIONS = 22, 43
# the random of a ServerHello that asks for another ClientHello (RFC 8446, section 4.1.3)
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@dataclass(frozen=True)
class Hello:
    """A ClientHello, of which only the random counts, or a ServerHello."""

    client: bool
    random: bytes
    version: int = 0
    suite: int = 0
    encrypt_then_mac: bool = False


class Opening:
    """Looks for the hello of one direction in its first bytes.

    Attributes:
        hello: It, once it was found.
        begun: There is a TLS record.
        over: What comes now is of no interest: there was the hello, or there cannot be one.
    """

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.begun = self.over = False
        self._records = bytearray()
        self._messages = bytearray()

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the direction."""
        if self.over:
            return
        self._records += data
        place = 0
        while not self.over and (left := len(self._records) - place):
            kind, major = self._records[place], self._records[place + 1 : place + 2]
            self.over = kind not in (HANDSHAKE, CHANGE_CIPHER_SPEC) or not b"\3".startswith(major)
            self.begun |= left > 1 and not self.over
            size = HEADER + int.from_bytes(self._records[place + 3 : place + HEADER], "big")
            if self.over or left < HEADER or left < size:
                break
            if kind == HANDSHAKE:
                self._messages += self._records[place + HEADER : place + size]
                self._read_messages()
            place += size
        del self._records[:place]

    def _read_messages(self) -> None:
        """Read the whole messages: type, length (3 bytes), body."""
        while not self.over and len(self._messages) >= 4:
            size = 4 + int.from_bytes(self._messages[1:4], "big")
            if len(self._messages) < size:
                return
            kind, body = self._messages[0], bytes(self._messages[4:size])
            del self._messages[:size]
            if len(body) >= 2 + RANDOM and body[2:34] != _RETRY:
                self.over = True
                if kind == _CLIENT_HELLO:
                    self.hello = Hello(True, body[2:34])
                elif kind == _SERVER_HELLO:
                    self.hello = _server_hello(body)


def _server_hello(body: bytes) -> Hello:
    """Read version, random, session id, suite, compression, extensions; none of it may be there."""
    place = 35 + int.from_bytes(body[34:35], "big")
    suite = int.from_bytes(body[place : place + 2], "big")
    extensions = _extensions(body[place + 5 :])
    version = extensions.get(_SUPPORTED_VERSIONS, body[:2])
    mac_outside = _ENCRYPT_THEN_MAC in extensions
    return Hello(False, body[2:34], int.from_bytes(version, "big"), suite, mac_outside)


def _extensions(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        size = int.from_bytes(data[2:4], "big")
        found[int.from_bytes(data[:2], "big")] = data[4 : 4 + size]
        data = data[4 + size :]
    return found
