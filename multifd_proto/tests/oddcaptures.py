"""Small captures with all that can be wrong with one, at random: for two ways that have to agree.

Nothing here is true to any QEMU: streams conform or not, connections open, end and come again as
they like, and the capture loses, repeats, reorders, cuts and mixes as much as it is told to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from multifd_proto.tests.captures import Blocks, Frame
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC, dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacketDeviceState, page_count

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
LINK_TYPES = {
    "ethernet": 1, "vlan": 1, "qinq": 1, "sll": 113, "sll2": 276, "null": 0, "loop": 108, "raw": 101
}  # fmt: skip
_MARK = b"QEVM\0\0\0\3"
_METHOD = {method.name: method for method in METHODS}


@dataclass(frozen=True)
class Plan:
    """What a capture is like; rates are those of segments, from 0 to 1."""

    seed: int = 0
    links: tuple[str, ...] = ("ethernet",)
    """Of one link type in a pcap; connections take turns."""
    versions: tuple[int, ...] = (4,)
    migrations: int = 1
    channels: int = 2
    main: bool = True
    packets: int = 8
    """On each channel, at most."""
    page_size: int = 4096
    dialect: str = "10.0"
    method: str = "none"
    odd: float = 0.0
    """Of the packets: those that no sender would send."""
    fakes: bool = False
    """Pages have heads in them."""
    segment: int = 1448
    acks: bool = True
    loss: float = 0.0
    reorder: float = 0.0
    repeat: float = 0.0
    overlap: float = 0.0
    jitter: bool = False
    """Times go back now and then."""
    isn: int | None = None
    snap: int = 262_144
    close: str = "fin"
    """`fin`, `rst`, `half` (one end only) or `none`."""
    reuse: bool = False
    """Connections come again, with the same ports."""
    begin: float = 0.0
    """Part of the records before which the capture begins."""
    other: float = 0.0
    """Other traffic, in records for each of ours."""
    pcapng: bool = False
    order: str = "<"
    nano: bool = False
    resolutions: tuple[int, ...] = (6,)
    cut: int = 0
    """Bytes that the file lacks at its end."""
    files: int = 1


def write(plan: Plan, folder: Path) -> list[Path]:
    """Write the capture to one or more files."""
    random = Random(plan.seed)
    frames = _Scene(plan, random).frames()
    frames = frames[int(len(frames) * plan.begin) :]
    size = -(-len(frames) // plan.files) or 1
    paths = []
    for number in range(plan.files):
        part = frames[number * size :][:size]
        data = _pcapng(plan, part, random) if plan.pcapng else _pcap(plan, part)
        path = folder / f"{number}.pcap"
        path.write_bytes(data[: len(data) - plan.cut] if number == plan.files - 1 else data)
        paths.append(path)
    return paths


# ---- what is sent --------------------------------------------------------------------------------


class _Channel:
    """The stream of one channel, message by message."""

    def __init__(self, plan: Plan, id_: int, random: Random) -> None:
        self._plan, self._id, self._random = plan, id_, random
        self._count = page_count(plan.page_size)
        self._encoder = _METHOD[plan.method].encoder()
        self._number = id_

    def stream(self) -> bytes:
        out = [MultiFDInit(id=self._id).build(), self._packet(flags=FLAG_SYNC)]
        out += [self._message() for _ in range(self._random.randint(0, self._plan.packets))]
        return b"".join(out)

    def _message(self) -> bytes:
        random = self._random
        if random.random() < self._plan.odd:
            return self._odd()
        match random.choices("psze", (6, 2, 4, 1))[0]:
            case "s":
                return self._packet(flags=FLAG_SYNC)
            case "z":
                zeros = random.choice((1, 1, 8)), random.randint(1, min(self._count, 6))
                return b"".join(self._packet(zero=zeros[1]) for _ in range(zeros[0]))
            case "e":
                data = random.randbytes(random.randint(1, 3000))
                head = MultiFDPacketDeviceState(
                    idstr=b"vfio".ljust(256, b"\0"), next_packet_size=len(data)
                )
                return head.build() + data if dialect_of(self._plan.dialect).device_state else b""
        normal = random.randint(1, min(self._count, 5))
        return self._packet(normal=normal, zero=random.randint(0, min(2, self._count - normal)))

    def _packet(self, *, normal: int = 0, zero: int = 0, **values: int) -> bytes:
        size, random = self._plan.page_size, self._random
        payload = self._encoder.encode([self._page() for _ in range(normal)]) if normal else b""
        places = random.sample(range(256), normal + zero)
        fields: dict[str, Any] = {
            "flags": _METHOD[self._plan.method].flag if normal else 0,
            "pages_alloc": self._count,
            "normal_pages": normal,
            "zero_pages": zero,
            "next_packet_size": len(payload),
            "packet_num": self._number,
        } | values
        self._number += self._plan.channels
        offset = [place * size for place in places] + [0] * (self._count - normal - zero)
        layout = dialect_of(self._plan.dialect).packet
        if "zero_pages" not in layout.__dataclass_fields__:
            del fields["zero_pages"]
        name = b"pc.ram" if normal + zero else b""
        head = layout(**fields, ramblock=name.ljust(256, b"\0"), offset=tuple(offset))
        return head.build() + payload

    def _page(self) -> bytes:
        size = self._plan.page_size
        page = bytearray(self._random.randbytes(64) * (size // 64))
        if self._plan.fakes and self._random.random() < 0.3:
            fake = self._packet(zero=1)
            place = self._random.randrange(size - 8)
            page[place:] = (fake * 3)[: size - place].ljust(size - place, b"\0")
        return bytes(page)

    def _odd(self) -> bytes:
        random = self._random
        match random.randrange(7):
            case 0:
                return self._packet(flags=1 << random.randrange(32))
            case 1:
                return self._packet(normal_pages=random.choice((self._count, self._count + 1)))
            case 2:
                return self._packet(normal=1, next_packet_size=random.choice((0, 1, 4095, 10**6)))
            case 3:
                return self._packet(zero=1, packet_num=random.choice((0, 1 << 63)))
            case 4:
                return self._packet(zero=1, next_packet_size=random.randint(1, 5000))
            case 5:
                return self._packet(flags=FLAG_DEVICE_STATE | FLAG_SYNC)
        data = bytearray(self._packet(zero=2))
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        return bytes(data)


# ---- who says it, and what the capture has of it -------------------------------------------------


@dataclass
class _Talk:
    """One TCP connection, as records to come."""

    link: str
    version: int
    hosts: tuple[int, int]
    ports: tuple[int, int]
    isn: tuple[int, int]
    said: list[tuple[bool, int, int, bytes]] = field(default_factory=list)
    """Sent by the destination, sequence number, flags, payload."""

    def say(self, back: bool, offset: int, flags: int, data: bytes = b"") -> None:
        self.said.append((back, (self.isn[back] + 1 + offset) % 2**32, flags, data))

    def packet(self, back: bool, seq: int, flags: int, data: bytes, options: int) -> bytes:
        """Return the frame."""
        ports, hosts = (part[::-1] if back else part for part in (self.ports, self.hosts))
        words = 5 + options
        tcp = struct.pack(">HHIIBBHHH", *ports, seq, 1, words << 4, flags, 512, 0, 0)
        tcp += bytes(options * 4) + data
        if self.version == 4:
            ip = struct.pack(
                ">BBHHHBBHII", 0x45, 0, (20 + len(tcp)) & 0xFFFF, 1, 0x4000, 64, 6, 0, *hosts
            )
        else:
            ip = struct.pack(">IHBB12xI12xI", 6 << 28, len(tcp) & 0xFFFF, 6, 64, *hosts)
        return link_header(self.link, self.version) + ip + tcp


def link_header(link: str, version: int) -> bytes:
    """Return a frame's bytes before the IP header."""
    ethertype = 0x0800 if version == 4 else 0x86DD
    tail, family = struct.pack(">H", ethertype), 2 if version == 4 else 30
    return {
        "ethernet": bytes(12) + tail,
        "vlan": bytes(12) + b"\x81\0\0\7" + tail,
        "qinq": bytes(12) + b"\x88\xa8\0\7\x81\0\0\x08" + tail,
        "sll": bytes(14) + tail,
        "sll2": tail + bytes(18),
        "null": struct.pack("<I", family),
        "loop": struct.pack(">I", family),
        "raw": b"",
    }[link]


class _Scene:
    def __init__(self, plan: Plan, random: Random) -> None:
        self._plan, self._random = plan, random

    def frames(self) -> list[Frame]:
        """Return the records in the order of the capture."""
        talks = [t for number in range(self._plan.migrations) for t in self._migration(number)]
        parts = [list(self._captured(talk)) for talk in talks]
        frames, time = [], 1_700_000_000 * 10**9
        while any(parts):
            part = self._random.choice([part for part in parts if part])
            for _ in range(self._random.randint(1, 8)):
                if self._random.random() < self._plan.other:
                    frames.append(Frame(self._other(talks[0].link), time))
                if part:
                    data = part.pop(0)
                    length = len(data)
                    frames.append(Frame(data[: self._plan.snap], time, length))
                time += self._random.choice((0, 1, 1000, 10**6))
                if self._plan.jitter and self._random.random() < 0.1:
                    time -= 5000
        return frames

    def _migration(self, number: int) -> Iterator[_Talk]:
        plan, random = self._plan, self._random
        link = plan.links[number % len(plan.links)]
        streams = [_Channel(plan, id_, random).stream() for id_ in range(plan.channels)]
        streams += [_MARK + random.randbytes(2000)] * plan.main
        for index, stream in enumerate(streams):
            isn = random.randrange(2**32), random.randrange(2**32)
            talk = _Talk(
                link, random.choice(plan.versions), (100 + number, 200),
                (40_000 + index, 49_152), isn if plan.isn is None else (plan.isn, 7),
            )  # fmt: skip
            self._speak(talk, stream)
            yield talk
            if plan.reuse:
                isn = random.randrange(2**32), random.randrange(2**32)
                again = _Talk(talk.link, talk.version, talk.hosts, talk.ports, isn)
                self._speak(again, stream)
                talk.said += again.said

    def _speak(self, talk: _Talk, stream: bytes) -> None:
        plan, random = self._plan, self._random
        talk.say(False, -1, SYN)
        talk.say(True, -1, SYN | ACK)
        place = 0
        while place < len(stream):
            size = plan.segment if random.random() < 0.8 else random.randint(1, plan.segment)
            talk.say(False, place, ACK | PSH, stream[place : place + size])
            place += size
            if plan.acks and random.random() < 0.5:
                talk.say(True, 0, ACK)
        end = len(stream)
        if plan.close == "rst":
            talk.say(random.random() < 0.5, end if random.random() < 0.5 else 0, RST)
        elif plan.close != "none":
            talk.say(False, end, FIN | ACK)
            if plan.close == "fin":
                talk.say(True, 0, FIN | ACK)

    def _captured(self, talk: _Talk) -> Iterator[bytes]:
        """Yield the frames that the capture has, some of them late, again or not at all."""
        plan, random = self._plan, self._random
        late: list[tuple[int, bytes]] = []
        for index, (back, seq, flags, data) in enumerate(talk.said):
            frame = talk.packet(back, seq, flags, data, options=random.choice((0, 3, 3, 3)))
            while late and late[0][0] <= index:
                yield late.pop(0)[1]
            draw = random.random()
            if draw < plan.loss:
                continue
            if draw < plan.loss + plan.reorder:
                late.append((index + random.randint(1, 12), frame))
                late.sort(key=lambda item: item[0])
                continue
            yield frame
            if random.random() < plan.repeat:
                yield frame
            if data and random.random() < plan.overlap:
                # again, from or to another place, and not always the same bytes
                cut = random.randrange(len(data))
                other = data[cut:] + (random.randbytes(random.randint(0, 300)))
                yield talk.packet(back, (seq + cut) % 2**32, flags, other, 3)
        yield from (frame for _, frame in late)

    def _other(self, link: str) -> bytes:
        """Return a frame that is none of ours."""
        random = self._random
        talk = _Talk(link, 4, (1, 2), (22, random.choice((40_000, 50_000))), (1, 1))
        tcp = talk.packet(False, random.randrange(2**32), PSH, random.randbytes(40), 0)
        head = len(link_header(link, 4))
        udp = bytearray(tcp)
        udp[head + 9] = 17
        fragment = bytearray(tcp)
        fragment[head + 6] = 0x20
        options = tcp[:head] + b"\x46" + tcp[head + 1 : head + 20] + bytes(4) + tcp[head + 20 :]
        return random.choice(
            (tcp, bytes(udp), bytes(fragment), options, b"", tcp[: head + 25], random.randbytes(60))
        )


# ---- files ---------------------------------------------------------------------------------------


def _pcap(plan: Plan, frames: list[Frame]) -> bytes:
    magic = 0xA1B23C4D if plan.nano else 0xA1B2C3D4
    link_type = LINK_TYPES[plan.links[0]]
    parts = [struct.pack(plan.order + "IHHiIII", magic, 2, 4, 0, 0, plan.snap, link_type)]
    for frame in frames:
        seconds, rest = divmod(frame.time, 10**9)
        size = len(frame.data)
        tick = rest if plan.nano else rest // 1000
        parts += [struct.pack(plan.order + "4I", seconds, tick, size, frame.length or size)]
        parts += [frame.data]
    return b"".join(parts)


def _pcapng(plan: Plan, frames: list[Frame], random: Random) -> bytes:
    blocks = Blocks(plan.order)
    link_type = LINK_TYPES[plan.links[0]]
    for resolution in plan.resolutions:
        blocks.interface(link_type, options={9: bytes([resolution])})
    for frame in frames:
        number = random.randrange(len(plan.resolutions))
        resolution = plan.resolutions[number]
        unit = 1 << (resolution & 127) if resolution & 128 else 10**resolution
        blocks.packet(frame, frame.time * unit // 10**9, number)
        if random.random() < 0.02:
            blocks.block(4, blocks.pack("HH", 0, 0))
        if random.random() < 0.01:
            blocks.data += _pcapng(plan, [], random)  # a section of its own
    return blocks.data
