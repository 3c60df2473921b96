"""What a worker and its campaign say to each other: JSON lines, and a journal in shared memory.

The journal holds the input that is being run. It is memory that both processes see, so that it
outlives the worker without ever being on disk.

    worker to campaign                                       campaign to worker
    {"say": "beat", "executions", "skipped", "reached",      the task, on the first line
             "seen": {signature: count}}                     {"reached": {label: count}}
    {"say": "finding", "input", "finding"}                   {"known": [signature]}
    {"say": "settled", "signature", "input", "confirmed",    {"yours": bool}, to each finding: is
             "minimised", "runs"}                                it this worker that settles it?
    {"say": "note", "text"}, {"say": "unusable", "text"},    {"forget": [signature]}: it did not
    {"say": "done"}                                              show again, and may be told anew
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO

Message = Mapping[str, Any]
_LENGTH = 8


class Journal:
    """The input that is being run, in memory that the campaign sees too."""

    def __init__(self, file: int | None = None) -> None:
        """Make a journal, or take one that a process was given by its descriptor."""
        self.file = os.memfd_create("multifd-journal") if file is None else file

    def write(self, text: str) -> None:
        """Note an input, before it is run; an empty text if none is."""
        data = text.encode()
        # the length last: half a text is none
        os.pwrite(self.file, bytes(_LENGTH), 0)
        os.pwrite(self.file, data, _LENGTH)
        os.pwrite(self.file, len(data).to_bytes(_LENGTH, "little"), 0)

    def read(self) -> str:
        """Return the input that was being run; empty if none was."""
        length = int.from_bytes(os.pread(self.file, _LENGTH, 0), "little")
        return os.pread(self.file, length, _LENGTH).decode()

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self.file)


class Link:
    """The worker's end. When the other end is gone, so is this process."""

    def __init__(self, hears: BinaryIO, says: BinaryIO) -> None:
        self._hears, self._says = hears, says
        self._answers: SimpleQueue[bool] = SimpleQueue()

    def task(self) -> Message:
        """Wait for what is to be done."""
        task: Message = json.loads(self._hears.readline())
        return task

    def listen(self, hear: Callable[[Message], None]) -> None:
        """Begin to hear what others find; `hear` is called from another thread."""

        def read() -> None:
            for line in self._hears:
                message = json.loads(line)
                if "yours" in message:
                    self._answers.put(message["yours"])
                else:
                    hear(message)
            os._exit(1)  # the campaign has ended, and so have we, whatever we are at

        Thread(target=read, daemon=True).start()

    def say(self, what: str, **message: Any) -> None:
        """Tell the campaign something."""
        self._says.write(json.dumps({"say": what, **message}).encode() + b"\n")
        self._says.flush()

    def ask(self, what: str, **message: Any) -> bool:
        """Tell the campaign something, and wait for its answer."""
        self.say(what, **message)
        return self._answers.get()
