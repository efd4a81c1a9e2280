"""What a training frees stays with its process, as the next step needs as much again."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_PAD = 64 * 2**20  # bytes that are asked for at a time


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks of any size. As it comes, it returns large ones to the system, which then has to clear memory
    anew for every step. Peak memory stays about the same. With other C libraries nothing happens."""
    with suppress(AttributeError, OSError, TypeError):  # other libraries have no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
        library.mallopt(_M_TOP_PAD, _PAD)
