"""PySCSI's own initiator, ISCSIDevice over cython-iscsi, as the releases that there are need it (docs/pyscsi.md)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def publish_constants() -> None:
    """PySCSI 2.1.0 asks the module for names that cython-iscsi 1.0, built with Cython 3, has in enumerations only."""
    import iscsi

    for kind in (iscsi.iscsi_session_type, iscsi.iscsi_header_digest, iscsi.scsi_xfer_dir):
        for constant in kind:
            setattr(iscsi, constant.name, constant)


@contextmanager
def connected(url: str, blocksize: int = 0) -> Iterator[Any]:
    """PySCSI's SCSI class on iscsi://host:port/target/lun, logged in until the block ends."""
    from pyscsi.pyiscsi.iscsi_device import ISCSIDevice
    from pyscsi.pyscsi.scsi import SCSI

    publish_constants()
    device = ISCSIDevice(url)
    try:
        yield SCSI(device, blocksize)
    finally:
        device.close()
