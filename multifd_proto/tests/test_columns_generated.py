"""The two ways through a capture say the same, whatever is in the capture."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multifd_proto.capture import streams
from multifd_proto.capture.columns import ahead, hop, lockstep, walk
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.images import Images, ImageSink
from multifd_proto.capture.session import Session
from multifd_proto.capture.streams import CaptureReader, Limits
from multifd_proto.capture.strip import frames
from multifd_proto.capture.strip.run import strip
from multifd_proto.errors import CaptureError
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.tests.oddcaptures import LINK_TYPES, Plan, write
from multifd_proto.tests.test_columns import Said

ALIKE = (("ethernet",), ("ethernet", "vlan", "qinq"), *((name,) for name in LINK_TYPES))
rate = st.sampled_from((0.0, 0.0, 0.02, 0.2))
plans = st.builds(
    Plan,
    seed=st.integers(0, 2**32 - 1),
    links=st.sampled_from(ALIKE),
    versions=st.sampled_from(((4,), (6,), (4, 6))),
    migrations=st.sampled_from((1, 1, 2)),
    channels=st.integers(1, 3),
    main=st.booleans(),
    packets=st.sampled_from((3, 12, 30)),
    page_size=st.sampled_from((4096, 4096, 16384)),
    dialect=st.sampled_from(("5.2", "8.2", "9.0", "10.0", "11.1")),
    method=st.sampled_from(("none", "none", "zlib", "zstd")),
    odd=st.sampled_from((0.0, 0.0, 0.0, 0.05, 0.3)),
    fakes=st.booleans(),
    segment=st.sampled_from((300, 1448, 9000, 64000)),
    acks=st.booleans(),
    loss=rate,
    reorder=rate,
    repeat=rate,
    overlap=rate,
    jitter=st.booleans(),
    isn=st.sampled_from((None, None, 2**32 - 5000, 2**32 - 1)),
    snap=st.sampled_from((262_144,) * 5 + (60, 96, 1000)),
    close=st.sampled_from(("fin", "fin", "rst", "half", "none")),
    reuse=st.booleans(),
    begin=st.sampled_from((0.0, 0.0, 0.1, 0.6)),
    other=st.sampled_from((0.0, 0.0, 0.05, 0.5)),
    pcapng=st.booleans(),
    order=st.sampled_from("<>"),
    nano=st.booleans(),
    resolutions=st.sampled_from(((6,), (9,), (3, 6, 9, 0x80 | 20))),
    cut=st.sampled_from((0, 0, 0, 1, 10, 30)),
    files=st.sampled_from((1, 1, 2)),
)


@dataclass(frozen=True)
class Way:
    """How a capture is read: the constants that decide it."""

    hops: bool
    lockstep: bool
    first: int
    least: int
    few: int
    patience: int
    empty: int
    many: int

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Read so for a while."""
        values = [
            (streams, "_FIRST", self.first), (streams, "_LEAST", self.least),
            (streams, "_FEW", self.few), (streams, "_PATIENCE", self.patience),
            (hop, "_FEW", self.empty), (hop, "_MANY", self.many),
        ]  # fmt: skip
        if self.hops:
            values += [(walk, "_FEW", 0), (walk, "_LARGE", 0)]
        if self.lockstep:
            values += [(walk, "_MUCH", 4096), (lockstep, "_PART", 4096)]
            values += [(lockstep, "_SEARCHED", 4096), (lockstep, "_LEAST", 2)]
            values += [(ahead, "STRETCH", 30_000), (ahead, "_BEFORE", 10_000)]
        with mock.patch.multiple(streams, _FIRST=self.first):
            patches = [mock.patch.object(*value) for value in values]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()


ways = st.builds(
    Way,
    hops=st.booleans(),
    lockstep=st.booleans(),
    first=st.sampled_from((0, 0, 7)),
    least=st.sampled_from((2, 16, 256)),
    few=st.sampled_from((2, 2, 8)),
    patience=st.sampled_from((1, 4)),
    empty=st.sampled_from((1, 4)),
    many=st.sampled_from((2, 1024)),
)
limits = st.sampled_from(
    (Limits(), Limits(), Limits(window=20_000), Limits(total=30_000), Limits(streams=3))
)


def assert_agree(plan: Plan, way: Way, limits: Limits, decode: bool) -> int:
    """Read a capture both ways; return how many packets came as columns."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write(plan, Path(folder))
        one = Said(paths, columns=False, decode=decode, limits=limits)
        with way.taken():
            other = Said(paths, columns=True, decode=decode, limits=limits)
    singly, columns = one.value(), other.value()
    for part in singly:
        assert columns[part] == singly[part], part
    return other.batched


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans, way=ways, limits=limits, decode=st.booleans())
def test_generated_captures(plan: Plan, way: Way, limits: Limits, decode: bool) -> None:
    assert_agree(plan, way, limits, decode)


def memory_of(plan: Plan, paths: list[Path], folder: Path, limits: Limits, columns: bool) -> object:
    """Extract the guest's memory; return all that comes of it."""
    images: dict[int, Images] = {}

    def made(session: Session) -> Images:
        if session.number not in images:
            at = folder / str(session.number)
            at.mkdir(parents=True)
            images[session.number] = Images(at, session.checker.migration)
        return images[session.number]

    reader = CaptureReader(paths, limits=limits)
    given = MigrationParameters(ramblocks=(RamBlock(b"pc.ram", 200 * plan.page_size),))
    follower = Follower(given, decode=True, sinks=lambda session, _: ImageSink(made(session)))
    with suppress(CaptureError):
        for connection, event in follower.follow(reader if columns else iter(reader)):
            if connection.session:
                made(connection.session).take_zeros(event)
    for several in images.values():
        several.close()
    return {
        number: [
            (image.name, image.length, image.normal, image.zero, image.path.read_bytes())
            for image in several.in_order()
        ]
        for number, several in images.items()
    }


# several copies of a page in one round have an order on one channel alone
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans.map(lambda plan: replace(plan, channels=1)), way=ways, limits=limits)
def test_generated_memory(plan: Plan, way: Way, limits: Limits) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write(plan, folder)
        one = memory_of(plan, paths, folder / "one", limits, columns=False)
        with way.taken():
            assert memory_of(plan, paths, folder / "other", limits, columns=True) == one


def stripped(paths: list[Path], output: Path) -> object:
    """Strip a capture; return what there is to say of it, and the result."""
    try:
        done = strip([str(path) for path in paths], output)
    except CaptureError as error:
        return str(error)
    said = done.frames, done.messages, done.migrations, done.replaced, done.dropped
    return said, output.exists() and output.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans, way=ways, table=st.sampled_from((2, 16, 4096)))
def test_generated_strip(plan: Plan, way: Way, table: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write(plan, folder)
        with mock.patch.multiple(streams, _FIRST=1 << 60), mock.patch.object(frames, "_TABLE", 0):
            one = stripped(paths, folder / "out")
        (folder / "out").unlink(missing_ok=True)
        with way.taken(), mock.patch.object(frames, "_TABLE", table):
            assert stripped(paths, folder / "out") == one
