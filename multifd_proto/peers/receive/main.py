"""The main stream of a receiver: read, answered, and met with the channels at each mark."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import BinaryIO

from multifd_proto.machine.receiving import refuse_record
from multifd_proto.machine.rule import Fault
from multifd_proto.peers.connection import Connection, PeerClosedError, PeerTimeoutError
from multifd_proto.peers.receive.reception import Reception
from multifd_proto.wire.main_records import MainRecord, StreamEnd, VmDescription
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import RamSetup, RamZero

_BUFFER = 256 << 10
_DESCRIPTION_WAIT = 1.0  # some machine types send no description, and then wait for our SHUT


class MainReader:
    """Receives the main stream, and leads the migration."""

    def __init__(
        self, reception: Reception, connection: Connection, stream: int, save: BinaryIO | None
    ) -> None:
        """Make a reader.

        Args:
            reception: the migration.
            connection: the main stream's connection.
            stream: number of the connection, in the order of acceptance.
            save: takes the stream as it comes.
        """
        self.bytes = 0
        """Bytes of the stream so far."""
        self._reception, self._connection, self._stream = reception, connection, stream
        self._save = save
        self._judge = reception.judge
        if self._judge:
            self._judge.open(stream, connection.opened)
        page_size = reception.memory.page_size
        self._machine = MainStream(page_size=page_size)
        self._buffer = memoryview(bytearray(_BUFFER))
        self._described = False
        self._deadline = math.inf  # for what follows the stream proper

    def run(self, first: bytes) -> None:
        """Receive the stream to its end, and say goodbye.

        Args:
            first: bytes of it that have been read already.

        Raises:
            PeerError: the source did what a receiver refuses, or went away, or was silent.
        """
        reception, connection = self._reception, self._connection
        connection.name = "main stream"
        # how long that may take is for `Arrivals` to say
        reception.wait(lambda: reception.state.complete)
        reception.progress()
        reception.loading = True
        self._take(first)
        while not (reception.state.over and self._described) and time.monotonic() < self._deadline:
            try:
                length = connection.receive_into(self._buffer)
            except PeerTimeoutError:
                if reception.state.over:
                    break
                reception.check_progress()
                continue
            except PeerClosedError:
                if reception.state.over:
                    break
                raise
            if not length:
                break
            self._take(self._buffer[:length])
        self._finish()

    def close_peer(self) -> None:
        """Wait until the source closes its end, which it does when all is done, or gives up."""
        with suppress(PeerClosedError):
            while not self._connection.aborted:
                with suppress(PeerTimeoutError):
                    if not self._connection.receive_into(self._buffer):
                        return

    def _take(self, data: bytes | memoryview) -> None:
        self._reception.progress()
        self.bytes += len(data)
        if self._save:
            self._save.write(data)
        if self._judge:
            self._judge.feed(self._stream, data)
            self._judge.flush(self._stream)
        self._machine.receive_data(data)
        self._drain()

    def _finish(self) -> None:
        reception = self._reception
        if self._connection.aborted:
            reception.stop()
        if self._judge:
            self._judge.end(self._stream)
        self._machine.receive_eof()
        self._drain()
        if not reception.state.over:
            fault = Fault(
                "end of the stream", f"after {self.bytes} bytes", "after the last section"
            )
            reception.refuse([("MAIN-11", fault)], self._stream, None, self.bytes)
        farewell = reception.state.farewell()
        if farewell:
            with suppress(PeerClosedError):  # a source that does not care is none of our business
                self._connection.send(farewell)

    # ---- records ---------------------------------------------------------------------------------

    def _drain(self) -> None:
        for offset, _, record in self._machine.records():
            self._handle(record, offset)

    def _handle(self, record: MainRecord, offset: int) -> None:
        reception = self._reception
        state, memory = reception.state, reception.memory
        refusals = refuse_record(record, state, memory.page_size)
        reception.refuse(refusals, self._stream, None, offset)
        with reception.lock:
            answer = state.take(record)
            mark = state.is_mark(record)
            if isinstance(record, RamSetup):
                memory.create({block.name: block.used_length for block in record.blocks})
            reception.lock.notify_all()
        if isinstance(record, RamZero) and record.block is not None:
            memory.blocks[record.block].clear(record.offsets)
        if mark:
            self._meet(offset)
        if answer:
            self._connection.send(answer)
        if isinstance(record, StreamEnd):
            self._connection.set_timeout(min(_DESCRIPTION_WAIT, reception.timeout))
            self._deadline = time.monotonic() + reception.timeout
        self._described |= isinstance(record, VmDescription)

    def _meet(self, offset: int) -> None:
        """Wait until every channel has arrived, then let them go on."""
        reception = self._reception
        state = reception.state

        def arrived() -> bool:
            never = state.never()
            if never:
                seen = f"ended after {state.arrived[never[0]]} of them"
                fault = Fault(f"channel {never[0]}", seen, f"open for SYNC {state.passed + 1}")
                reception.refuse([("SYNC-13", fault)], self._stream, None, offset)
            return not state.missing()

        with reception.lock:
            state.meeting = True
            reception.wait(arrived)
            state.pass_mark()
            reception.lock.notify_all()
