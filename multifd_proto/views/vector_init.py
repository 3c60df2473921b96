"""The test vectors of the init message."""

from __future__ import annotations

from dataclasses import replace

from multifd_proto.views.vector_cases import UUID, Case, document, make_test
from multifd_proto.views.vector_form import Document, pack
from multifd_proto.wire.schema import MultiFDInit


def init_suite() -> Document:
    """Return the file of the init message."""
    groups: list[Document] = []
    for release in ("4.0", "11.1"):
        init = MultiFDInit(uuid=UUID, id=1)
        tests = [make_test(case) for case in _init_cases(init, release)]
        others = {"other_channels": [pack(replace(init, id=0).build())]}
        tests += [
            make_test(("second channel", init, None, ""), **others),
            make_test(("id of the first channel", replace(init, id=0), "INIT-6", ""), **others),
            make_test(("uuid unlike the first's", replace(init, uuid=bytes(16)), "INIT-3", ""),
                      **others),
        ]  # fmt: skip
        groups.append({"dialect": release, "channels": 4, "uuid": pack(UUID), "tests": tests})
    edges: list[Case] = [
        ("machine without uuid", MultiFDInit(), None, "Boundary"),
        ("last of 255 channels", MultiFDInit(id=254), None, "Boundary"),
    ]
    tests = [make_test(case) for case in edges]
    groups.append({"dialect": "11.1", "channels": 255, "uuid": pack(bytes(16)), "tests": tests})
    return document("init", groups)


def _init_cases(init: MultiFDInit, release: str) -> list[Case]:
    reserved = "Reserved KnownDeviation" if release == "4.0" else "Reserved"
    return [
        ("first channel", replace(init, id=0), None, ""),
        ("last channel", replace(init, id=3), None, "Boundary"),
        ("wrong magic", replace(init, magic=0x11223345), "INIT-1", "Framing"),
        ("magic in the other byte order", replace(init, magic=0x44332211), "INIT-1", "Framing"),
        ("main stream instead of a channel", b"QEVM" + bytes(60), "INIT-1", "Framing"),
        ("version 0", replace(init, version=0), "INIT-2", "Framing"),
        ("version 2", replace(init, version=2), "INIT-2", "Framing"),
        ("foreign uuid", replace(init, uuid=UUID[:-1] + b"\5"), "INIT-4", ""),
        ("uuid of zeros", replace(init, uuid=bytes(16)), "INIT-4", ""),
        ("id is the number of channels", replace(init, id=4), "INIT-5", "Boundary Hostile"),
        ("id 255", replace(init, id=255), "INIT-5", "Boundary Hostile"),
        ("unused1 in use", replace(init, unused1=bytes(6) + b"\1"), "INIT-7", reserved),
        ("unused2 in use", replace(init, unused2=b"\1" + bytes(31)), "INIT-7", reserved),
        ("nothing but its end", b"", "INIT-8", "Framing"),
        ("cut off after 63 bytes", init.build()[:-1], "INIT-8", "Framing Boundary"),
    ]
