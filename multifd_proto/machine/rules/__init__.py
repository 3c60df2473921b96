"""The rules: one small function per requirement that shows on the wire.

Importing this package registers them all in `multifd_proto.machine.rule.RULES`.
"""

from multifd_proto.machine.rules import (
    connection,
    device_state,
    init,
    main_stream,
    numbers,
    offsets,
    packet,
    payload,
    sync,
)

__all__ = [
    "connection", "device_state", "init", "main_stream", "numbers", "offsets", "packet",
    "payload", "sync",
]  # fmt: skip
