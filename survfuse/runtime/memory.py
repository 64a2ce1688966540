"""How much memory is left, checked before much of it is taken, and a limit on what a reader may take.

Linux grants more memory than there is, and kills the process that then uses it. The memory that a file will need is
therefore compared with what is left under the container's limit and on the machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from survfuse.runtime.errors import EnvironmentFailure

# Control groups, version 2 and then 1: the limit, the use, and the part of the use that is droppable file cache.
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def available_memory() -> int | None:
    """Bytes that this process can still take; None if the system does not say."""
    left = [counter(Path("/proc/meminfo"), "MemAvailable:", 1024)]
    for folder, limit, used, reclaimable in _GROUPS:
        with suppress(OSError, ValueError):
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            left.append(free + sum(counter(folder / "memory.stat", pages) or 0 for pages in reclaimable))
    known = [number for number in left if number is not None]
    return max(0, min(known)) if known else None


def check_memory(needed: int, what: str) -> None:
    """Raise EnvironmentFailure if ``what`` (a plural noun) needs more than the memory left; ``needed`` is in bytes."""
    left = available_memory()
    if left is not None and needed > left:
        raise EnvironmentFailure(f"memory: {what} need {needed / 1e9:,.1f} GB, {left / 1e9:,.1f} GB are left")


@contextmanager
def at_most(extra: int) -> Iterator[None]:
    """Limit the growth of this process's address space to ``extra`` bytes; beyond that, MemoryError.

    For readers that would trust the size that a file states. Linux only; on other systems there is no limit.
    """
    pages = _first_number(Path("/proc/self/statm"))
    if pages is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = pages * resource.getpagesize() + extra
    if soft not in (resource.RLIM_INFINITY, -1):
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def counter(path: Path, name: str, unit: int = 1) -> int | None:
    """The number on the line of ``path`` that begins with ``name``, times ``unit``; None if there is no such line."""
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.split()[:1] == [name]:
                return int(line.split()[1]) * unit
    return None


def _first_number(path: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int(path.read_text(encoding="ascii").split()[0])
    return None
