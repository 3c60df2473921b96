"""Tasks on a cluster, through Dask: its workers write into a folder that all machines share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import click

from multifd_proto.cli.many import Done, Outcome, Task, do, message_of
from multifd_proto.errors import MultiFDError

_PATIENCE = 10
"""Seconds in which a scheduler has to answer."""


def on_cluster(address: str, tasks: Sequence[Task], done: Done) -> Iterator[Outcome]:
    """Do tasks on a cluster; yield what became of each, in the order in which they end.

    A task whose worker dies is given to another one, as often as the scheduler allows.

    Args:
        address: of the scheduler, such as 'tcp://10.0.0.1:8786'.
        tasks: what to do; the paths in them have to mean the same on every machine.
        done: told of bytes read.

    Raises:
        MultiFDError: distributed is not there, or no scheduler at the address.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        message = "--dask needs distributed: pip install 'multifd-proto[dask]'"
        raise MultiFDError(message) from None
    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise MultiFDError(f"no Dask scheduler at {address}: {error}") from None
    with client:
        if not client.scheduler_info()["workers"]:
            click.echo(f"multifd: waiting for a worker to join {address}", err=True)
        futures = {client.submit(do, task, pure=False): task for task in tasks}
        for future in as_completed(futures):
            task = futures[future]
            try:
                yield future.result()
            except CancelledError:
                yield Outcome(task.path, error="the cluster has lost its task")
            except Exception as error:
                yield Outcome(task.path, error=message_of(error))
            done(task.size if task.path.exists() else 0)
