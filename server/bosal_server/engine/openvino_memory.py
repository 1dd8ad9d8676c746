"""How much memory this process may still take, so that a model is refused before it is killed."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return what the system and the control group leave; None where neither can be read."""
    limits = [limit for limit in (_system(meminfo), _group(cgroup)) if limit is not None]
    return min(limits, default=None)


def _system(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    return None


def _group(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = (cgroup / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # The page cache is given back under pressure.
    cached = dict(zip(statistics[::2], statistics[1::2], strict=True)).get("inactive_file", "0")
    return max(int(limit) - used + int(cached), 0)
