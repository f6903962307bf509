"""How much memory a sweep may take, and which errors say that it ran out."""

import mmap
import os
from pathlib import Path

import jax

from funcnet.folds import Folds

MARGIN = 0.75  # share of the free memory to use; the rest is for results, the compiler and the process's other work
_UNKNOWN = 8 * 2**30  # bytes to assume free if the system doesn't say


def free_memory(device: jax.Device) -> int:
    """Bytes that training may take on a device: most of what is free.

    For a CPU, what is free is what the system can give without swapping, or, if that is less, what the limit of the process's control
    group (a container's, a job's) still allows.
    """
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(MARGIN * (int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))))
    known = [free for free in (_available(), _group_allows()) if free is not None]
    return int(MARGIN * min(known)) if known else _UNKNOWN


def data_bytes(data: Folds) -> int:
    """Bytes of the data on a device, where chunks share it; arrays mapped from a file don't count, since the system can drop them."""
    return sum(part.nbytes for part in jax.tree.leaves(data) if not _is_mapped(part))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a program needed more memory than there was."""
    return isinstance(error, MemoryError) or (isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


def _is_mapped(array: object) -> bool:
    """Whether an array is mapped from a file."""
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration, IndexError):
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _group_allows(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left under the limits of this process's control group (v1 or v2) and of the groups around it; None without a limit."""
    try:
        lines = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return None
    left = []
    for number, controllers, path in (line for line in lines if len(line) == 3):
        if number == "0" and not controllers:
            base, limit, used = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):  # in a container, the root that it sees is its own group
            folder = base.joinpath(*parts[:depth])
            most, now = (_number(folder / name) for name in (limit, used))
            if most is not None and most < 2**60:  # a larger number means no limit
                cache = _cached(folder / "memory.stat")
                left.append(max(0, most - max(0, (now or 0) - cache)))
    return min(left, default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _cached(path: Path) -> int:
    """Bytes of file cache that are charged to a group; the system frees them when memory is short."""
    try:
        found = dict(line.split() for line in path.read_text().splitlines())
        return int(found.get("inactive_file", found.get("total_inactive_file", 0)))
    except (OSError, ValueError):
        return 0
