"""The `multifd` command: one file a verb, imported when it is asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from multifd_proto import __version__
from multifd_proto.errors import MultiFDError

VERBS = {
    "decode": "every message of a capture",
    "check": "the verdict on every requirement",
    "summary": "who sent what, how fast, in which rounds",
    "report": "a page on a migration that was slow or failed",
    "extract": "the guest's memory out of a capture",
    "strip": "the same capture without guest memory, to show to others",
    "wireshark": "the dissector for Wireshark and tshark",
    "receive": "be the destination of a migration",
    "send": "be the source of a migration",
    "proxy": "stand between two peers: record, judge, inject faults",
    "watch": "the proxy, with a live view of what goes through",
    "conformance": "judge a live receiver or sender, requirement by requirement",
    "mapped-ram": "look into a mapped-ram file, take out of it, write one",
    "replay": "play a script to a receiver again: is its fault still there?",
    "diff": "the same script, played to several receivers, side by side",
    "fuzz": "find what a receiver, a sender or this package itself does wrong",
    "spec": "what the specification says",
    "render": "write the specification's tables anew",
}
"""The verbs and what they give."""

EXIT_CODES = """\b
Exit codes:
  0  done; of `check` and `conformance`: as demanded
  1  a MUST is violated (`check`), a case fails unexpectedly (`conformance`, `replay`), something
     was found (`fuzz`), peers do not agree (`diff`), a table or a source is stale (`render`)
  2  wrong usage, or input that cannot be read
  3  the migration did not complete (`receive`, `send`, `proxy`,
     `watch`), a peer could not be used
  4  there was nothing to do it on: no migration in the input, nothing judged"""


class _Verbs(click.Group):
    """Finds verbs by name, so that `--help` of one does not import the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, in the order of `VERBS`."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module; None where there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module = import_module(f"multifd_proto.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs without importing their modules."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="multifd")
def cli() -> None:
    """QEMU's multifd live-migration wire protocol: decode, check, explain, speak.

    A FILE is a pcap or pcapng capture (also gzip or zstd), a raw dump of one channel or of the
    main stream, or - for standard input. What a connection is, its first bytes decide, not its
    port.
    """


def main() -> None:
    """Run the command; no traceback ever reaches a user for what a file or a peer holds."""
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        status = done.exit_code
    except click.ClickException as error:
        error.show()
        status = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        status = 130
    except MultiFDError as error:
        click.echo(f"multifd: {error}", err=True)
        status = 2
    except BrokenPipeError:
        # the reader of our output has had enough; Python's own flush at exit would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"multifd: {place}{error.strerror or error}", err=True)
        status = 2
    sys.exit(status or 0)
