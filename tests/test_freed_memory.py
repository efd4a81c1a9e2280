"""Memory that a training frees stays with its process."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from tinyfaces.training.freed_memory import keep_freed_memory
    keep_freed_memory()
def step():
    return np.ones(64 * 2**20, np.uint8)[::4096].sum()
step()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(20):
    step()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives large blocks back at once")
def test_the_same_memory_is_used_again():
    """Blocks of 64 MiB, one after the other: their 16,384 pages (32 where they are huge) are cleared once, not for each block."""
    faults, growth = {}, {}
    for way in ("plain", "keep"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
        faults[way], growth[way] = map(int, done.stdout.split())
    assert faults["plain"] >= 20 * 32, "what glibc does by itself"
    assert faults["keep"] < faults["plain"] / 10
    assert growth["keep"] < 32 * 1024, "KiB: nothing piles up"
