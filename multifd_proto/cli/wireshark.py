"""`multifd wireshark`: the dissector for Wireshark and tshark."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import click

from multifd_proto.views.wireshark import SCRIPT

_FOLDER = re.compile(r"^Personal Lua Plugins:\s*(.+)$", re.MULTILINE)
_TIMEOUT = 20.0

_HINTS = """\

It is loaded by the next start of Wireshark or tshark; no port has to be set. For large captures:
  tshark -o tcp.reassemble_out_of_order:TRUE -o tcp.try_heuristic_first:TRUE \\
    --disable-protocol thrift -r FILE -Y multifd.violation
`multifd wireshark --help` says why."""


@click.group()
def command() -> None:
    """Install or print the dissector, for Wireshark and tshark 4.0 to 4.6.

    \b
    multifd wireshark install
    multifd wireshark print > multifd.lua
    tshark -X lua_script:multifd.lua -r migration.pcap -Y 'multifd.violation'

    It finds the main stream and the channels of a migration by their first bytes, on any port. A
    channel whose beginning was not captured may need `Decode As`: multifd. Every field can be
    filtered for; some filters to begin with:

    \b
    multifd.channel == 2 && multifd.round == 3
    multifd.flags.sync == 1                   SYNC packets
    multifd.ramblock == "pc.ram" && multifd.zero_pages > 0
    multifd.violation                         what a sender may not do
    multifd.violation == "PKT-17"             the same, one requirement
    multifd.known_deviation                   what releases of QEMU are known to do

    Preferences (Edit > Preferences > Protocols > MULTIFD, or -o with tshark): the target page size
    and the QEMU release, both found out if not set, a field for each page, and statistics of
    channels and rounds: `tshark -q -o multifd.statistics:TRUE`, in Wireshark in the menu Tools.

    What to set in Wireshark itself: `tcp.reassemble_out_of_order` to TRUE if segments come out of
    order, or the messages that they cut are missed; `tcp.try_heuristic_first` to TRUE if a port is
    taken for that of another protocol. Switch the protocol Thrift off: its heuristic takes guest
    memory for its own where the start of a connection is missing, which can take minutes. From 4.2
    on Wireshark runs no Lua scripts as root.

    What compares connections, decodes payloads or needs the configuration is left to
    `multifd check`.
    """


@command.command()
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of Wireshark's plugins. [the personal one]",
)
def install(into: Path | None) -> None:
    """Put the dissector into the personal plugin folder of Wireshark."""
    target = (into or personal_folder()) / SCRIPT
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(script(), "utf-8")
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror}") from None
    click.echo(f"installed: {target}")
    click.echo(_HINTS)


@command.command("print")
def print_() -> None:
    """Print the dissector."""
    click.echo(script(), nl=False)


@command.command()
def path() -> None:
    """Print where `install` puts it."""
    click.echo(personal_folder() / SCRIPT)


def script() -> str:
    """Return the dissector as the specification holds it."""
    return files("multifd_proto.spec").joinpath(SCRIPT).read_text("utf-8")


def personal_folder() -> Path:
    """Return the folder of personal Lua plugins: what tshark says, or else the usual one."""
    tshark = shutil.which("tshark")
    if tshark:
        try:
            told = subprocess.run(
                [tshark, "-G", "folders"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT,
            )
        except (OSError, subprocess.TimeoutExpired):
            told = None
        found = told and _FOLDER.search(told.stdout)
        if found:
            return Path(found[1].strip())
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home()), "Wireshark", "plugins")
    return Path.home() / ".local/lib/wireshark/plugins"
