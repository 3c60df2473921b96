"""`multifd proxy`: stand between two peers."""

from __future__ import annotations

import json
from typing import Any

import click

from multifd_proto.cli.progress import counter
from multifd_proto.cli.proxy_options import proxy_options, proxying


@click.command()
@proxy_options
@click.option("--check", is_flag=True, help="Judge the source while it sends, as `check` does.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def command(check: bool, as_json: bool, **options: Any) -> None:
    """Forward one migration from LISTEN to TARGET, where a real destination listens.

    \b
    multifd proxy tcp:0:4444 tcp:10.0.0.2:4444
    multifd proxy tcp:0:4444 tcp:10.0.0.2:4444 --record migration.pcapng --check
    multifd proxy unix:/tmp/in.sock unix:/tmp/out.sock --fault id=1,packet=3:magic=0

    Both are as QEMU's `migrate` takes them: tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or fd:N. For
    each connection one is opened onward, in the same order; bytes, ends and resets go on as they
    come. The migration is over when the source has sent something, and all connections are closed.

    FILE is a capture for tcpdump, Wireshark, and `multifd decode` and `check`: what a kill leaves
    is whole but for the last packet. It holds, as --check judges, what went on to the target:
    faults included.

    \b
    A fault RULE is WHERE:ACTION. WHERE is one of
      init, packet=N, sync=N   a message of a channel; counted from 0, without =N each of them
      id=I,packet=N            the same, of the channel with that id alone
      main,offset=N            a byte of the main stream
    and ACTION one of
      FIELD=VALUE              set a field by QEMU's name: 7, 0xff, +1, -1; text or 0xHEX for bytes
      offset[I]=VALUE          set an item of the packet's offsets
      payload[I]=VALUE         set a byte of the packet's payload
      byte=VALUE               set the byte of the main stream
      drop, repeat             leave out the message with its payload, or send it twice
      truncate=N               end the stream after N bytes of the message and its payload
      close, reset             end the stream before the message, or break the connection
      stall, stall=S, delay=S  wait before the message, for ever or S seconds
    such as
      --fault id=0,init:uuid=6ba7b810-9dad-11d1-80b4-00c04fd430c8
      --fault id=1,packet=3:normal_pages=+1 --fault packet:delay=0.01
      --fault id=1,sync=1:drop --fault main,offset=1000:reset

    \b
    Exit codes: 0 went through, and conforming (--check), 1 a MUST is violated (--check),
                2 usage, or FILE could not be written, 3 the migration did not go through,
                4 a fault never found its place, 130 interrupted.
    Without --check, --record and --fault nothing is read: every migration whose connections end
    in order went through.
    """
    with proxying(options, _log, check=check) as setup:
        proxy = setup.proxy
        click.echo(f"listening on {proxy.address}", err=True)
        with counter("waiting for a source", "forwarding", lambda: proxy.forwarded):
            result = setup.run()
    if as_json:
        click.echo(json.dumps(result.data()))
    else:
        result.print()
    raise SystemExit(result.status())


def _log(line: str) -> None:
    click.echo(f"multifd proxy: {line}", err=True)
