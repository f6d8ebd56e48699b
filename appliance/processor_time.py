"""The processor's time of this process."""

import resource
import time


def processor_seconds() -> float:
    """Of all of its threads, and of the processes it started that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
