"""The captures of `spec/captures`: which migrations of which QEMU releases are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One capture: who migrates to whom, how, and what the result has to show."""

    name: str
    source: str
    destination: str
    channels: int
    compression: str = "none"
    machine: str = "pc"
    host: str = "127.0.0.1"
    zero_page_detection: str | None = None
    bandwidth: int = 1 << 20
    """Bytes a second while the memory changes; QEMU 10.0 and 11.1 count compressed bytes."""
    pages: int = 192
    """Pages with content at the beginning."""
    rounds: int = 6
    """Times that the source must have collected dirty pages (`dirty-sync-count`)."""
    shows: frozenset[str] = frozenset()
    """Quirks that the capture must show: it is taken again until it does."""
    tls: str | None = None
    """GnuTLS's priority, if the connections are encrypted; the capture then is a pcapng, with their
    secrets inside."""

    @property
    def format(self) -> str:
        """File format of the capture."""
        return "pcapng" if self.tls else "pcap"


_OLD = frozenset({"sync-with-pages", "empty-trailer", "repeated-packet-num"})

RECIPES: Sequence[Recipe] = (
    Recipe("q5_2-none", "5.2", "5.2", 2, shows=_OLD),
    Recipe("q5_2-zlib", "5.2", "5.2", 3, "zlib", shows=_OLD),
    Recipe("q5_2-load", "5.2", "5.2", 6, pages=384, shows=_OLD | {"packet-num-gaps"}),
    Recipe("q7_2-none", "7.2", "7.2", 3, shows=_OLD),
    Recipe("q7_2-zlib", "7.2", "7.2", 4, "zlib", shows=_OLD),
    Recipe("q7_2-zstd", "7.2", "7.2", 2, "zstd", shows=_OLD),
    Recipe("q7_2-q10_0", "7.2", "10.0", 3, machine="pc-i440fx-7.2", shows=_OLD),
    Recipe("q10_0-none", "10.0", "10.0", 4),
    Recipe("q10_0-zlib", "10.0", "10.0", 2, "zlib", bandwidth=32 << 10),
    Recipe("q10_0-zstd", "10.0", "10.0", 3, "zstd", bandwidth=32 << 10),
    Recipe("q10_0-legacy_zero", "10.0", "10.0", 2, zero_page_detection="legacy"),
    Recipe("q10_0-ipv6", "10.0", "10.0", 2, host="::1"),
    Recipe(
        "q10_0-tls",
        "10.0",
        "10.0",
        2,
        "zstd",
        bandwidth=32 << 10,
        pages=96,
        rounds=4,
        tls="NORMAL",
    ),
    Recipe("q11_1-none", "11.1", "11.1", 2),
    Recipe("q11_1-zlib", "11.1", "11.1", 3, "zlib", bandwidth=32 << 10),
    Recipe("q11_1-zstd", "11.1", "11.1", 4, "zstd", bandwidth=32 << 10),
    Recipe("q11_1-pc7_2", "11.1", "11.1", 3, machine="pc-i440fx-7.2"),
)
"""The captures of `spec/captures` that `multifd_proto.peers.record` makes."""
