"""What would keep a library from being served: everything that `serve` builds is built, and what it needs is tried.

Nothing of the library changes. Devices are built in a scratch directory, images are opened for reading, ports are bound
and given back.
"""

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from appliance import logs
from appliance.failures import Failure, OperatorError, explained, not_permitted
from appliance.library.control_socket import bind, refuse_another_file
from appliance.library.disks import refuse_own_file
from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.library.lock import LibraryLock
from appliance.settings.certificate import CertificateError, tls_context
from appliance.settings.sections import DiskSettings
from appliance.settings.settings import Settings
from appliance.settings.units import HostAndPort, format_size
from vlib_images.disk.raw import DiskImage, DiskInUse, NotADisk
from vlib_images.library.database.sqlite import is_full

SCRATCH_IMAGE_BYTES = 1 << 20


def problems_of(settings: Settings) -> list[str]:
    """A line for each thing that keeps this library from being served as it is configured."""
    logs.configure_for_commands()
    served = _is_served(settings)
    return [
        *_directories(settings),
        *_images(settings),
        *_shared_images(settings),
        *_certificate(settings),
        *([] if served else [*_ports(settings), *_control_socket(settings)]),  # they are the daemon's, in use
        *_built(settings),
    ]


def _is_served(settings: Settings) -> bool:
    try:
        LibraryLock(settings.library.state / "lock", create=False).release()
    except OperatorError as error:
        return error.failure is Failure.IN_USE
    except OSError:  # no library yet, or one that _directories() says more about
        return False
    return False


def _directories(settings: Settings) -> Iterator[str]:
    paths = settings.library
    for directory in dict.fromkeys((paths.state, paths.cartridges, paths.disks, paths.control_socket.parent)):
        present = _present(directory)
        if not present.is_dir():
            yield f"{directory}: {present} is not a directory"
        elif not os.access(present, os.R_OK | os.W_OK | os.X_OK):
            yield f"{directory}: {not_permitted(present)}"
    if is_full(_present(paths.state)):
        yield f"{paths.state}: no space is left on its file system; free some"


def _present(directory: Path) -> Path:
    """It, or what is there of the way to it: the first start makes the rest."""
    while not _exists(directory) and directory != directory.parent:
        directory = directory.parent
    return directory


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def _images(settings: Settings) -> Iterator[str]:
    for disk in settings.disks:
        path = settings.image_of(disk)
        try:
            refuse_own_file(settings, disk)
            with closing(DiskImage.open(path, read_only=True)) as image:
                if disk.size is not None and image.size_bytes > disk.size:
                    yield (
                        f"disk {disk.name}: {path} has {format_size(image.size_bytes)}, more than its size "
                        f"{format_size(disk.size)} says; correct size, or leave it out"
                    )
            if not disk.read_only and not os.access(path, os.W_OK):
                yield f"disk {disk.name}: {path} cannot be written by this process; set read_only, or change its owner"
        except OperatorError as error:
            yield str(error)
        except DiskInUse:
            continue  # by the daemon, or a program that serve names
        except FileNotFoundError:
            if disk.size is None:
                yield f"disk {disk.name}: there is no {path}; give its size, so that it can be made"
            else:
                yield from _unmakeable(disk.name, path, disk.size)
        except NotADisk as error:
            yield f"disk {disk.name}: {error}"
        except OSError as error:
            yield f"disk {disk.name}: {explained(error)}"


def _unmakeable(name: str, path: Path, size_bytes: int) -> Iterator[str]:
    """Whether the file system can have an image of that size: one without a name is made, and gone again."""
    try:
        with tempfile.TemporaryFile(dir=_present(path.parent)) as probe:
            probe.truncate(size_bytes)
    except OSError as error:
        error.filename = str(path)
        yield f"disk {name}: {explained(error)}"


def _shared_images(settings: Settings) -> Iterator[str]:
    disks: dict[Path, str] = {}
    for disk in settings.disks:
        path = settings.image_of(disk).resolve()
        other = disks.setdefault(path, disk.name)
        if other != disk.name:
            yield f"disk {disk.name}: {path} is the image of disk {other}; give each disk its own"


def _control_socket(settings: Settings) -> Iterator[str]:
    path = settings.library.control_socket
    with (
        tempfile.TemporaryDirectory(prefix="tapebay-check-") as scratch,
        closing(socket.socket(socket.AF_UNIX)) as probe,
    ):
        try:
            refuse_another_file(path)
            bind(probe, Path(scratch) / path.name)  # whose name may be too long for the kernel
        except OSError as error:
            error.filename = str(path)
            yield f"control_socket: {explained(error)}"


def _certificate(settings: Settings) -> Iterator[str]:
    api = settings.api
    if api is None or api.certificate is None or api.key is None:
        return
    try:
        tls_context(api.certificate, api.key)
    except CertificateError as error:
        yield f"api: {error}"


def _ports(settings: Settings) -> Iterator[str]:
    held: list[socket.socket] = []  # until all are tried: two may want one port
    ours: dict[int, str] = {}
    try:
        named = [("portal", portal.listen) for portal in settings.portals]
        for name, address in [*named, *([("api", settings.api.listen)] if settings.api else [])]:
            try:
                held.append(_bound(address))
            except OSError as error:
                other = ours.get(address.port) if error.errno == errno.EADDRINUSE else None
                yield f"{name} {address}: {_clash(other) if other else _why_not(error)}"
            else:
                ours[address.port] = f"{name} {address}"
    finally:
        for one in held:
            one.close()


def _clash(other: str) -> str:
    return f"{other} of this file listens there already; leave one of them out, or choose another port"


def _bound(address: HostAndPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server(tuple(address), family=family, backlog=1)


def _why_not(error: OSError) -> str:
    words = {
        errno.EADDRINUSE: "another program listens there; stop it, or choose another port",
        errno.EADDRNOTAVAIL: "no network interface of this machine has that address",
        errno.EACCES: "ports below 1024 are root's; choose another, for example 3260",
    }
    return words.get(error.errno or 0, str(error.strerror))


def _built(settings: Settings) -> Iterator[str]:
    """What the devices, the targets and the server themselves refuse."""
    with tempfile.TemporaryDirectory(prefix="tapebay-check-") as scratch:
        library = settings.library.model_copy(
            update={name: Path(scratch) / name for name in ("state", "cartridges", "disks", "control_socket")}
        )
        elsewhere = settings.model_copy(update={"library": library})
        try:
            Library.build(LibraryFiles.create(elsewhere), _scratch_image(Path(scratch))).close()
        except (OperatorError, ValueError, KeyError) as error:
            yield str(error)


def _scratch_image(scratch: Path) -> Callable[[DiskSettings, Path], DiskImage]:
    return lambda disk, _path: DiskImage.create(scratch / disk.name, SCRATCH_IMAGE_BYTES)
