"""Runs a command and prints its wall time and the peak memory of it and all its children (Linux).

python benchmarks/footprint.py mdp run quickstart
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Returns the process and all processes below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def memory(process: int) -> int:
    """Returns the proportional set size of a process in bytes (shared pages count once over all processes)."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Runs the command of the arguments."""
    started = time.monotonic()
    process = subprocess.Popen(sys.argv[1:])
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(memory(p) for p in descendants(process.pid)))
        time.sleep(0.5)
    print(f"{time.monotonic() - started:.1f} s, peak memory {peak / 2**30:.2f} GiB, exit code {process.returncode}")
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
