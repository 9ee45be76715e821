"""Threads, device, number format and memory of the computer at hand."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
import time
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch
from torch import nn

from medsaga.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medsaga.settings.fields import Precision

FixedPrecision = Literal["fp32", "bf16"]
_PROBES = 2
# Of GNU's mallopt: blocks from this size on are mapped one by one. The usual one is
# what it comes to by itself when large blocks are freed.
_MMAP_THRESHOLD, _LEAN_BLOCK, _USUAL_BLOCK = -3, 2**20, 2**25
# The same of free memory at the end, from which on it goes back.
_TRIM_THRESHOLD, _USUAL_END = -1, 2**26
# What was measured for a network at a size: images of a folder are segmented in one
# format, and each is not measured anew.
_faster: WeakKeyDictionary[nn.Module, dict[int, FixedPrecision]] = WeakKeyDictionary()
_allotted: ContextVar[int | None] = ContextVar("_allotted", default=None)


def pick_device() -> torch.device:
    """Pick a CUDA GPU where there is one, else the CPU.

    The environment variable MEDSAGA_DEVICE, if it says cpu, picks that.
    """
    is_wanted = os.environ.get("MEDSAGA_DEVICE") != "cpu"
    return torch.device("cuda" if is_wanted and torch.cuda.is_available() else "cpu")


def has_gpu() -> bool:
    """Say whether a GPU computes."""
    return pick_device().type != "cpu"


def processes_here() -> int:
    """Count the processes that torchrun has started on this computer; mostly one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def thread_count() -> int:
    """All cores that this process may use; from four upwards all but one.

    Processes that train together here share them. Inside :func:`allotted_cores` they
    are as many as are allotted, if there are so many.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    allotted = _allotted.get()
    if allotted is not None:
        return min(allotted, cores)
    cores = cores - 1 if cores >= 4 else cores
    return max(1, cores // processes_here())


@contextmanager
def allotted_cores(n_cores: int) -> Iterator[None]:
    """Leave the other cores to other processes of the same work, inside the block.

    It is about this thread alone.
    """
    token = _allotted.set(n_cores)
    try:
        yield
    finally:
        _allotted.reset(token)


@contextmanager
def computing_threads(wanted: int = 0) -> Iterator[int]:
    """Let torch use so many threads inside the block, and give their number.

    0 takes :func:`thread_count`, beyond which it never goes: threads without a core of
    their own hold up all others.
    """
    before, most = torch.get_num_threads(), thread_count()
    count = min(wanted, most) if wanted else most
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def describe_computer() -> str:
    """Say in a few words what a training here computes on."""
    device = pick_device()
    free = f"{free_memory(device) / 1e9:.1f} GB free"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {free}"
    return f"CPU, {count(thread_count(), 'core')}, {free}"


def free_memory(device: torch.device) -> int:
    """Bytes that can be used on a GPU, or in main memory without swapping.

    Processes that train together here share the main memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available) // processes_here()


def spare_mb(device: torch.device) -> int:
    """MiB that what is kept for speed alone may take: a quarter of what is free."""
    return free_memory(device) // 4 // 2**20


def peak_memory(device: torch.device) -> int:
    """Peak bytes so far: resident in this process, or allocated on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def free_cached_memory(device: torch.device) -> None:
    """Give back what is held of a device for tensors to come."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def allocates_leanly(device: torch.device) -> bool:
    """Whether :func:`allocate_leanly` is of any use for a device's tensors."""
    return device.type == "cpu" and platform.libc_ver()[0] == "glibc"


def allocate_leanly(wanted: bool) -> None:
    """Give large blocks back to the system as soon as they are free, or keep them.

    GNU's allocator otherwise keeps what is freed, in pieces that the next tensors do
    not fit into: half of what a training step holds. Asking the system for each tensor
    takes time instead (benchmarks/memory.py). Other systems are left alone.
    """
    if allocates_leanly(torch.device("cpu")):
        size = _LEAN_BLOCK if wanted else _USUAL_BLOCK
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, size)


def keep_freed_blocks() -> None:
    """Have GNU's allocator keep what is freed for the next tensors, as it usually does.

    Dask starts its workers such that all goes back to the system at once, which then
    clears it anew for each tensor: a segmentation takes more than twice as long
    (docs/cluster.md).
    """
    if allocates_leanly(torch.device("cpu")):
        allocate_leanly(wanted=False)
        ctypes.CDLL(None).mallopt(_TRIM_THRESHOLD, _USUAL_END)


def memory_held() -> int:
    """Bytes that are resident in this process now."""
    return int(psutil.Process().memory_info().rss)


def autocast(
    device: torch.device, precision: FixedPrecision
) -> AbstractContextManager[None]:
    """Compute matrix products and convolutions in bf16, or leave all in fp32."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode without gradients, then back into its mode."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed of `numbers`, and leave the caller's."""
    devices = [device] if device.type == "cuda" else []
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def pick_precision(
    wanted: Precision, network: nn.Module, device: torch.device, size: int
) -> FixedPrecision:
    """Pick the number format: as wanted, or whichever is measured to be faster.

    Many CPUs have no bf16 arithmetic and emulate it slowly, so an image of `size` by
    `size` pixels is put through the network in both formats; on a smaller one than it
    works at, converting the weights would hide the difference. Without AVX512 there is
    nothing to measure, which would take ten seconds there. A GPU takes bf16 where it
    has it.
    """
    if wanted != "auto":
        return wanted
    if not computes_natively("bf16", device):
        return "fp32"
    if device.type == "cuda":
        return "bf16"
    if size not in _faster.setdefault(network, {}):
        _faster[network][size] = _measure_faster(network, device, size)
    return _faster[network][size]


def computes_natively(precision: FixedPrecision, device: torch.device) -> bool:
    """Whether a device has the arithmetic of a number format, as far as is known."""
    if precision == "fp32":
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.backends.cpu.get_cpu_capability() != "AVX2"


def _measure_faster(
    network: nn.Module, device: torch.device, size: int
) -> FixedPrecision:
    images = torch.rand(1, 3, size, size, device=device)
    images = images.to(memory_format=torch.channels_last)
    seconds: dict[FixedPrecision, list[float]] = {"fp32": [], "bf16": []}
    with evaluating(network):
        # In turns, so that a busy moment of the computer hits both; the shortest
        # counts, since the first compiles kernels.
        for precision in _PROBES * tuple(seconds):
            started = time.perf_counter()
            with autocast(device, precision):
                network(images)
            seconds[precision].append(time.perf_counter() - started)
    is_faster = min(seconds["bf16"]) < 0.9 * min(seconds["fp32"])
    return "bf16" if is_faster else "fp32"
