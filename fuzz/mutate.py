"""Mutated captures: whatever a file holds, it comes to events, verdicts or one clear error.

    python -m multifd_proto.fuzz.mutate [--count 100000] [--seed 0] [--workers N]

Takes the shipped captures of real QEMU releases, cut to their first records, and damages each
anew: bit flips, cuts, boundary values, swapped, dropped, doubled and shuffled records, snap
lengths. Every result runs through the whole pipe: reader, reassembly, machines, payload decoders,
rules, rows, report. A finding is an exception that is not `CaptureError`, a run longer than
`TIMEOUT`, or a process that outgrows `MEMORY`. Exit status 1 with a finding; its bytes are saved.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import zstandard

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.errors import CaptureError
from multifd_proto.views.messages import describe
from multifd_proto.views.report import as_data, as_text
from multifd_proto.views.rows import row

RECORDS = 60
"""Records of each capture that are kept."""
SEGMENT = 8192
"""Bytes of a record that are kept, as by a snap length."""
TIMEOUT = 10
"""Seconds that one capture may take."""
MEMORY = 512 * 1024 * 1024
"""Bytes that a worker may hold at its peak: interpreter, library and the stated bounds together."""

Records = list[bytes]
_HEADER = 24
_RECORD = struct.Struct("<IIII")


@cache
def bases() -> list[tuple[bytes, Records]]:
    """Return the shipped captures, each as its file header and its first records."""
    folder = Path(str(files("multifd_proto.spec"))) / "captures"
    return [_split(path.read_bytes()) for path in sorted(folder.glob("*.pcap.zst"))]


def _split(packed: bytes) -> tuple[bytes, Records]:
    data = zstandard.ZstdDecompressor().stream_reader(packed).read()
    records: Records = []
    place = _HEADER
    while place < len(data) and len(records) < RECORDS:
        seconds, fraction, captured, length = _RECORD.unpack_from(data, place)
        frame = data[place + _RECORD.size :][: min(captured, SEGMENT)]
        records.append(_RECORD.pack(seconds, fraction, len(frame), length) + frame)
        place += _RECORD.size + captured
    return data[:_HEADER], records


def _flip(r: random.Random, records: Records) -> None:
    for _ in range(r.randint(1, 8)):
        number = r.randrange(len(records))
        record = bytearray(records[number])
        # mostly in the first bytes: there the headers are
        end = len(record) if r.random() < 0.3 else min(len(record), 200)
        record[r.randrange(end)] ^= 1 << r.randrange(8)
        records[number] = bytes(record)


def _boundary(r: random.Random, records: Records) -> None:
    number = r.randrange(len(records))
    record = bytearray(records[number])
    value = r.choice([0, 1, 127, 128, 129, 2**15, 2**16 - 1, 2**31, 2**32 - 1])
    place = r.randrange(max(1, min(len(record), 400) - 4))
    record[place : place + 4] = value.to_bytes(4, r.choice(["big", "little"]))
    records[number] = bytes(record)


def _cut(r: random.Random, records: Records) -> None:
    number = r.randrange(len(records))
    kept = records[number][: r.randrange(len(records[number]))]
    if len(kept) > _RECORD.size and r.random() < 0.7:
        # mostly the file stays in step, and only the frame is short
        seconds, fraction, _, length = _RECORD.unpack_from(kept)
        kept = (
            _RECORD.pack(seconds, fraction, len(kept) - _RECORD.size, length) + kept[_RECORD.size :]
        )
    records[number] = kept


def _drop(r: random.Random, records: Records) -> None:
    start = r.randrange(len(records))
    del records[start : start + r.randint(1, 5)]


def _double(r: random.Random, records: Records) -> None:
    records.insert(r.randrange(len(records)), r.choice(records))


def _swap(r: random.Random, records: Records) -> None:
    a, b = r.randrange(len(records)), r.randrange(len(records))
    records[a], records[b] = records[b], records[a]


def _shuffle(r: random.Random, records: Records) -> None:
    start = r.randrange(len(records))
    window = records[start : start + r.randint(2, 20)]
    r.shuffle(window)
    records[start : start + len(window)] = window


def _snap(r: random.Random, records: Records) -> None:
    limit = r.choice([60, 96, 200, 1000])
    for number, record in enumerate(records):
        seconds, fraction, captured, length = _RECORD.unpack_from(record.ljust(16, b"\0"))
        frame = record[_RECORD.size :][:limit]
        records[number] = _RECORD.pack(seconds, fraction, min(captured, len(frame)), length) + frame


def _splice(r: random.Random, records: Records) -> None:
    number = r.randrange(len(records))
    other = r.choice(r.choice(bases())[1])
    place = r.randrange(len(records[number]) or 1)
    records[number] = records[number][:place] + other[place : place + r.randint(1, 400)]


MUTATIONS: list[Callable[[random.Random, Records], None]] = [
    _flip, _boundary, _cut, _drop, _double, _swap, _shuffle, _snap, _splice,
]  # fmt: skip


LOSSES = [_drop, _double, _swap, _shuffle, _snap]
"""What a network and a capturing host may do: none of it is a sender's fault."""


def lossy(seed: int) -> bytes:
    """Return a capture that has only lost, doubled and reordered segments."""
    r = random.Random(seed)
    header, records = r.choice(bases())
    records = list(records)
    for _ in range(r.choice([1, 1, 2, 3, 5])):
        r.choice(LOSSES)(r, records)
    return header + b"".join(records)


def mutant(seed: int) -> bytes:
    """Return the mutated capture of a seed: the same one always."""
    r = random.Random(seed)
    header, records = r.choice(bases())
    records = list(records)
    for _ in range(r.choice([1, 1, 2, 3, 5])):
        r.choice(MUTATIONS)(r, records)
        records = [record for record in records if record] or list(r.choice(bases())[1])
    data = header + b"".join(records)
    if r.random() < 0.05:
        damaged = bytearray(data)
        damaged[r.randrange(_HEADER)] ^= 1 << r.randrange(8)
        data = bytes(damaged)
    return data[: r.randrange(len(data) + 1)] if r.random() < 0.1 else data


def reports(path: Path) -> list[dict[str, Any]]:
    """Run a capture through the whole pipe; return what is reported of its migrations.

    Raises:
        CaptureError: it is no capture, or breaks off.
    """
    follower = Follower(decode=True)
    for connection, event in follower.follow(CaptureReader([path])):
        values = row(connection.half.stream, connection.channel, event, offsets=True)
        if values:
            describe(values)
    found = []
    for session in follower.sessions:
        report = session.checker.conclude()
        list(as_text(report, session.checker.migration))
        found.append(as_data(report, session.checker.migration))
    return found


def run(path: Path) -> str:
    """Run a capture through the whole pipe; return how it ended."""
    try:
        verdicts = [report["verdict"] for report in reports(path)]
    except CaptureError:
        return "unreadable"
    return "failed" if "failed" in verdicts else verdicts[0] if verdicts else "no migration"


class _TooSlow(Exception):
    pass


def _alarm(_signal: int, _frame: object) -> None:
    raise _TooSlow


def _work(seed: int) -> tuple[int, str, float, int]:
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(TIMEOUT)
    begun = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".pcap", dir=_memory_folder()) as file:
        file.write(mutant(seed))
        file.flush()
        try:
            outcome = run(Path(file.name))
        except _TooSlow:
            outcome = f"FINDING: longer than {TIMEOUT} s"
        except Exception:
            outcome = "FINDING: " + traceback.format_exc()
        finally:
            signal.alarm(0)
    peak = _peak()
    if peak > MEMORY:
        outcome = f"FINDING: {peak >> 20} MiB of memory, {MEMORY >> 20} allowed"
    return seed, outcome, time.monotonic() - begun, peak


def _peak() -> int:
    """Return the most bytes that this process has held; `ru_maxrss` is that of its parent too."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def campaign(
    count: int, seed: int, workers: int
) -> tuple[Counter[str], dict[int, str], float, int]:
    """Run mutants; return outcomes, findings by seed, the slowest in seconds, peak memory."""
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    slowest, peak = 0.0, 0
    # a forked worker would begin with the memory of whoever asks, and be blamed for it
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for number, outcome, seconds, held in pool.imap_unordered(
            _work, range(seed, seed + count), chunksize=50
        ):
            slowest, peak = max(slowest, seconds), max(peak, held)
            outcomes[outcome.partition(":")[0]] += 1
            if outcome.startswith("FINDING"):
                findings[number] = outcome
    return outcomes, findings, slowest, peak


def main() -> None:
    """Run a campaign and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--save", type=Path, default=Path("findings"), help="folder for findings")
    given = parser.parse_args()
    begun = time.monotonic()
    outcomes, findings, slowest, peak = campaign(given.count, given.seed, given.workers)
    for seed, outcome in sorted(findings.items()):
        given.save.mkdir(parents=True, exist_ok=True)
        (given.save / f"mutant-{seed}.pcap").write_bytes(mutant(seed))
        sys.stdout.write(f"seed {seed}: {outcome}\n")
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    sys.stdout.write(
        f"{given.count} mutated captures in {time.monotonic() - begun:.0f} s: {told}; slowest "
        f"{slowest:.2f} s, peak memory {peak >> 20} MiB; {len(findings)} findings\n"
    )
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
