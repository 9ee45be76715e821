"""A dask cluster to share a batch with: one that runs, or one of this computer."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medsaga.computing import free_memory, pick_device, thread_count
from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

LOCAL = "local"
# Measured in docs/cluster.md.
_CORES_A_WORKER = 1
_BYTES_A_WORKER = 2 * 10**9
_SECONDS_TO_ANSWER = 30


@contextmanager
def connect_cluster(address: str) -> Iterator[Client]:
    """Give a client for :func:`medsaga.segment_batch`, inside the block.

    Parameters
    ----------
    address
        Of a scheduler, such as ``tcp://10.0.0.1:8786``; the scheduler file of one; or
        ``local``, which starts workers on this computer and ends them with the block.

    Raises
    ------
    MedsagaError
        If the package `distributed` is missing, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MedsagaError(
            "Sharing images among workers takes the package distributed, which is not "
            'installed: run pip install "napari-medsaga[cluster]".'
        ) from error
    with ExitStack() as stack:
        if address == LOCAL:
            client = _start_workers(stack)
        else:
            is_file = Path(address).expanduser().is_file()
            where = "scheduler_file" if is_file else "address"
            try:
                client = Client(**{where: address}, timeout=_SECONDS_TO_ANSWER)
            except (OSError, ValueError) as error:
                raise MedsagaError(
                    f"No dask scheduler answers at {address}: give its address, as in "
                    "tcp://10.0.0.1:8786, its scheduler file, or local."
                ) from error
        yield stack.enter_context(client)


def local_workers() -> tuple[int, int]:
    """Give how many workers this computer has room for, and the cores of each.

    A core each, as fewer threads that wait for one another do more in all; but fewer
    where the memory is short, and one for a GPU.
    """
    cores, device = thread_count(), pick_device()
    if device.type == "cuda":
        return 1, cores
    n_workers = min(cores // _CORES_A_WORKER, free_memory(device) // _BYTES_A_WORKER)
    n_workers = max(1, n_workers)
    return n_workers, cores // n_workers


def _start_workers(stack: ExitStack) -> Client:
    from distributed import LocalCluster

    from medsaga.segmentation.on_worker import IgnoresCtrlC

    n_workers, n_cores = local_workers()
    cluster = LocalCluster(
        n_workers=n_workers,
        threads_per_worker=n_cores,
        # Dask's share a worker would have it pause, or end, with memory left.
        memory_limit=0,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    )
    client = stack.enter_context(cluster).get_client()
    client.register_plugin(IgnoresCtrlC())
    return client
