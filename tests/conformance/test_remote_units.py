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
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10.sense import SenseCode
from tests.support import packages
from tests.support.waiting import eventually
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
    return lambda naa: CopyingUnit(session, 2).extended_copy(
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
    refused(libraries, Failure.USAGE, "is not a device name", name="An Array", **known)
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


def test_what_is_kept_of_one_cannot_be_read(libraries, secret):
    """It is asked again; meanwhile the others are there."""
    here = libraries["here"]
    given = {"address": address(libraries), "user": "mover", "secret_file": str(secret)}
    made = do(here, "remote.add", name="array", target=HERE, **given)
    again = do(here, "remote.add", name="again", target=OTHER, **given)
    here.files.store.put(NAMESPACE, "array", {"address": address(libraries)})
    remotes = Remotes(here.files.store, here.settings)
    assert [(remote.name, remote.kind) for remote in remotes] == [("again", "disk"), ("array", "")]
    here.remotes.show(here.settings)
    assert do(here, "remote.reach", name="array") == made
    assert do(here, "remote.list") == [again, made]


def test_zones_say_whose_copies_reach_it(libraries, secret):
    """As any device: who is in a zone that names it, and nobody else."""
    here, there = libraries["here"], libraries["there"]
    given = {"address": address(libraries), "target": HERE, "user": "mover", "secret_file": str(secret)}
    made = do(here, "remote.add", name="array", **given)
    mine, other = "iqn.2026-11.test:mine", "iqn.2026-11.test:other"
    do(here, "zone.create", name="with", initiators=mine, devices="changer,disk", remotes="array")
    do(here, "zone.create", name="without", initiators=other, devices="changer,disk")
    there.units["disk"].medium.write(content(1 << 20, seed=5), 0)
    with InitiatorSession(here.portal, HERE, initiator_name=other) as session, pytest.raises(CommandFailed) as failed:
        fetch(session)(made["naa"])
    assert failed.value.sense.code == NOT_REACHABLE
    with InitiatorSession(here.portal, HERE, initiator_name=mine) as session:
        fetch(session)(made["naa"])
        do(here, "zone.change", name="with", remotes="")
        with pytest.raises(CommandFailed) as failed:
            fetch(session)(made["naa"])
    assert failed.value.sense.code == NOT_REACHABLE


# ---- in tapebay.toml -------------------------------------------------------------------------------------------------


def declare(here, text):
    """Writes sections to the end of its tapebay.toml."""
    config = here.settings.directory / "tapebay.toml"
    config.write_text(config.read_text() + text)


def section(name, where, more=""):
    return f'[[remotes]]\nname = "{name}"\naddress = "{where}"\ntarget = "{HERE}"\n{more}\n'


def test_declared_ones_are_planned_applied_reached_and_pruned(libraries, secret, tmp_path):
    here, there = libraries["here"], libraries["there"]
    secret.chmod(0o600)
    there.units["disk"].medium.write(content(1 << 20, seed=5), 0)
    before = (tmp_path / "here" / "tapebay.toml").read_text()
    declare(here, section("array", address(libraries), f'user = "mover"\nsecret_file = "{secret}"'))
    declare(here, section("gone", "iscsi://127.0.0.1:1/iqn.2026-11.test:x/0"))
    (planned,) = [line for line in do(here, "configuration.plan")["changes"] if "array" in line]
    assert planned.startswith("+ remote array: address iscsi://")
    assert "secret-of-mover" not in planned
    with InitiatorSession(here.portal, HERE) as session:
        do(here, "configuration.apply")
        eventually(lambda: [unit["kind"] for unit in do(here, "remote.list")] == ["disk", ""])
        eventually(lambda: session.ping() or Disk(session, 2).take_unit_attentions() is None)
        fetch(session)(there.units["disk"].identity.naa.hex())
    image = bytearray(1 << 20)
    here.units["disk"].medium.read_into(image, 0)
    assert image == content(1 << 20, seed=5)
    with pytest.raises(OperatorError, match="cannot be added"):
        do(here, "remote.reach", name="gone")
    with pytest.raises(OperatorError, match="was not reached yet; see why: tapebay remote reach gone"):
        do(here, "copy", source="remote:gone", destination="disk:disk")
    shown = do(here, "configuration.show")["toml"]
    assert "[[remotes]]" in shown
    assert "secret-of-mover" not in shown
    (tmp_path / "here" / "tapebay.toml").write_text(before)
    assert do(here, "configuration.plan")["removals"] == ["- remote array", "- remote gone"]
    do(here, "configuration.apply", prune=True)
    assert do(here, "remote.list") == []


def test_a_declared_one_is_reached_by_the_next_start(libraries, secret, tmp_path):
    here = libraries["here"]
    secret.chmod(0o600)
    declare(here, section("array", address(libraries), f'user = "mover"\nsecret_file = "{secret}"'))
    here.stop()
    here.close()
    config = config_file.load(tmp_path / "here" / "tapebay.toml")
    libraries["here"] = here = Library.open(config, apply=True)
    here.portal = here.start()[0]
    eventually(lambda: [unit["kind"] for unit in do(here, "remote.list")] == ["disk"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('user = "mover"', "give both user and one of secret"),
        ('secret = "secret-of-mover"', "give both user and one of secret"),
        ('address = "there/x/1"', "cannot be parsed|Cannot overwrite"),
    ],
)
def test_what_a_section_may_not_say(libraries, more, words):
    declare(libraries["here"], section("array", address(libraries), more))
    with pytest.raises(OperatorError, match=words) as caught:
        do(libraries["here"], "configuration.plan")
    assert caught.value.failure is Failure.CONFIGURATION


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
