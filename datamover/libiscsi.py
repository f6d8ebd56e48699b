"""libiscsi, found at run time: the names used from it, typed, and the shape of its task structure, checked before use.

Nothing else in the house touches libiscsi; `datamover.initiator` is the interface. ctypes rather than a C extension
so that installing the distribution needs neither libiscsi nor its headers: only a copy or a test that reaches out to
another target does. A function of the library called through here runs without the GIL.
"""

import ctypes
import ctypes.util
import functools
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint8, c_uint16, c_uint32, c_void_p

# Newest first. 7 is Debian 12's, 9 and 10 are its successors'; what we use of them did not change, and check_layout()
# holds us to that.
_LIBRARY_NAMES = ("libiscsi.so.10", "libiscsi.so.9", "libiscsi.so.8", "libiscsi.so.7")


class LibraryUnavailable(Exception):
    """libiscsi is missing, or is a version whose structures are not the ones we know; the text says what to install."""


class SessionType:
    """enum iscsi_session_type."""

    DISCOVERY = 1
    NORMAL = 2


class TransferDirection:
    """enum scsi_xfer_dir."""

    NONE = 0
    READ = 1
    WRITE = 2


class Residual:
    """enum scsi_residual."""

    NONE = 0
    UNDERFLOW = 1
    OVERFLOW = 2


class CompletionStatus:
    """What a callback's status says beside SAM's one-byte status codes (enum scsi_status)."""

    REDIRECT = 0x101
    CANCELLED = 0x0F000000
    ERROR = 0x0F000001
    TIMEOUT = 0x0F000002


class IoVector(ctypes.Structure):
    """struct scsi_iovec, which is POSIX's."""

    _fields_ = [("base", c_void_p), ("length", c_size_t)]


class _IoVectors(ctypes.Structure):
    _fields_ = [
        ("vectors", POINTER(IoVector)),
        ("count", c_int),
        ("allocated", c_int),
        ("offset", c_size_t),
        ("consumed", c_int),
    ]


class _Sense(ctypes.Structure):
    _fields_ = [
        ("error_type", c_uint8),
        ("key", c_int),
        ("ascq", c_int),
        ("flags", c_uint8),
        ("bit_pointer", c_uint8),
        ("field_pointer", c_uint16),
    ]


class _Data(ctypes.Structure):
    _fields_ = [("size", c_int), ("bytes", c_void_p)]


class ScsiTask(ctypes.Structure):
    """struct scsi_task, up to the last member we need."""

    _fields_ = [
        ("status", c_int),
        ("cdb_length", c_int),
        ("direction", c_int),
        ("expected_length", c_int),
        ("cdb", c_uint8 * 16),
        ("residual_status", c_int),
        ("residual", c_size_t),
        ("sense", _Sense),
        ("data_in", _Data),
        ("allocations", c_void_p),
        ("private", c_void_p),
        ("initiator_task_tag", c_uint32),
        ("cmd_sn", c_uint32),
        ("lun", c_uint32),
        ("vectors_in", _IoVectors),
        ("vectors_out", _IoVectors),
    ]


class TargetPortal(ctypes.Structure):
    """struct iscsi_target_portal: a list of the addresses of one target."""


TargetPortal._fields_ = [("next", POINTER(TargetPortal)), ("address", c_char_p)]


class DiscoveryAddress(ctypes.Structure):
    """struct iscsi_discovery_address: a list of targets."""


DiscoveryAddress._fields_ = [
    ("next", POINTER(DiscoveryAddress)),
    ("target_name", c_char_p),
    ("portals", POINTER(TargetPortal)),
]

# void callback(struct iscsi_context *, int status, void *command_data, void *private_data)
Callback = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_void_p)

_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "iscsi_create_context": (c_void_p, [c_char_p]),
    "iscsi_destroy_context": (c_int, [c_void_p]),
    "iscsi_get_error": (c_char_p, [c_void_p]),
    "iscsi_get_target_address": (c_char_p, [c_void_p]),
    "iscsi_set_session_type": (c_int, [c_void_p, c_int]),
    "iscsi_set_targetname": (c_int, [c_void_p, c_char_p]),
    "iscsi_set_header_digest": (c_int, [c_void_p, c_int]),
    "iscsi_set_immediate_data": (c_int, [c_void_p, c_int]),
    "iscsi_set_initial_r2t": (c_int, [c_void_p, c_int]),
    "iscsi_set_initiator_username_pwd": (c_int, [c_void_p, c_char_p, c_char_p]),
    "iscsi_set_target_username_pwd": (c_int, [c_void_p, c_char_p, c_char_p]),
    "iscsi_set_isid_random": (c_int, [c_void_p, c_uint32, c_uint32]),
    "iscsi_set_noautoreconnect": (None, [c_void_p, c_int]),
    "iscsi_connect_async": (c_int, [c_void_p, c_char_p, Callback, c_void_p]),
    "iscsi_login_async": (c_int, [c_void_p, Callback, c_void_p]),
    "iscsi_logout_async": (c_int, [c_void_p, Callback, c_void_p]),
    "iscsi_discovery_async": (c_int, [c_void_p, Callback, c_void_p]),
    "iscsi_nop_out_async": (c_int, [c_void_p, Callback, c_char_p, c_int, c_void_p]),
    "iscsi_task_mgmt_async": (c_int, [c_void_p, c_int, c_int, c_uint32, c_uint32, Callback, c_void_p]),
    "iscsi_scsi_command_async": (c_int, [c_void_p, c_int, POINTER(ScsiTask), Callback, c_void_p, c_void_p]),
    "iscsi_scsi_cancel_task": (c_int, [c_void_p, POINTER(ScsiTask)]),
    "iscsi_get_fd": (c_int, [c_void_p]),
    "iscsi_which_events": (c_int, [c_void_p]),
    "iscsi_service": (c_int, [c_void_p, c_int]),
    "scsi_create_task": (POINTER(ScsiTask), [c_int, c_char_p, c_int, c_int]),
    "scsi_free_scsi_task": (None, [POINTER(ScsiTask)]),
    "scsi_set_task_private_ptr": (None, [POINTER(ScsiTask), c_void_p]),
    "scsi_task_set_iov_in": (None, [POINTER(ScsiTask), POINTER(IoVector), c_int]),
    "scsi_task_set_iov_out": (None, [POINTER(ScsiTask), POINTER(IoVector), c_int]),
}


@functools.cache
def load() -> ctypes.CDLL:
    """Return the library with every prototype set; raise LibraryUnavailable when it is missing or unknown to us."""
    library = _open()
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise LibraryUnavailable(f"{library._name} has no {name}(): install Debian's libiscsi7 or newer") from None
        function.restype = result
        function.argtypes = arguments
    check_layout(library)
    return library


def _open() -> ctypes.CDLL:
    found = ctypes.util.find_library("iscsi")
    for name in (*_LIBRARY_NAMES, *([found] if found else [])):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise LibraryUnavailable(
        "libiscsi is not installed: 'apt-get install libiscsi7' on Debian and Ubuntu, package libiscsi elsewhere"
    )


def check_layout(library: ctypes.CDLL) -> None:
    """Raise LibraryUnavailable unless struct scsi_task is laid out as Task says.

    The members that we read are fenced in: the library itself writes known values in front of them (the CDB), between
    them (the private pointer) and behind them (the I/O vectors), through its public functions, and each has to appear
    where Task expects it.
    """
    cdb = bytes(range(0xA0, 0xB0))
    task = library.scsi_create_task(len(cdb), cdb, TransferDirection.READ, 0x01020304)
    if not task:
        raise MemoryError("scsi_create_task")
    vectors_in, vectors_out = (IoVector * 3)(), (IoVector * 2)()
    library.scsi_set_task_private_ptr(task, 0x5AFE5AFE)
    library.scsi_task_set_iov_in(task, vectors_in, 3)
    library.scsi_task_set_iov_out(task, vectors_out, 2)
    seen = task.contents
    right = (
        bytes(seen.cdb) == cdb
        and (seen.cdb_length, seen.direction, seen.expected_length) == (16, TransferDirection.READ, 0x01020304)
        and seen.private == 0x5AFE5AFE
        and (seen.vectors_in.count, _address(seen.vectors_in.vectors)) == (3, ctypes.addressof(vectors_in))
        and (seen.vectors_out.count, _address(seen.vectors_out.vectors)) == (2, ctypes.addressof(vectors_out))
        and (seen.residual, seen.data_in.size, seen.data_in.bytes) == (0, 0, None)
    )
    library.scsi_free_scsi_task(task)
    if not right:
        raise LibraryUnavailable(f"{library._name}: its struct scsi_task is not the one of libiscsi 1.19 to 1.20")


def _address(pointer: object) -> int | None:
    return ctypes.cast(pointer, c_void_p).value  # type: ignore[arg-type]
