"""What this machine has to offer."""

import os


def cores() -> int:
    """The cores that this process may use: a job of a cluster, or a container, often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
