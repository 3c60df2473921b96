"""`multifd mapped-ram`: look into a mapped-ram file, take out of it, write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from multifd_proto.cli.common import NOTHING_DONE, DialectType
from multifd_proto.cli.mapped_ram_report import Outcome, print_json, print_text
from multifd_proto.cli.progress import progress_bar
from multifd_proto.errors import PeerError
from multifd_proto.machine.mapped_ram import violated
from multifd_proto.peers.mapped_ram import BlockInfo, MappedRamFile
from multifd_proto.wire.block_names import file_name
from multifd_proto.wire.dialect import Dialect, dialect_of

_SINCE = dialect_of("9.0")
_BlockImage = tuple[bytes, Path]


class _ImageType(click.ParamType[_BlockImage]):
    name = "NAME=IMAGE"

    def convert(self, value: Any, param: Any, ctx: Any) -> _BlockImage:
        name, equals, image = str(value).partition("=")
        if not name or not equals or not image:
            self.fail(f"{value!r} is no RAM block with its image, must be {self.name}", param, ctx)
        return name.encode(), Path(image)


def _since_9_0(_ctx: Any, _param: Any, dialect: Dialect) -> Dialect:
    if dialect.index < _SINCE.index:
        raise click.BadParameter(f"{dialect.name} has no mapped-ram, {_SINCE.name} and newer have")
    return dialect


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--extract", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write each RAM block to DIR/NAME.ram, as a sparse file.",
)  # fmt: skip
@click.option(
    "--compare", "images", type=_ImageType(), multiple=True,
    help="Demand that a RAM block equals an image; more than once for more blocks.",
)  # fmt: skip
@click.option(
    "--write", "sources", type=_ImageType(), multiple=True,
    help="Write a new FILE of RAM blocks, given as images of their memory, in this order.",
)  # fmt: skip
@click.option(
    "--dialect", type=DialectType(), default="10.0", show_default=True, callback=_since_9_0,
    help="With --write: the QEMU release that could have written it.",
)  # fmt: skip
@click.option(
    "--writers", type=click.IntRange(1, 255), default=4, show_default=True,
    help="With --write: threads that write pages.",
)  # fmt: skip
@click.option("--direct-io", is_flag=True, help="With --write: bypass the page cache (O_DIRECT).")
@click.option("--force", is_flag=True, help="With --write: replace FILE if it exists.")
@click.option(
    "--offset", type=click.IntRange(0, 1 << 62), default=0, metavar="BYTES",
    help="Where in FILE the stream begins, as with file:PATH,offset=N.  [default: 0]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on one line.")
def command(
    file: Path,
    folder: Path | None,
    images: tuple[_BlockImage, ...],
    sources: tuple[_BlockImage, ...],
    offset: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Verify a mapped-ram FILE, in which QEMU (9.0 and newer) has saved a machine.

    \b
    multifd mapped-ram vm.mig
    multifd mapped-ram vm.mig --extract ram/
    multifd mapped-ram vm.mig --compare pc.ram=/dev/shm/vm.ram
    multifd mapped-ram new.mig --write ram0=/dev/shm/vm.ram

    The file tells neither whether multifd was in use nor how many channels. What --write makes,
    a QEMU with `-machine none` and RAM blocks of these names and sizes loads, with multifd and
    without.

    \b
    Exit codes: 0 conforming (and equal), 1 a MUST is violated or a block is not equal to its
                image, 2 usage or unreadable input, 4 FILE is a migration without mapped-ram.
    """
    if sources:
        if folder or images:
            raise click.UsageError("--write makes a file, --extract and --compare read one")
        _write(file, sources, offset, **options)
    with MappedRamFile(file, offset) as opened:
        outcome = Outcome(opened)
        for name, image in images:
            with progress_bar("comparing") as progress:
                block = _find(opened, name).block
                outcome.compared.append((block, image, opened.compare(block, image, progress)))
        if folder:
            _extract(opened, folder, outcome)
        (print_json if as_json else print_text)(outcome)
        if not opened.mapped and not violated(opened.results):
            raise SystemExit(NOTHING_DONE)
        raise SystemExit(int(violated(opened.results) or outcome.unequal))


def _write(file: Path, sources: tuple[_BlockImage, ...], offset: int, **options: Any) -> None:
    from multifd_proto.peers.mapped_ram_write import write
    from multifd_proto.peers.templates import template_for

    images = dict(sources)
    if len(images) < len(sources):
        raise click.UsageError("--write has a RAM block twice")
    if file.exists() and not options["force"]:
        raise click.UsageError(f"{file} exists: --force replaces it")
    with progress_bar("writing") as progress:
        write(
            file, images, template_for(options["dialect"]), writers=options["writers"],
            direct_io=options["direct_io"], offset=offset, overwrite=True, progress=progress,
        )  # fmt: skip


def _find(file: MappedRamFile, name: bytes) -> BlockInfo:
    """Find the readable block of a name."""
    for info in file.blocks:
        if info.block.name == name:
            if not info.readable:
                raise PeerError(f"{file.path}: block {name.decode()!r} cannot be read from it")
            return info
    known = ", ".join(info.block.name.decode("utf-8", "backslashreplace") for info in file.blocks)
    raise PeerError(f"{file.path}: has no block {name.decode()!r}, only: {known or 'none'}")


def _extract(file: MappedRamFile, folder: Path, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for info in file.blocks:
        if not info.readable:
            continue
        taken = {target.name for target in outcome.extracted}
        target = folder / file_name(info.block.name, taken)
        with progress_bar(f"writing {target.name}") as progress:
            file.extract(info.block, target, progress)
        outcome.extracted[target] = info.block
