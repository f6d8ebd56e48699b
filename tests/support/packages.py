"""Debian packages that a test needs.

Missing ones skip the test with the line that installs them; in CI they fail it.
"""

import os
import shutil
from pathlib import Path

# One file that each package is known by: a program to be found on the path, or an absolute pattern.
_EVIDENCE = {
    "libiscsi7": "/usr/lib/*/libiscsi.so.[0-9]*",
    "libiscsi-dev": "/usr/include/iscsi/iscsi.h",
    "libiscsi-bin": "iscsi-test-cu",
    "libslirp-helper": "libslirp-helper",
    "user-mode-linux": "linux.uml",
    "open-iscsi": "iscsiadm",
    "curl": "curl",
    "kmod": "modprobe",
    "iproute2": "ip",
    "busybox-static": "busybox",
    "sg3-utils": "sg_raw",
    "ddpt": "ddpt",
    "mt-st": "mt-st",
    "mtx": "mtx",
    "lsscsi": "lsscsi",
    "e2fsprogs": "mkfs.ext4",
    "dmsetup": "dmsetup",
    "lvm2": "lvm",
    "mdadm": "mdadm",
    "fio": "fio",
    "stenc": "stenc",
    "bacula-sd": "btape",
    "tgt": "tgtd",
    "tshark": "tshark",
    "qemu-utils": "qemu-img",
    "qemu-block-extra": "/usr/lib/*/qemu/block-iscsi.so",
    "gcc": "gcc",
    "postgresql": "initdb",
    "sqlite3": "sqlite3",
    "libarchive-tools": "bsdtar",
    "xfsprogs": "mkfs.xfs",
    "ntfs-3g": "mkntfs",
    "dosfstools": "mkfs.fat",
    "mtools": "mcopy",
}


def missing(*names: str) -> list[str]:
    """Return those of the packages that are not installed."""
    return [name for name in names if not _is_installed(_EVIDENCE[name])]


def _is_installed(evidence: str) -> bool:
    if evidence.startswith("/"):
        return any(Path("/").glob(evidence[1:]))
    # Neither /usr/sbin nor a server's own directory is on an ordinary user's path.
    more = ["/usr/sbin", "/sbin", *map(str, Path("/").glob("usr/lib/postgresql/*/bin"))]
    return shutil.which(evidence, path=os.pathsep.join([os.environ.get("PATH", ""), *more])) is not None


def require(*names: str) -> None:
    """Skip the running test unless the packages are installed; fail it when CI=true."""
    absent = missing(*names)
    if not absent:
        return
    import pytest  # the hot demonstration works without it

    reason = f"Debian packages are missing: apt-get install --no-install-recommends {' '.join(absent)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
