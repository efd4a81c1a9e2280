"""The processors of this machine: how many this process may use, and whether they multiply int8 fast."""

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

_SYSTEM = Path("/")
_INT8_STEPS = frozenset(("AVX512_VNNI", "AVX_VNNI", "ARM_DOT_PRODUCT"))
_SHOWN = ("AVX2", "AVX512_VNNI", "AVX_VNNI", "ARM_DOT_PRODUCT", "ARM_I8MM")
_PF_ARM_DOT_PRODUCT = 43  # of Windows' IsProcessorFeaturePresent
# x86-64: gives EAX of CPUID's leaf 7.1 (push rbx; mov eax, 7; mov ecx, 1; cpuid; pop rbx; ret). It takes no arguments, and so is
# the same for the calling conventions of Windows and of others.
_CPUID_7_1 = bytes.fromhex("53 b807000000 b901000000 0fa2 5b c3")
_AVX_VNNI_BIT = 4
_MEM_COMMIT, _PAGE_READWRITE, _PAGE_EXECUTE_READ, _MEM_RELEASE = 0x1000, 0x04, 0x20, 0x8000


def multiplies_int8() -> bool:
    """Whether the processor is known to multiply and add int8 in one step: x86 with VNNI, ARM with dot product. Without it, int8
    is no faster, and on x86 less exact in ONNX Runtime."""
    return not _INT8_STEPS.isdisjoint(features())


@lru_cache(1)
def features() -> tuple[str, ...]:
    """Those of the processor's features that matter here, by what NumPy and the system say."""
    known = _numpy_features() | _system_features()
    return tuple(name for name in _SHOWN if name in known)


def _numpy_features() -> set[str]:
    """What NumPy asked the processor itself, on all systems; it knows no AVX-VNNI."""
    asked: dict[str, bool] = {}
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):  # NumPy 2 and 1
        with suppress(ImportError, AttributeError):
            asked = asked or import_module(module).__cpu_features__
    names = {"AVX2": "AVX2", "AVX512VNNI": "AVX512_VNNI", "AVX512_ICL": "AVX512_VNNI", "ASIMDDP": "ARM_DOT_PRODUCT"}
    return {ours for theirs, ours in names.items() if asked.get(theirs)}


def _system_features() -> set[str]:
    """What the system says, or on Windows the processor, where NumPy may not know."""
    if sys.platform == "win32":
        return _windows_features()
    if sys.platform == "darwin":
        names = {"FEAT_DotProd": "ARM_DOT_PRODUCT", "FEAT_I8MM": "ARM_I8MM"}
        return {ours for theirs, ours in names.items() if _sysctl(f"hw.optional.arm.{theirs}")}
    flags = set(_cpuinfo().split())
    names = {"avx512_vnni": "AVX512_VNNI", "avx_vnni": "AVX_VNNI", "asimddp": "ARM_DOT_PRODUCT", "i8mm": "ARM_I8MM"}
    return {ours for theirs, ours in names.items() if theirs in flags}


def _windows_features() -> set[str]:
    found: set[str] = set()
    with suppress(Exception):  # whatever an old or emulated system lacks: then int8 is not taken
        kernel: Any = vars(ctypes)["windll"].kernel32
        if platform.machine().upper() == "ARM64":
            return {"ARM_DOT_PRODUCT"} if kernel.IsProcessorFeaturePresent(_PF_ARM_DOT_PRODUCT) else set()
        if "AVX2" in _numpy_features() and _has_avx_vnni(_call_on_windows(kernel)):
            found.add("AVX_VNNI")
    return found


def _has_avx_vnni(eax: int) -> bool:
    return bool(eax >> _AVX_VNNI_BIT & 1)


def _call_on_windows(kernel: Any) -> int:
    kernel.VirtualAlloc.restype = ctypes.c_void_p
    kernel.VirtualAlloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32)
    place = kernel.VirtualAlloc(None, len(_CPUID_7_1), _MEM_COMMIT, _PAGE_READWRITE)
    if not place:
        return 0
    try:
        ctypes.memmove(place, _CPUID_7_1, len(_CPUID_7_1))
        kernel.VirtualProtect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p)
        before = ctypes.c_uint32()
        if not kernel.VirtualProtect(place, len(_CPUID_7_1), _PAGE_EXECUTE_READ, ctypes.byref(before)):
            return 0
        return int(ctypes.CFUNCTYPE(ctypes.c_uint32)(place)())
    finally:
        kernel.VirtualFree.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32)
        kernel.VirtualFree(place, 0, _MEM_RELEASE)


def _sysctl(name: str) -> int:
    """A number that macOS tells; 0 where it does not know the name."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) == 0:
            return value.value
    return 0


def usable_cpus() -> int:
    """How many processors this process may use: those it may run on, or as many as its container is given the time of."""
    quota = quota_cpus()
    return allowed_cpus() if quota is None else max(1, min(allowed_cpus(), math.ceil(quota)))


def allowed_cpus() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota_cpus(system: Path = _SYSTEM) -> float | None:
    """The least processor time that a control group of this process is given, in processors; None without a quota.

    Args:
        system: Where the file system of the machine begins.
    """
    quotas = [*_quotas_2(system), *_quotas_1(system)] if sys.platform == "linux" else []
    return min(quotas, default=None)


def _quotas_2(system: Path) -> Iterator[float]:
    for folder in _folders(system / "sys/fs/cgroup", _group(system, "")):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        yield from _ratio(quota, period)


def _quotas_1(system: Path) -> Iterator[float]:
    for name in ("cpu", "cpu,cpuacct"):
        for folder in _folders(system / "sys/fs/cgroup" / name, _group(system, "cpu")):
            yield from _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _group(system: Path, controller: str) -> str:
    """The path of this process's control group; `controller` is empty for version 2."""
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            return path
    return "/"


def _folders(top: Path, group: str) -> Iterator[Path]:
    """The folder of a control group and those above it, which bind it too. In a container, only the top may be seen."""
    path = PurePosixPath("/", group)
    for one in (path, *path.parents):
        yield top.joinpath(*[part for part in one.parts[1:] if part != ".."])


def _ratio(quota: str, period: str) -> Iterator[float]:
    with suppress(ValueError):  # "max", or no such file
        if float(quota) > 0 and float(period) > 0:
            yield float(quota) / float(period)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def processor_name() -> str:
    """The processor's name where the system says it, else its kind."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@lru_cache(1)
def _cpuinfo() -> str:
    """What Linux says about the processors; empty elsewhere."""
    return _text(Path("/proc/cpuinfo"))
