"""The reference sender: a complete source of a migration with multifd, for a real destination.

It does what a QEMU source does, in the order in which that does it: connect the main stream, then
the channels; announce the memory; send it in rounds, each ended by a sync point; send the devices;
wait for the destination to say that it has loaded everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread

from multifd_proto.errors import PeerError
from multifd_proto.machine.sending import MainWriter, PacketWriter, SourceParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.connection import Connection, PeerClosedError
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.send.channel import SendChannel
from multifd_proto.peers.send.crew import Bandwidth, Crew, Stopped
from multifd_proto.peers.send.ram_image import Batch, Order
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.return_path import MainConnection
from multifd_proto.peers.send.sent import Sent
from multifd_proto.peers.statistics import total
from multifd_proto.peers.templates import Template, template_for
from multifd_proto.peers.tls import TlsCredentials, wrap
from multifd_proto.wire.dialect import dialect_of

_WAITS_FOR_CHANNELS = dialect_of("seed")
"""Since this one the main stream begins when all channels are connected."""
_LAST_WORD = 0.5
"""Seconds that a destination which has broken a connection has to say why."""


@dataclass(frozen=True)
class Options:
    """How a sender goes about it; none of it shows in what a receiver has at the end."""

    timeout: float = 30.0
    """Seconds that the destination may take no byte, or not answer."""
    return_path: bool = True
    """Have the destination answer, so that success is known rather than assumed."""
    tls: TlsCredentials | None = None
    level: int | None = None
    """Compression level, the method's default if None."""
    zero_copy: bool = False
    max_bandwidth: int | None = None
    """Bytes a second that all channels send together, at most."""
    pages_per_packet: int | None = None
    """Pages in a packet, as many as there is room for if None."""
    order: Order = Order.ASCENDING


class Sender:
    """Sends one migration."""

    def __init__(
        self,
        address: Address,
        parameters: SourceParameters,
        ram: RamImages,
        *,
        template: Template | None = None,
        options: Options | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """Prepare a migration; nothing is connected yet.

        Args:
            address: where the destination listens.
            parameters: what the source is configured for, as the destination is.
            ram: the memory; it stays the caller's, who closes it.
            template: the main stream around the memory; None for that of a machine without
                devices (`-machine none`).
            options: how to go about it.
            progress: called now and then with the bytes of memory sent and, if that is known, of
                all that is to be sent.

        Raises:
            PeerError: the memory is not that of the template, or credentials cannot be used.
            ValueError: an option is out of its bounds.
        """
        self._address, self._parameters, self._ram = address, parameters, ram
        self._options = options or Options()
        self._tls = self._options.tls.client() if self._options.tls else None
        around = template or template_for(parameters.dialect)
        blocks = ram.entries_of(template.blocks) if template else ram.entries()
        self._main_writer = MainWriter(around, blocks, self._options.return_path)
        self._progress = progress
        self._crew = Crew(parameters.channels, self._report if progress else None)
        self._channels = list(self._make_channels())
        self._per_packet = self._options.pages_per_packet or parameters.page_count
        if not 1 <= self._per_packet <= parameters.page_count:
            bounds = f"1 to {parameters.page_count}"
            raise ValueError(f"pages in a packet is {self._per_packet}, must be {bounds}")
        if self._options.zero_copy and (parameters.method.flag or self._tls):
            raise ValueError("zero copy needs plain connections and no compression")
        self._main: MainConnection | None = None
        self._main_zero = 0
        self._threads: list[Thread] = []
        self._listening: Thread | None = None
        self._done = False

    def _make_channels(self) -> Iterator[SendChannel]:
        writer, options = PacketWriter(self._parameters), self._options
        limit = options.max_bandwidth
        bandwidth = Bandwidth(limit, self._crew) if limit else None
        for number in range(self._parameters.channels):
            method = self._parameters.method
            encoder = method.encoder(options.level)
            yield SendChannel(
                number, self._connect_channel, self._crew, writer,
                encoder=encoder if method.flag else None,
                zero_copy=options.zero_copy, bandwidth=bandwidth,
            )  # fmt: skip

    def run(self) -> Sent:
        """Send it, and return what became of it.

        All threads and connections are gone when this returns, or raises by an interrupt.
        """
        begun = time.monotonic()
        try:
            self._migrate(self._open())
        except Stopped:
            pass
        except PeerError as error:
            self._crew.fail(error)
        finally:
            self._clean_up()
        main = self._main
        return Sent(
            error=self._reason(),
            seconds=time.monotonic() - begun,
            channels=tuple(channel.statistics for channel in self._channels),
            main_bytes=main.sent if main else 0,
            main_zero=self._main_zero,
            pong=bool(main and main.pong),
            switchover_ack=bool(main and main.switchover_ack),
            shut=main.shut if main else None,
            copied=sum(channel.copied for channel in self._channels),
        )

    # ---- connecting ----------------------------------------------------------------------------

    def _connect(self, name: str, index: int) -> Connection:
        timeout = self._options.timeout
        try:
            sock = dial(self._address, index, timeout)
        except PeerError as error:
            raise PeerError(f"{name}: {error}") from None
        if self._tls:
            sock = wrap(sock, self._tls, name, timeout, self._hostname())
        return Connection(sock, name, timeout)

    def _hostname(self) -> str | None:
        assert self._options.tls
        return self._options.tls.hostname or self._address.host or None

    def _connect_channel(self, number: int) -> Connection:
        return self._connect(f"channel {number}", number + 1)

    def _start(self, target: Callable[..., None], *arguments: object) -> Thread:
        thread = Thread(target=target, args=arguments)
        thread.start()
        self._threads.append(thread)
        return thread

    def _open(self) -> MainConnection:
        main = self._main = MainConnection(self._connect("main stream", 0), self._crew)
        if self._options.return_path:
            self._listening = self._start(main.run)
        points = self._ram.rounds + 2
        for channel in self._channels:
            self._start(channel.run, points)
        return main

    # ---- the migration -------------------------------------------------------------------------

    def _migrate(self, main: MainConnection) -> None:
        writer, answers = self._main_writer, self._options.return_path
        if self._parameters.dialect.index < _WAITS_FOR_CHANNELS.index:
            main.send(writer.start())
            self._await_channels(main)
        else:
            self._await_channels(main)
            main.send(writer.start())
        self._sync_point(main, iter(()))
        if answers:
            main.await_answer("PONG", lambda: main.pong)
        for round_ in range(self._ram.rounds):
            main.send(writer.part())
            batches = self._ram.batches(round_, self._per_packet, self._options.order)
            self._sync_point(main, batches)
        main.send(writer.end())
        self._sync_point(main, iter(()))
        main.send(writer.finish(), last=True)
        if answers:
            main.await_answer("SHUT", lambda: main.shut is not None)
        self._done = True

    def _sync_point(self, main: MainConnection, batches: Iterator[Batch]) -> None:
        """Have the channels send packets, and SYNC; then write the mark."""
        self._crew.open(batches)
        self._await_channels(main)
        main.send(self._main_writer.mark())

    def _await_channels(self, main: MainConnection) -> None:
        for zeros in self._crew.gather():
            main.send(b"".join(self._main_writer.zeros(*run) for run in zeros))
            self._main_zero += sum(len(offsets) for _, offsets in zeros)

    def _report(self) -> None:
        assert self._progress
        sums = total(channel.statistics for channel in self._channels)
        done = (sums.normal + sums.zero + self._main_zero) * self._parameters.page_size
        # nobody knows beforehand how much further rounds have
        self._progress(done, self._ram.size if self._ram.rounds == 1 else None)

    # ---- the end -------------------------------------------------------------------------------

    def _clean_up(self) -> None:
        if not self._done:
            self._break_off()
        for thread in self._threads:
            thread.join()
        notify = self._parameters.dialect.close_notify
        for channel in self._channels:
            if channel.connection:
                self._hang_up(channel.connection, notify=notify)
        if self._main:
            # QEMU never ends the TLS session of the main stream
            self._hang_up(self._main.connection, notify=False)

    def _break_off(self) -> None:
        self._crew.stop()
        if self._listening and isinstance(self._crew.error, PeerClosedError):
            self._listening.join(_LAST_WORD)
        if self._main:
            self._main.connection.abort()

    def _reason(self) -> PeerError | None:
        error = self._crew.error
        if isinstance(error, PeerClosedError) and self._main and self._main.refusal:
            return self._main.refusal.with_traceback(None)
        return error

    def _hang_up(self, connection: Connection, *, notify: bool) -> None:
        if self._done:
            connection.end_sending(notify=notify)
        connection.close()
