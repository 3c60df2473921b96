"""`multifd extract`: the guest's memory out of a capture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.images import Image, Images, ImageSink
from multifd_proto.capture.session import Connection, Session
from multifd_proto.cli.common import (
    NOTHING_DONE,
    files_argument,
    keylog_option,
    parameter_options,
    parameters,
    reading,
    warn,
)
from multifd_proto.views.rows import text
from multifd_proto.views.summary import size

_STRETCHES = 4


@click.command()
@files_argument
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True,
    help="Folder for the RAM blocks; of several migrations, each has a folder in it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a RAM block.")
@keylog_option
@parameter_options
def command(files: tuple[str, ...], output: Path, as_json: bool, **options: Any) -> None:
    """Rebuild the destination's RAM blocks from FILE, as sparse files NAME.ram.

    \b
    multifd extract migration.pcap -o ram/

    All payload methods are decoded. A page's copy of the latest round wins. What never came is
    said, and reads as zeros.
    """
    images: dict[int, Images] = {}

    def sink(session: Session, _connection: Connection) -> ImageSink:
        return ImageSink(_images(images, session, output))

    follower = Follower(parameters(options), decode=True, sinks=sink)
    with reading(files, options["keylog"]) as reader:
        for connection, event in follower.follow(reader):
            if connection.session:
                _images(images, connection.session, output).take_zeros(event)
    warn(reader, follower)
    for session in follower.sessions:
        _print(session, images[session.number], as_json)
        images[session.number].close()
    if not follower.sessions:
        raise SystemExit(NOTHING_DONE)


def _images(images: dict[int, Images], session: Session, output: Path) -> Images:
    if session.number not in images:
        folder = output / f"migration-{session.number}" if session.number else output
        folder.mkdir(parents=True, exist_ok=True)
        images[session.number] = Images(folder, session.checker.migration)
    return images[session.number]


def _print(session: Session, images: Images, as_json: bool) -> None:
    for image in images.in_order():
        if as_json:
            click.echo(json.dumps({"migration": session.number} | _data(image)))
        else:
            for line in _lines(image):
                click.echo(line)
    if images.refused:
        click.echo(f"warning: {images.refused} pages of no known block or out of bounds", err=True)


def _data(image: Image) -> dict[str, Any]:
    return {
        "ramblock": text(image.name),
        "file": str(image.path),
        "length": image.length,
        "normal_pages": image.normal,
        "zero_pages": image.zero,
        "damaged_pages": image.damaged,
        "never_came": [[stretch.start, stretch.stop] for stretch in image.absent()],
    }


def _lines(image: Image) -> list[str]:
    length = size(image.length) if image.length is not None else "length unknown"
    came = f"{image.normal} normal and {image.zero} zero pages came"
    lines = [f"{image.path}: {text(image.name)}, {length}, {came}"]
    absent = list(image.absent())
    if absent:
        stretches = ", ".join(f"{a.start:#x}-{a.stop - 1:#x}" for a in absent[:_STRETCHES])
        more = f" and {len(absent) - _STRETCHES} more stretches" if len(absent) > _STRETCHES else ""
        lines.append(f"  {size(sum(map(len, absent)))} never came: {stretches}{more}")
    elif image.length is not None:
        lines.append("  every page came")
    if image.damaged:
        lines.append(f"  {image.damaged} pages are not whole in the capture")
    return lines
