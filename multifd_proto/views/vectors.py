"""The test vectors in `spec/vectors`: `python -m multifd_proto.views.vectors [--check]`."""

from __future__ import annotations

import sys

import click

from multifd_proto.views.vector_form import DIRECTORY, committed, render
from multifd_proto.views.vector_judge import disagreements
from multifd_proto.views.vector_suites import suites


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
