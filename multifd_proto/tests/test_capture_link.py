import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from multifd_proto.capture.link import Undecodable, link_layer
from multifd_proto.tests.captures import LINKS


def ip_of(link_type: int, frame: bytes) -> bytes:
    """Return the IP packet in a frame that lies amid other bytes."""
    view = memoryview(b"before" + frame + b"\x08\x00 behind")
    return bytes(view[link_layer(link_type)(view, 6, 6 + len(frame)) : 6 + len(frame)])


def refusal(link_type: int, frame: bytes) -> str:
    with pytest.raises(Undecodable) as error:
        ip_of(link_type, frame)
    return str(error.value)


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("packet", [IP(dst="10.0.0.2"), IPv6(dst="fd00::2")], ids=["4", "6"])
def test_every_link_layer_leads_to_the_packet(name: str, packet: IP | IPv6) -> None:
    link_type, wrap = LINKS[name]
    assert ip_of(link_type, bytes(wrap(packet))) == bytes(packet)


@pytest.mark.parametrize("family", [2, 10, 24, 28, 30])
@pytest.mark.parametrize("link_type", [0, 108])
def test_address_families_in_both_byte_orders(family: int, link_type: int) -> None:
    assert ip_of(link_type, family.to_bytes(4, "big") + b"ip") == b"ip"
    assert ip_of(link_type, family.to_bytes(4, "little") + b"ip") == b"ip"


def test_many_vlan_tags() -> None:
    tags = bytes.fromhex("88a80001 91000002 81000003 81000004")
    assert ip_of(1, bytes(12) + tags + b"\x86\xddip") == b"ip"


@pytest.mark.parametrize("name", LINKS)
def test_every_cut_header_is_refused(name: str) -> None:
    link_type, wrap = LINKS[name]
    frame = bytes(wrap(IP()))[:-20]
    for size in range(len(frame)):
        assert refusal(link_type, frame[:size]) == "header cut short"


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (1, bytes(12) + b"\x08\x06"),
        (1, bytes(12) + b"\x81\0\0\1\x88\xcc"),
        (113, bytes(14) + b"\x08\x06"),
        (276, b"\x08\x06" + bytes(18)),
        (276, b"\x81\0" + bytes(20) + b"\x08\x06"),
        (0, b"\0\0\0\x07"),
        (108, b"\0\2\0\0"),
    ],
)
def test_other_protocols_are_not_ip(link_type: int, frame: bytes) -> None:
    assert refusal(link_type, frame) == "not IP"


def test_other_link_types_are_unknown() -> None:
    assert refusal(147, bytes(100)) == "link type 147 unknown"
