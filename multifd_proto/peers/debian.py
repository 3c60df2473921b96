"""Programs from Debian's archive: unpacked into a folder, without root and without installing them.

Every Debian suite holds one release of QEMU, and one of tshark, with all the libraries it was
built for. This module fetches those packages with a private apt state, unpacks them side by side
and adds a wrapper that runs each program by its own loader and libraries, so that releases ten
years apart run on one machine:

    python -m multifd_proto.peers.debian 5.2 10.0
    python -m multifd_proto.peers.debian --tshark 4.4
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import click

from multifd_proto.errors import PeerError

SUITES: Mapping[str, str] = {"5.2": "bullseye", "7.2": "bookworm", "10.0": "trixie", "11.1": "sid"}
"""The QEMU releases that can be had, and the Debian suite that holds each."""
BINARY = "qemu-system-x86_64"
APT_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
"""Where a Debian machine says which mirror it uses and which keyring it trusts."""

_DEFAULT_SOURCE = {
    "URIs": "http://deb.debian.org/debian",
    "Signed-By": "/usr/share/keyrings/debian-archive-keyring.gpg",
}
_DEBIAN_SUITE = re.compile(
    "buster|bullseye|bookworm|trixie|forky|duke|sid|(old)*stable|testing|unstable"
)
_ONE_LINE = re.compile(r"^deb[ \t]+(?:\[([^]]*)\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+(.*)$", re.MULTILINE)
_TIMEOUT = 900.0

_WRAPPER = """\
#!/bin/sh
# Runs the {name} of this folder by its own loader and libraries.
root=$(dirname "$(readlink -f "$0")")/root
export {environment}
exec "$root/{loader}" --library-path "$root/lib/{arch}:$root/usr/lib/{arch}" \\
  "$root/usr/bin/{binary}" {arguments}"$@"
"""


@dataclass(frozen=True)
class Program:
    """What can be fetched, and how it runs from a folder that is not its own."""

    name: str
    package: str
    binary: str
    suites: Mapping[str, str]
    """The releases that can be had, and the Debian suite that holds each."""
    environment: str
    """Where its files are, for the wrapper's `export`; `$root` is where they were unpacked."""
    arguments: str = ""
    """The same as arguments, each with a blank behind it."""


QEMU = Program(
    "QEMU",
    "qemu-system-x86",
    BINARY,
    SUITES,
    'QEMU_MODULE_DIR="$root/usr/lib/{arch}/qemu"',
    '-L "$root/usr/share/qemu" -L "$root/usr/share/seabios" ',
)
TSHARK = Program(
    "tshark",
    "tshark",
    "tshark",
    {"4.0": "bookworm", "4.4": "trixie", "4.6": "sid"},
    'WIRESHARK_DATA_DIR="$root/usr/share/wireshark"'
    ' WIRESHARK_PLUGIN_DIR="$root/usr/lib/{arch}/wireshark/plugins"',
)


def qemu_dir() -> Path:
    """Return the folder of the fetched binaries: `$MULTIFD_QEMU_DIR`, or `.qemu` in the cwd."""
    return Path(os.environ.get("MULTIFD_QEMU_DIR") or ".qemu").absolute()


def tshark_dir() -> Path:
    """Return the folder of fetched tsharks: `$MULTIFD_TSHARK_DIR`, or `.tshark` in the cwd."""
    return Path(os.environ.get("MULTIFD_TSHARK_DIR") or ".tshark").absolute()


def find_qemu(version: str) -> Path | None:
    """Return the QEMU of a release ("10.0") that was fetched earlier, or None."""
    binary = qemu_dir() / version / BINARY
    return binary if os.access(binary, os.X_OK) else None


def fetch(version: str, into: Path, program: Program = QEMU) -> Path:
    """Fetch the release of a program into `into/version` and return the command that runs it.

    Nothing is left behind when it fails, and nothing is installed on the machine. For QEMU about
    60 MB are downloaded; 170 to 190 MB of disk stay in use.

    Raises:
        PeerError: no suite holds that release, apt-get or dpkg is missing, the download failed,
            or the suite holds another release by now.
    """
    if version not in program.suites:
        known = ", ".join(f"{release} ({suite})" for release, suite in program.suites.items())
        raise PeerError(f"no Debian suite with {program.name} {version} is known, only {known}")
    suite = program.suites[version]
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=into) as scratch:
        home = Path(scratch)
        home.chmod(0o755)  # apt downloads as a user of its own when it is run by root
        _download(program, suite, home / "apt")
        product = home / "product"
        _unpack(program, home / "apt", product)
        _demand(program, version, product / program.binary)
        target = into.absolute() / version
        shutil.rmtree(target, ignore_errors=True)
        product.rename(target)
    return target / program.binary


def _download(program: Program, suite: str, apt: Path) -> None:
    """Download a program's packages with all they depend on, down to the C library."""
    for folder in ("sources", "state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()  # an empty machine: whatever it needs has to be downloaded
    stanza = {"Types": "deb", **_source(), "Suites": suite, "Components": "main"}
    lines = (f"{name}: {value}\n" for name, value in stanza.items())
    (apt / "sources/debian.sources").write_text("".join(lines))
    options = [
        "-qq",
        "-oDir::Etc::SourceList=/dev/null",
        f"-oDir::Etc::SourceParts={apt}/sources",
        f"-oDir::State={apt}/state",
        f"-oDir::State::Status={apt}/status",
        f"-oDir::Cache={apt}/cache",
        "-oAPT::Update::Error-Mode=any",
        "-oAcquire::Retries=3",
    ]
    _run("apt-get", *options, "update", about=f"suite {suite}")
    install = ("install", "--yes", "--no-install-recommends", "--download-only")
    _run("apt-get", *options, *install, program.package, about=f"suite {suite}")


def _source() -> Mapping[str, str]:
    """Return the mirror and the keyring that this machine uses, as deb822 fields."""
    for path in APT_SOURCES:
        parse = _deb822 if path.suffix == ".sources" else _one_line
        for stanza in parse(path.read_text() if path.is_file() else ""):
            debian = any(map(_DEBIAN_SUITE.fullmatch, stanza.get("Suites", "").split()))
            main = "main" in stanza.get("Components", "").split()
            if debian and main and "deb" in stanza.get("Types", "").split():
                return {name: stanza[name] for name in _DEFAULT_SOURCE if name in stanza}
    return _DEFAULT_SOURCE


def _deb822(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the entries of a `.sources` file."""
    text = "".join(line for line in text.splitlines(True) if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        yield dict(HeaderParser().parsestr(stanza.lstrip()).items())


def _one_line(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the entries of a `.list` file as deb822 fields."""
    for options, uri, suite, components in _ONE_LINE.findall(text):
        signed_by = re.findall(r"(?i)signed-by=(\S+)", options)
        stanza = {"Types": "deb", "URIs": uri, "Suites": suite, "Components": components}
        yield {**stanza, "Signed-By": signed_by[0]} if signed_by else stanza


def _unpack(program: Program, apt: Path, product: Path) -> None:
    """Unpack all packages over each other, and write the wrapper."""
    root = product / "root"
    root.mkdir(parents=True)
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _run("dpkg", "--extract", str(package), str(root), about=package.name)
    loaders = [*root.glob("lib/*/ld-linux*.so*"), *root.glob("usr/lib/*/ld-linux*.so*")]
    if not loaders:
        raise PeerError("the packages hold no dynamic loader (ld-linux*.so)")
    loader = loaders[0].relative_to(root)
    text = _WRAPPER.format(
        name=program.name,
        environment=program.environment.format(arch=loader.parent.name),
        arch=loader.parent.name,
        loader=loader,
        binary=program.binary,
        arguments=program.arguments,
    )
    wrapper = product / program.binary
    wrapper.write_text(text)
    wrapper.chmod(0o755)


def _demand(program: Program, version: str, binary: Path) -> None:
    """Check that the binary runs and that it is the release it was fetched for."""
    came = _run(str(binary), "--version", about="first run").partition("\n")[0]
    if not re.search(rf"[ ]{re.escape(version)}[.]", came):
        suite = program.suites[version]
        raise PeerError(f"Debian {suite} has another {program.name} than {version}: {came!r}")


def _run(*command: str, about: str) -> str:
    """Run a command to its end and return what it printed."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise PeerError(f"{name} is not installed, but is needed to fetch packages") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"{name} ({about}) did not end within {_TIMEOUT:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        errors = [line for line in said if line.startswith("E:")] or said or ["no message"]
        raise PeerError(f"{name} ({about}) failed with status {done.returncode}: {errors[0]}")
    return done.stdout


def _report(program: Program, version: str, into: Path) -> str:
    """Fetch a release unless it is there, and say where it is."""
    present = into.absolute() / version / program.binary
    if os.access(present, os.X_OK):
        return f"{program.name} {version} is already there: {present}"
    return f"{program.name} {version} is fetched: {fetch(version, into, program)}"


@click.command()
@click.argument("versions", nargs=-1, required=True, metavar="VERSION...")
@click.option("--tshark", is_flag=True, help="Releases of tshark: 4.0, 4.4 or 4.6.")
@click.option("--into", type=click.Path(path_type=Path), help="Folder to keep the binaries in.")
def main(versions: Sequence[str], tshark: bool, into: Path | None) -> None:
    """Fetch QEMU releases from Debian's archive, installing nothing: 5.2, 7.2, 10.0 or 11.1.

    They are kept in .qemu below the working directory, or in $MULTIFD_QEMU_DIR; those of tshark in
    .tshark, or in $MULTIFD_TSHARK_DIR.
    """
    program, home = (TSHARK, tshark_dir()) if tshark else (QEMU, qemu_dir())
    try:
        for version in versions:
            click.echo(_report(program, version, into or home))
    except (PeerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
