"""Where the time of `multifd decode` goes."""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path

from multifd_proto.cli import cli
from multifd_proto.tests.bigcaptures import Recipe, generate

FUNCTIONS = 25


def profile(name: str, recipe: Recipe, folder: Path) -> None:
    """Print the functions that `multifd decode` spends most time in, on a capture."""
    truth = generate(folder / "capture", recipe)
    profiler = cProfile.Profile()
    command = ["decode", "-o", str(folder / "printed"), str(folder / "capture")]
    with profiler:
        cli.main(command, standalone_mode=False)
    print(f"{name}: {truth.bytes} bytes, {truth.total('packets')} packets")  # noqa: T201
    pstats.Stats(profiler).sort_stats("tottime").print_stats(FUNCTIONS)
