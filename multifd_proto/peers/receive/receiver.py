"""The reference receiver: a complete destination for a real source.

    with Receiver(parse_address("tcp:127.0.0.1:0"), parameters) as receiver:
        print(receiver.address)
        received = receiver.run()

Theory of operation. Each connection gets a thread, which finds out what it is (`arrivals`) and
receives it (`main`, `channel`). The threads meet in a `Reception`. Every wait has
a limit, and the first failure ends all of them, so that a peer that stalls, floods or dies is
answered within `timeout` seconds and leaves nothing behind.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.machine.events import DeviceStateReceived
from multifd_proto.machine.migration import Migration
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.receiving import Receiving, violation
from multifd_proto.machine.rule import Fault
from multifd_proto.machine.verdict import Report
from multifd_proto.peers.address import Address
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.owner import Owner
from multifd_proto.peers.receive.arrivals import Arrivals
from multifd_proto.peers.receive.channel import ChannelReader
from multifd_proto.peers.receive.main import MainReader
from multifd_proto.peers.receive.memory import GuestMemory
from multifd_proto.peers.receive.reception import Failure, Reception
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.wire.block_names import file_name

MAIN_FILE = "main.stream"
"""Name of the file that the main stream is saved in."""
_BACKLOG = 128  # so that strangers keep the source's connections out no longer than it takes


@dataclass(frozen=True)
class Received:
    """What became of a migration."""

    failure: Failure | None
    """Why it did not complete; None if it did."""
    machine: str
    """Machine type, as the source named it."""
    channels: tuple[ChannelStatistics, ...]
    """Counts of each channel, by id."""
    main_bytes: int
    """Bytes of the main stream."""
    rounds: int
    """Marks that the main stream passed."""
    seconds: float
    """From the first connection to the end."""
    warnings: tuple[str, ...]
    report: Report | None
    """The verdict on the source, if it was judged."""
    migration: Migration | None
    """What the judge knows of the migration, for its report."""


class Receiver(Owner):
    """A destination for one migration. Use it as a context manager: it owns the guest's memory."""

    def __init__(
        self,
        address: Address,
        parameters: MigrationParameters,
        *,
        save: Path | None = None,
        check: bool = False,
        tls: TlsCredentials | None = None,
        timeout: float = 30.0,
        max_ram: int = 1 << 40,
        device_state: bool = True,
    ) -> None:
        """Start to listen.

        Args:
            address: where; a port of 0 lets the system choose, see `address`.
            parameters: what it is configured for: `channels`, `dialect`, `page_size` and
                `compression` must be known; a `uuid` of None accepts any, as do `ramblocks`.
            save: folder for a file `NAME.ram` a RAM block, the main stream and device state;
                guest memory is anonymous if None.
            check: judge the source while it sends.
            tls: credentials, if every connection is to be TLS.
            timeout: seconds without progress after which the migration fails, and seconds from
                the first connection to the last one; no wait takes more than three times as long.
            max_ram: bytes of RAM that are taken from a source, whatever it announces.
            device_state: take the state of any device from channels; if not, the machine has no
                device that would take it from there, and such a packet is refused (DEV-5).

        Raises:
            PeerError: the address cannot be listened on, or the credentials cannot be used.
        """
        assert parameters.channels
        assert parameters.dialect
        assert parameters.page_size
        assert parameters.compression
        self._parameters, self._save = parameters, save
        self._open = ExitStack()
        self._judge = self._open.enter_context(JudgingProcess(parameters)) if check else None
        self.memory = GuestMemory(parameters.page_size, max_ram, save)
        """The RAM blocks, once the source has told them."""
        self._open.callback(self.memory.close)
        self._reception = Reception(
            Receiving(parameters), self.memory, timeout, self._judge, devices=device_state
        )
        self._readers: list[ChannelReader] = []
        self._main: MainReader | None = None
        self._device_states: Counter[str] = Counter()
        context = tls.server() if tls else None
        listener = self._open.enter_context(Listener(address, parameters.channels + _BACKLOG))
        self._arrivals = Arrivals(listener, self._reception, self._serve, context)
        self.address = listener.address
        """Where it listens, with the port that was chosen."""

    def close(self) -> None:
        """Stop listening, and let go of the guest's memory; files stay."""
        self._open.close()

    @property
    def received_bytes(self) -> int:
        """Bytes of packets and payload so far."""
        return sum(reader.intake.statistics.bytes for reader in self._readers)

    @property
    def failure(self) -> Failure | None:
        """Why the migration has failed, while `run` still ends its connections."""
        return self._reception.failure

    def interrupt(self) -> None:
        """Have `run`, which is in another thread, fail and return at once."""
        self._reception.fail(PeerError("interrupted"))
        self._arrivals.wake()

    def run(self) -> Received:
        """Receive one migration: wait for it, however long, and return how it ended."""
        seconds = self._arrivals.run()
        reception, main = self._reception, self._main
        report, migration = self._judge.conclude() if self._judge else (None, None)
        return Received(
            failure=reception.failure or self._loose_pages(),
            machine=reception.state.machine.decode("latin-1"),
            channels=tuple(
                sorted(
                    (r.intake.statistics for r in self._readers), key=lambda s: (s.id is None, s.id)
                )
            ),
            main_bytes=main.bytes if main else 0,
            rounds=reception.state.passed,
            seconds=seconds,
            warnings=tuple(reception.warnings),
            report=report,
            migration=migration,
        )

    def _loose_pages(self) -> Failure | None:
        """Return the failure that pages after the last SYNC are: they may have come too late."""
        fault = Fault("last packet with pages", "followed by no SYNC", "followed by one")
        for reader in self._readers:
            if reader.intake.unsynced:
                channel = reader.intake.statistics.id
                found = violation([("SYNC-8", fault)], reader.intake.stream, channel, None)
                return Failure(str(found), found)
        return None

    def _serve(self, connection: Connection, stream: int, first: bytes, *, main: bool) -> None:
        """Receive one connection, in its own thread, to its end."""
        if not main:
            name = self._name_device_state if self._save else None
            reader = ChannelReader(self._reception, connection, stream, name)
            self._readers.append(reader)
            reader.run(first)
            return
        with ExitStack() as stack:
            file = stack.enter_context((self._save / MAIN_FILE).open("wb")) if self._save else None
            self._receive_main(MainReader(self._reception, connection, stream, file), first)

    def _receive_main(self, reader: MainReader, first: bytes) -> None:
        self._main = reader
        reader.run(first)
        self._arrivals.over.set()
        reader.close_peer()

    def _name_device_state(self, packet: DeviceStateReceived) -> Path:
        """Return a file of its own for the data of a device-state packet."""
        assert self._save
        name = packet.idstr + f"-{packet.packet.instance_id}-device_state".encode()
        stem = file_name(name).removesuffix(".ram")
        with self._reception.lock:
            self._device_states[stem] += 1
            number = self._device_states[stem]
        return self._save / (f"{stem}.bin" if number == 1 else f"{stem}~{number}.bin")
