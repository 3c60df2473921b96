"""The cipher suites that can be decrypted, by their numbers in IANA's registry.

How the key was exchanged does not matter where the secrets are known: what counts is the cipher
and the hash. Those of RC4, 3DES, Camellia, ARIA and others that QEMU's GnuTLS does not agree on by
default are not here.
"""

from __future__ import annotations

from typing import NamedTuple


class Suite(NamedTuple):
    """What protects records."""

    cipher: str
    """`gcm`, `ccm`, `chacha` or `cbc`; of AES, but for the third."""
    key: int
    """Bytes of the key."""
    hash: str
    """Of the key derivation: `sha256` or `sha384`."""
    tag: int = 16
    """Bytes that authenticate a record; of `cbc`, of the MAC: 20, 32 or 48."""


_GCM_128, _GCM_256 = Suite("gcm", 16, "sha256"), Suite("gcm", 32, "sha384")
_CHACHA = Suite("chacha", 32, "sha256")
_CCM_128, _CCM_256 = Suite("ccm", 16, "sha256"), Suite("ccm", 32, "sha256")
_CCM_128_8, _CCM_256_8 = Suite("ccm", 16, "sha256", 8), Suite("ccm", 32, "sha256", 8)
_CBC_128_SHA, _CBC_256_SHA = Suite("cbc", 16, "sha256", 20), Suite("cbc", 32, "sha256", 20)
_CBC_128_SHA256 = Suite("cbc", 16, "sha256", 32)
_CBC_256_SHA256 = Suite("cbc", 32, "sha256", 32)
_CBC_256_SHA384 = Suite("cbc", 32, "sha384", 48)

_NUMBERS = {
    _GCM_128: (
        0x1301, 0x009C, 0x009E, 0x00A6, 0x00A8, 0x00AA, 0x00AC, 0xC02B, 0xC02F, 0xD001,
    ),
    _GCM_256: (
        0x1302, 0x009D, 0x009F, 0x00A7, 0x00A9, 0x00AB, 0x00AD, 0xC02C, 0xC030, 0xD002,
    ),
    _CHACHA: (0x1303, 0xCCA8, 0xCCA9, 0xCCAA, 0xCCAB, 0xCCAC, 0xCCAD, 0xCCAE),
    _CCM_128: (0x1304, 0xC09C, 0xC09E, 0xC0A4, 0xC0A6, 0xC0AC, 0xD005),
    _CCM_256: (0xC09D, 0xC09F, 0xC0A5, 0xC0A7, 0xC0AD),
    _CCM_128_8: (0x1305, 0xC0A0, 0xC0A2, 0xC0A8, 0xC0AA, 0xC0AE, 0xD003),
    _CCM_256_8: (0xC0A1, 0xC0A3, 0xC0A9, 0xC0AB, 0xC0AF),
    _CBC_128_SHA: (0x2F, 0x33, 0x34, 0x8C, 0x90, 0x94, 0xC009, 0xC013, 0xC018, 0xC035),
    _CBC_256_SHA: (0x35, 0x39, 0x3A, 0x8D, 0x91, 0x95, 0xC00A, 0xC014, 0xC019, 0xC036),
    _CBC_128_SHA256: (0x3C, 0x67, 0x6C, 0xAE, 0xB2, 0xB6, 0xC023, 0xC027, 0xC037),
    _CBC_256_SHA256: (0x3D, 0x6B, 0x6D),
    _CBC_256_SHA384: (0xAF, 0xB3, 0xB7, 0xC024, 0xC028, 0xC038),
}  # fmt: skip
SUITES = {number: suite for suite, numbers in _NUMBERS.items() for number in numbers}
"""Number -> suite."""
