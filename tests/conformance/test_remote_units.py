"""Remote units as an operator has them: added to a library, copied by its initiators, forgotten again."""

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.library.remotes import NAMESPACE, Remotes
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from datamover.initiator import InitiatorSession
from scsi_targets.client.copy_manager import CopyManager
from scsi_targets.client.disk import Disk
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10.sense import SenseCode
from tests.support import packages
from tests.unit.devices.copying.support import content

HERE, OTHER, THERE = (f"iqn.2026-11.test:{name}" for name in ("here", "other", "there"))
NOT_REACHABLE = SenseCode(0xA, 0x0D, 0x02)
NAMES = {
    "here": f'[[targets]]\niqn = "{HERE}"\n[[targets]]\niqn = "{OTHER}"\n[[drives]]\nname = "drive0"\n',
    "there": f'[[targets]]\niqn = "{THERE}"\n[[chap.accounts]]\nuser = "mover"\nsecret = "secret-of-mover"\n',
}


def opened(folder, name):
    folder.mkdir(exist_ok=True)
    config = folder / "tapebay.toml"
    if not config.exists():
        config.write_text(
            f'[library]\nname = "{name}"\n[changer]\nslots = 4\n[[portals]]\nlisten = "127.0.0.1:0"\n{NAMES[name]}'
            '[[disks]]\nname = "disk"\nsize = "1 MiB"\n'
        )
        LibraryFiles.create(config_file.load(config)).close()
    library = Library.open(config_file.load(config))
    library.portal = library.start()[0]
    return library


@pytest.fixture
def libraries(tmp_path):
    packages.require("libiscsi7")
    made = {}
    for name in NAMES:
        made[name] = opened(tmp_path / name, name)
    yield made
    for library in made.values():
        library.stop()
        library.close()


def do(library, verb, **given):
    context = OnLibrary(library.settings, library.settings.directory / "tapebay.toml", library.files, library)
    return perform(VERBS[verb], context, parameters_of(VERBS[verb], given, verb))


def address(libraries, lun=1):
    return f"iscsi://{libraries['there'].portal}/{THERE}/{lun}"


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_text("secret-of-mover\nmore\n")
    return tmp_path / "secret"


def fetch(session):
    """Their disk to ours: CSCD descriptor 0 is found by its name, whatever the session sees."""
    ours = Disk(session, 2)
    return lambda naa: CopyManager(session, 2).extended_copy(
        [copy.identification_descriptor(bytes.fromhex(naa), device_type=0), ours.cscd()],
        [copy.BlockToBlock.encode(source=0, destination=1, number_of_blocks=2048)],
    )


def test_a_unit_is_added_copied_kept_and_removed(libraries, secret, tmp_path):
    there, here = libraries["there"], libraries["here"]
    there.units["disk"].medium.write(content(1 << 20, seed=5), 0)
    with InitiatorSession(here.portal, HERE) as session, InitiatorSession(here.portal, OTHER) as other:
        made = do(here, "remote.add", name="array", address=address(libraries), target=HERE, user="mover",
                  secret_file=str(secret))  # fmt: skip
        assert (made["kind"], made["naa"], made["user"]) == ("disk", there.units["disk"].identity.naa.hex(), "mover")
        assert do(here, "remote.list") == [made]
        fetch(session)(made["naa"])
        image = bytearray(1 << 20)
        here.units["disk"].medium.read_into(image, 0)
        assert image == content(1 << 20, seed=5)
        with pytest.raises(CommandFailed) as failed:
            fetch(other)(made["naa"])  # another target's session has no part in it
        assert failed.value.sense.code == NOT_REACHABLE
    here.stop()
    here.close()
    libraries["here"] = here = opened(tmp_path / "here", "here")
    assert do(here, "remote.list") == [made]
    with InitiatorSession(here.portal, HERE) as session:
        fetch(session)(made["naa"])
        do(here, "remote.remove", name="array")
        assert do(here, "remote.list") == []
        with pytest.raises(CommandFailed) as failed:
            fetch(session)(made["naa"])
        assert failed.value.sense.code == NOT_REACHABLE


def refused(libraries, failure, words, **given):
    given = {"name": "array", "address": address(libraries), "target": HERE} | given
    with pytest.raises(OperatorError, match=words) as caught:
        do(libraries["here"], "remote.add", **given)
    assert caught.value.failure is failure
    assert len(do(libraries["here"], "remote.list")) == 0


def test_what_cannot_be_added_is_said_and_nothing_is_kept(libraries, secret, tmp_path):
    known = {"user": "mover", "secret_file": str(secret)}
    refused(libraries, Failure.USAGE, "write iscsi://HOST", address="there:3260/x/1", **known)
    refused(libraries, Failure.USAGE, "say whose sessions", target=None, **known)
    refused(libraries, Failure.USAGE, "no device name", name="An Array", **known)
    refused(libraries, Failure.USAGE, "both --user and --secret-file", user="mover")
    refused(libraries, Failure.NOT_FOUND, "no target", target=THERE, **known)
    refused(libraries, Failure.REFUSED, "a device disk already", name="disk", **known)
    refused(libraries, Failure.REFUSED, "cannot be read", user="mover", secret_file=str(tmp_path / "none"))
    refused(libraries, Failure.REFUSED, "cannot be added", address="iscsi://127.0.0.1:1/iqn.2026-11.test:x/0")
    refused(libraries, Failure.REFUSED, "cannot be added")  # without the account
    refused(libraries, Failure.REFUSED, "neither a disk nor a tape drive", address=address(libraries, lun=0), **known)
    with pytest.raises(OperatorError, match="no remote unit") as caught:
        do(libraries["here"], "remote.remove", name="array")
    assert caught.value.failure is Failure.NOT_FOUND


def test_the_same_unit_is_not_added_twice(libraries, secret):
    given = {"address": address(libraries), "target": HERE, "user": "mover", "secret_file": str(secret)}
    do(libraries["here"], "remote.add", name="array", **given)
    with pytest.raises(OperatorError, match="which was added already"):
        do(libraries["here"], "remote.add", name="again", **given)
    do(libraries["here"], "remote.add", name="again", **given | {"target": OTHER})


def test_one_that_cannot_be_read_leaves_the_others(libraries, secret):
    given = {"address": address(libraries), "user": "mover", "secret_file": str(secret)}
    do(libraries["here"], "remote.add", name="array", target=HERE, **given)
    store = libraries["here"].files.store
    store.put(NAMESPACE, "broken", {"portal": 7})
    assert [remote.name for remote in Remotes(store)] == ["array"]


def test_an_operator_copies_to_and_from_what_was_added(libraries, secret, tmp_path):
    here, there = libraries["here"], libraries["there"]
    there.units["disk"].medium.write(content(1 << 20, seed=6), 0)
    with pytest.raises(OperatorError, match="was not added; first: tapebay remote add NAME iscsi://"):
        do(here, "copy", source=address(libraries, 2), destination="disk:disk")
    do(here, "remote.add", name="array", address=address(libraries), target=HERE, user="mover", secret_file=secret)
    do(here, "copy", source="remote:array@8+100", destination="disk:disk")
    do(here, "copy", source=address(libraries), destination=str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == content(1 << 20, seed=6)
    found = bytearray(100 * 512)
    here.units["disk"].medium.read_into(found, 0)
    assert found == content(1 << 20, seed=6)[8 * 512 : 108 * 512]
    (tmp_path / "file").write_bytes(b"to their disk".ljust(700))
    do(here, "copy", source=str(tmp_path / "file"), destination="remote:array@1+2")
    found = bytearray(1024)
    there.units["disk"].medium.read_into(found, 512)
    assert found == b"to their disk".ljust(700) + content(1 << 20, seed=6)[512 + 700 : 512 + 1024]
