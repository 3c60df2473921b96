"""Tunnels over UDP: VXLAN (RFC 7348) and Geneve (RFC 8926), with Ethernet or IP inside."""

from __future__ import annotations

import struct

from multifd_proto.capture.link import RAW, Network, Undecodable, link_layer
from multifd_proto.capture.packets import Packet

UDP = 17
VXLAN = (4789, 8472)
"""Ports; the second is what Linux takes where nobody says otherwise."""
_GENEVE = 6081
VNI_VALID = 0x08
"""Flag that every packet of VXLAN has."""
_ETHERNET = 1
_INSIDE = {0x6558: _ETHERNET, 0x0800: RAW, 0x86DD: RAW}

_HEADER = struct.Struct(">HH").unpack_from


def is_tunnel(packet: Packet) -> bool:
    """Tell whether a packet of UDP, or the first part of one, may be one of a tunnel."""
    view, body = packet.view, packet.body
    return packet.stop - body >= 4 and _HEADER(view, body)[1] in (*VXLAN, _GENEVE)


def inside(packet: Packet) -> tuple[memoryview, int, int, int]:
    """Return the packet in a packet of UDP, as `packet_of` takes it.

    Raises:
        Undecodable: It is no tunnel's, or what is in it is no packet of IP.
    """
    if not is_tunnel(packet):
        raise Undecodable("header cut short" if packet.stop - packet.body < 4 else "not TCP")
    view, start, stop = packet.view, packet.body + 8, min(packet.stop, packet.end)
    if stop - start < 8:
        raise Undecodable("header cut short")
    if _HEADER(view, packet.body)[1] == _GENEVE:
        network, start = _geneve(view, start)
    else:
        network, start = _vxlan(view, start)
    return view, network(view, start, stop), stop, packet.end


def _vxlan(view: memoryview, start: int) -> tuple[Network, int]:
    if not view[start] & VNI_VALID:
        raise Undecodable("VXLAN header malformed")
    return link_layer(_ETHERNET), start + 8


def _geneve(view: memoryview, start: int) -> tuple[Network, int]:
    version, protocol = view[start] >> 6, _HEADER(view, start)[1]
    if version:
        raise Undecodable(f"Geneve version {version} unknown")
    if protocol not in _INSIDE:
        raise Undecodable("not IP")
    return link_layer(_INSIDE[protocol]), start + 8 + (view[start] & 0x3F) * 4
