"""Storage that takes nothing more, for the process that tests run in."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_BYTES = 3000  # a page of a database does not fit, what is logged on a captured stderr does


@contextmanager
def nothing_can_be_written() -> Iterator[None]:
    """Every write beyond the first LIMIT_BYTES of a file fails with EFBIG: a real failure, of real calls, in the middle
    of a page. (Python ignores SIGXFSZ.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
