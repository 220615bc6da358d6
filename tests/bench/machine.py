"""What the figures were measured on."""
import os
import platform
import re
import statistics
import time
from pathlib import Path

SYNCS = 50


def description(folder):
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "database_folder": str(Path(folder).parent),
        "file_system": file_system(folder),
        "sync_ms": sync_ms(folder),
    }


def processor():
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"),
                      re.MULTILINE)
    return found.group(1) if found else platform.machine()


def file_system(folder):
    """The type of the mount that holds the folder: the longest path that leads to it."""
    path = Path(folder).resolve()
    mounts = [line.split()[1:3]
              for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return max((len(point), kind) for point, kind in mounts if path.is_relative_to(point))[1]


def sync_ms(folder):
    """What it costs here to get 4 KiB to the disk, which a durable answer cannot beat."""
    times = []
    with open(Path(folder) / "sync", "wb", buffering=0) as file:
        for _ in range(SYNCS):
            begin = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)
