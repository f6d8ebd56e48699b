"""fallocate(2) with its modes, which Python does not offer: holes and reserved space."""

import ctypes
import errno
import os

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
# off_t is 64 bits wide in the call of this name, whatever it is by default; musl has only the plain name.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int

# The file system, the device or the alignment of the range does not allow the mode.
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM})


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """One fallocate(2) call; `length` must not be 0. Raises OSError."""
    while _fallocate(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def try_fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    """False when this storage cannot do it for this range. Raises OSError for everything else that goes wrong."""
    try:
        fallocate(descriptor, mode, offset, length)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True
