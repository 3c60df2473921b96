"""`multifd strip`: a capture without guest memory."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import click

from multifd_proto.capture.strip.headers import Addresses
from multifd_proto.capture.strip.outline import Uuids
from multifd_proto.capture.strip.run import Stripped, strip
from multifd_proto.cli.common import NOTHING_DONE, UuidType, files_argument, keylog_option
from multifd_proto.cli.progress import progress_bar
from multifd_proto.views.summary import size

_UUID = "00000000-0000-0000-0000-000000000001"


@click.command()
@files_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
    help="The pcapng file; names in .gz or .zst are compressed.",
)  # fmt: skip
@click.option("--slim", is_flag=True, help="No frames: one record a message (see below).")
@click.option(
    "--uuid", type=UuidType(), is_flag=False, flag_value=_UUID, metavar="[UUID]",
    help=f"Replace the machine's UUID, by {_UUID} if none is given (then before another option).",
)  # fmt: skip
@click.option("--addresses", is_flag=True, help="Replace IP and MAC addresses; ports stay.")
@keylog_option
@click.option("--json", "as_json", is_flag=True, help="Say what was done as one JSON object.")
def command(
    files: tuple[str, ...],
    output: Path,
    slim: bool,
    uuid: bytes | None,
    addresses: bool,
    keylog: str | None,
    as_json: bool,
) -> None:
    """Write the capture in FILE without guest memory, so that it can be shown to others.

    \b
    multifd strip migration.pcap -o report.pcapng
    multifd strip --uuid --addresses migration.pcap -o report.pcapng.zst
    multifd strip --slim migration.pcap -o slim.pcapng && wireshark slim.pcapng

    What `decode` and `check` say of the result is what they say of FILE; only what payloads hold
    is not exercised. Of every TCP payload nothing is kept but what was positively identified as a
    message: init messages, packet heads with their page offsets, records of the main stream.
    Pages, device state, the return path and other connections are cut off, in every copy of a
    retransmission; frames that are not TCP over IP are left out. Headers, times, sequence numbers
    and lengths stay. A frame with messages inside is cut in front of each, as segmentation
    offload would have sent it. TCP checksums stay those of the original.

    NOT hidden: names of RAM blocks and devices, the machine type, which pages were sent and when;
    UUID and addresses only if asked for. TLS stays as it is, without its secrets.

    --slim writes a record for each message, with its time and its place in the stream (link type
    252, Wireshark's exported PDUs), in which tools open a migration that is too large for them.
    Its messages of TLS connections are those of the plaintext, as far as secrets are known.

    \b
    Exit codes: 0 done, 2 usage or unreadable input, 4 no migration in the input: nothing written.
    """
    if keylog and not slim:
        raise click.UsageError("--keylog is for --slim: frames keep their bytes encrypted")
    with progress_bar("stripping") as progress:
        done = strip(
            files,
            output,
            slim=slim,
            uuids=Uuids(UUID(bytes=uuid)) if uuid else None,
            addresses=Addresses() if addresses else None,
            keylog=keylog,
            progress=progress,
        )
    for message in (*done.info.truncated, *done.info.secrets.faults):
        click.echo(f"warning: {message}", err=True)
    if not done.migrations:
        text = f"no migration in the input: {done.info.records} records"
        click.echo(f"multifd: {text}, nothing was written", err=True)
        raise SystemExit(NOTHING_DONE)
    if as_json:
        click.echo(json.dumps({"output": str(output)} | _data(done)))
        return
    for line in _lines(done, output):
        click.echo(line)


def _data(done: Stripped) -> dict[str, object]:
    return {
        "frames": done.info.records,
        "bytes": done.info.bytes,
        "frames_written": done.frames,
        "bytes_written": done.size,
        "migrations": done.migrations,
        "messages": done.messages,
        "replaced": dict(done.replaced),
        "left_out": dict(done.dropped),
    }


def _lines(done: Stripped, output: Path) -> list[str]:
    given = f"the input had {done.info.records}, {size(done.info.bytes)}"
    migrations = "migration" if done.migrations == 1 else "migrations"
    lines = [
        f"{output}: {done.frames} frames, {size(done.size)}; {given}",
        f"  kept: {done.messages} messages of {done.migrations} {migrations}",
    ]
    replaced = [f"{size(count)} of {what}" for what, count in done.replaced.items() if count]
    if replaced:
        lines.append(f"  taken out: {', '.join(replaced)}")
    lines += [f"  left out: {count} frames: {why}" for why, count in sorted(done.dropped.items())]
    return lines
