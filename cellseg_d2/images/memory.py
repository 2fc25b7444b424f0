"""Refuses images that do not fit into memory before they are decoded; afterwards the system may end the process."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from cellseg_d2.errors import CellSegError

SMALL = 2**26
"""Bytes that are taken without asking how many are free."""

CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Files with the limit and the use of a container, versions 2 and 1: https://docs.kernel.org/admin-guide/cgroup-v2.html"""

IN_PARTS = "cut it into parts, or save it as a tiled TIFF, of which prediction decodes only parts"


def free_memory() -> int:
    """Bytes that this process can still take: the least of the machine's, the container's and the process's limits."""
    free = [psutil.virtual_memory().available]
    if sys.platform == "linux":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            free.append(limit - psutil.Process().memory_info().vms)
        for limit_file, use_file in CONTROL_GROUPS:
            if limit_file.is_file() and (text := limit_file.read_text().strip()).isdigit():
                free.append(int(text) - int(use_file.read_text()))
    return max(min(free), 0)


def check_memory(path: Path, shape: str, needed: int) -> None:
    """Refuses a file whose pixels do not fit into memory.

    Args:
        path: for the message.
        shape: its size in words.
        needed: bytes that decoding takes at its peak.

    Raises:
        CellSegError: fewer bytes are free.
    """
    if needed <= SMALL:
        return
    free = free_memory()
    if needed > free:
        raise CellSegError(
            f"{path}: is {shape}, which takes {_gigabytes(needed)} to decode; {_gigabytes(free)} are free; {IN_PARTS}"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
