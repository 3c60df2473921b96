"""The test vectors in `spec/vectors`: `python -m multifd_proto.views.vectors [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from multifd_proto.views.vector_form import DIRECTORY, Document, committed, render
from multifd_proto.views.vector_init import init_suite
from multifd_proto.views.vector_judge import disagreements
from multifd_proto.views.vector_main import main_suite
from multifd_proto.views.vector_packets import packet_suite
from multifd_proto.views.vector_payloads import payload_suites
from multifd_proto.wire.dialect import dialect_of


def suites() -> Iterator[Document]:
    """Yield every file that is made, not recorded."""
    yield init_suite()
    for release in ("8.2", "9.0", "10.0"):
        yield packet_suite(dialect_of(release))
    yield from payload_suites()
    yield main_suite()


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; judge the files that are there.")
def main(check: bool) -> None:
    """Write the test vectors, and judge each as the specification's own checker does.

    What was recorded from QEMU is not written again. Since compressors differ between versions
    of their libraries, a new run may write other bytes that mean the same: what is committed is
    what counts.
    """
    if not check:
        for document in suites():
            path = DIRECTORY / f"{document['suite']}.json"
            path.write_text(render(document), encoding="utf-8")
    tests = faults = 0
    for name, document in committed():
        tests += sum(len(group["tests"]) for group in document["groups"])
        for fault in disagreements(document):
            faults += 1
            click.echo(f"{name} {fault}", err=True)
    click.echo(f"{tests} tests, {faults} judged otherwise")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
