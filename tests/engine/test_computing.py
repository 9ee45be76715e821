from __future__ import annotations

import os
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from medsaga.computing import (
    allotted_cores,
    computing_threads,
    evaluating,
    free_memory,
    peak_memory,
    pick_device,
    pick_precision,
    thread_count,
)
from medsaga.preloading import patient_threads

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, 1), (2, 2), (3, 3), (4, 3), (16, 15)]
)
def test_all_cores_but_one_from_four_upwards(cores, threads, monkeypatch):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _: set(range(cores)), raising=False
    )
    assert thread_count() == threads


def test_processes_of_torchrun_share_cores_and_memory(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    alone = free_memory(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert thread_count() == 2
    assert free_memory(CPU) < alone / 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "20")
    assert thread_count() == 1


@pytest.mark.parametrize(("allotted", "threads"), [(2, 2), (16, 8)])
def test_a_worker_takes_no_more_cores_than_it_is_allotted(
    allotted, threads, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    with allotted_cores(allotted):
        assert thread_count() == threads
    assert thread_count() == 7


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with computing_threads() as count:
        assert torch.get_num_threads() == count == thread_count()
    assert torch.get_num_threads() == before


def test_peak_memory_sees_a_large_array():
    before = peak_memory(CPU)
    assert before > 10 * 2**20
    # What there was at the peak may be free again: as much, and 128 MB more, touched.
    held = np.ones((before - psutil.Process().memory_info().rss) // 8 + 2**24)
    assert held[-1] == 1
    assert peak_memory(CPU) > before + 2**26
    assert free_memory(CPU) > 0


def test_a_precision_that_is_asked_for_is_taken():
    network = nn.Conv2d(3, 4, 3)
    assert pick_precision("fp32", network, CPU, 32) == "fp32"
    assert pick_precision("bf16", network, CPU, 32) == "bf16"


@pytest.mark.parametrize(("slow", "expected"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_auto_takes_the_faster_precision(slow, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")

    class Slowed(nn.Module):
        def forward(self, images):
            is_bf16 = torch.is_autocast_enabled("cpu")
            time.sleep(0.02 if is_bf16 == (slow == "bf16") else 0.0)
            return images

    assert pick_precision("auto", Slowed(), CPU, 32) == expected


def test_a_network_is_measured_once_for_a_size(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    sizes = []

    class Counting(nn.Module):
        def forward(self, images):
            sizes.append(images.shape[-1])
            return images

    network = Counting()
    for size in (32, 32, 64, 32):
        pick_precision("auto", network, CPU, size)
    assert sizes == [32] * 4 + [64] * 4


def test_without_avx512_nothing_is_measured(monkeypatch):
    class Unwanted(nn.Module):
        def forward(self, images):
            pytest.fail("measured")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert pick_precision("auto", Unwanted(), CPU, 32) == "fp32"


def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch):
    def emulates(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulates)
    network = nn.Conv2d(3, 4, 3)
    assert pick_precision("auto", network, torch.device("cuda"), 32) == "fp32"


def test_measuring_leaves_the_network_as_it_was(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    pick_precision("auto", network, CPU, 32)
    assert network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_evaluating_goes_back_to_the_mode_before():
    network = nn.Dropout().train()
    with evaluating(network):
        assert not network.training
        assert not torch.is_grad_enabled()
    assert network.training
    assert torch.is_grad_enabled()


WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("load", "given", "inside"),
    [
        (0.1, {}, {"GOMP_SPINCOUNT": "3000"}),
        (100.0, {}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (100.0, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        (0.1, {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
    ],
)
def test_threads_wait_by_the_load_unless_the_user_says_how(
    monkeypatch, load, given, inside
):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    with patient_threads():
        assert {n: os.environ[n] for n in WAITING if n in os.environ} == inside
    assert {n: os.environ[n] for n in WAITING if n in os.environ} == given


def test_torch_that_is_there_already_is_left_as_it_is():
    before = dict(os.environ)
    with patient_threads():
        assert dict(os.environ) == before


def test_the_environment_can_keep_a_gpu_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("MEDSAGA_DEVICE", raising=False)
    assert pick_device().type == "cuda"
    monkeypatch.setenv("MEDSAGA_DEVICE", "cpu")
    assert pick_device().type == "cpu"
