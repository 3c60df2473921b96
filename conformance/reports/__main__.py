"""Render runs from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import ReportError, read, render


def main() -> None:
    """Read runs, and write the reports that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m multifd_proto.conformance.reports",
        description="Put runs of the conformance suite side by side.",
    )
    parser.add_argument("run", type=Path, nargs="+", help="JSON lines of a run")
    parser.add_argument(
        "-o", "--output", type=Path, action="append", required=True, metavar="FILE",
        help="report.md or report.html; may be given several times",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        runs = read(arguments.run)
        for path in arguments.output:
            render(runs, path)
    except ReportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
