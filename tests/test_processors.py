"""Processors: their features on three systems, and how many a container's quota leaves."""

import ctypes
import math
import mmap
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyfaces.detection import processors
from tinyfaces.detection.processors import features, multiplies_int8, quota_cpus, usable_cpus

X86 = platform.machine().lower() in ("x86_64", "amd64")


@pytest.fixture(autouse=True)
def asked_anew():
    features.cache_clear()
    yield
    features.cache_clear()


@pytest.mark.skipif(sys.platform != "linux" or not X86, reason="compares with what Linux says of an x86 processor")
def test_the_processor_itself_says_what_linux_says():
    """The code that Windows runs takes no arguments, so that it is the same there and here."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(processors._CPUID_7_1)
    eax = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
    flags = Path("/proc/cpuinfo").read_text().split()
    assert processors._has_avx_vnni(eax) == ("avx_vnni" in flags)
    assert bool(eax >> 5 & 1) == ("avx512_bf16" in flags)
    assert ("AVX512_VNNI" in processors._numpy_features()) == ("avx512_vnni" in flags)


@pytest.mark.parametrize(
    "system, asked, said, fast",
    [
        ("linux", {"AVX2"}, "flags: avx2 avx_vnni", True),
        ("linux", {"AVX2"}, "flags: avx2", False),
        ("linux", {"AVX2", "AVX512_VNNI"}, "", True),
        ("linux", {"ARM_DOT_PRODUCT"}, "Features: fp asimd asimddp", True),
        ("linux", set(), "Features: fp asimd", False),
        ("darwin", set(), {"hw.optional.arm.FEAT_DotProd": 1}, True),
        ("darwin", {"AVX2"}, {}, False),
    ],
)
def test_int8_is_chosen_by_the_processor_on_each_system(monkeypatch, system, asked, said, fast):
    monkeypatch.setattr(processors.sys, "platform", system)
    monkeypatch.setattr(processors, "_numpy_features", lambda: set(asked))
    monkeypatch.setattr(processors, "_cpuinfo", lambda: said if system == "linux" else "")
    monkeypatch.setattr(processors, "_sysctl", lambda name: said.get(name, 0))
    assert multiplies_int8() is fast


@pytest.mark.parametrize(
    "machine, told, fast", [("ARM64", 1, True), ("ARM64", 0, False), ("AMD64", 1 << 4, True), ("AMD64", 0, False)]
)
def test_windows_is_asked_on_arm_and_the_processor_on_x86(monkeypatch, machine, told, fast):
    kernel = SimpleNamespace(IsProcessorFeaturePresent=lambda number: told if number == 43 else 0)
    monkeypatch.setattr(processors.sys, "platform", "win32")
    monkeypatch.setattr(processors.platform, "machine", lambda: machine)
    monkeypatch.setattr(processors, "_numpy_features", lambda: {"AVX2"} if machine == "AMD64" else set())
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(processors, "_call_on_windows", lambda kernel: told)
    assert multiplies_int8() is fast


def test_windows_that_refuses_to_be_asked_gets_float32(monkeypatch):
    monkeypatch.setattr(processors.sys, "platform", "win32")
    monkeypatch.setattr(processors, "_numpy_features", lambda: {"AVX2"})
    monkeypatch.setattr(processors.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(), raising=False)
    assert not multiplies_int8()


def _system(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


V1 = "sys/fs/cgroup/cpu,cpuacct"
V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/pod/box\n", f"{V2}/pod/cpu.max": "200000 100000", f"{V2}/pod/box/cpu.max": "max 1"}, 2),
        ({"proc/self/cgroup": "0::/../pod\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/box\n1:name=systemd:/x\n", f"{V1}/box/cpu.cfs_quota_us": "300000",
          f"{V1}/box/cpu.cfs_period_us": "100000"}, 3),
        ({"proc/self/cgroup": "4:cpu:/unseen\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2.5),
        ({"proc/self/cgroup": "4:cpu:/\n", f"{V2}/cpu/cpu.cfs_quota_us": "-1", f"{V2}/cpu/cpu.cfs_period_us": "9"}, None),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)  # fmt: skip
def test_quotas_of_both_versions(tmp_path, monkeypatch, files, quota):
    monkeypatch.setattr(processors.sys, "platform", "linux")
    assert quota_cpus(_system(tmp_path, files)) == quota


@pytest.mark.parametrize("allowed, quota, used", [(64, 2.0, 2), (64, 1.5, 2), (64, 0.1, 1), (2, 8.0, 2), (4, None, 4)])
def test_a_pod_with_two_of_64_processors_uses_two(monkeypatch, allowed, quota, used):
    monkeypatch.setattr(processors, "allowed_cpus", lambda: allowed)
    monkeypatch.setattr(processors, "quota_cpus", lambda: quota)
    assert usable_cpus() == used == max(1, min(allowed, math.ceil(quota or allowed)))


def test_systems_without_affinity(monkeypatch):
    monkeypatch.delattr(processors.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(processors.os, "cpu_count", lambda: None)
    assert processors.allowed_cpus() == 1
