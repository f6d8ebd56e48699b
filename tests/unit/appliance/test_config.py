"""tapebay.toml: what it may say, and how it says what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from appliance.settings import config_file
from appliance.settings.config_file import ConfigError
from appliance.settings.sections import SECRET_PLACES
from appliance.settings.settings import Settings
from appliance.settings.template import NewLibrary, render

IQN = "iqn.2026-11.io.tapebay:test"
MINIMAL = f'[[portals]]\nlisten = "127.0.0.1:0"\n[[targets]]\niqn = "{IQN}"\n'


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "tapebay.toml"
    path.write_text(text)
    return config_file.load(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert all(line.startswith(f"{tmp_path / 'tapebay.toml'}: ") for line in str(caught.value).splitlines())
    return caught.value.problems


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL + '[library]\nstate = "/elsewhere"\n[[disks]]\nname = "demo"\nsize = "1 MiB"\n')
    assert settings.library.cartridges == tmp_path / "cartridges"
    assert settings.library.state == Path("/elsewhere")
    assert settings.image_of(settings.disks[0]) == tmp_path / "disks" / "demo.img"
    assert settings.disks[0].size == 1 << 20


def test_one_target_holds_everything_in_order(tmp_path: Path) -> None:
    devices = "".join(f'[[drives]]\nname = "drive{n}"\n' for n in range(2))
    devices += '[[disks]]\nname = "a"\nsize = 512\n[[disks]]\nname = "b"\nsize = 512\nlun = 1\n'
    settings = load(tmp_path, MINIMAL + devices)
    assert settings.lun_map(settings.targets[0]) == {0: "changer", 1: "b", 2: "drive0", 3: "drive1", 4: "a"}


def test_a_target_may_name_its_luns(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL + 'luns = { 0 = "changer", 7 = "d" }\n[[drives]]\nname = "d"\n')
    assert settings.lun_map(settings.targets[0]) == {0: "changer", 7: "d"}


@pytest.mark.parametrize(("slots", "import_export"), [(20, 1000), (60_000, 2), (65_532, 0), (100, 65_400)])
def test_any_number_of_elements_that_smc_has(tmp_path: Path, slots: int, import_export: int) -> None:
    text = f'[changer]\nserial = "273001234_LLA"\nslots = {slots}\nimport_export = {import_export}\n'
    changer = load(tmp_path, MINIMAL + text + '[[drives]]\nname = "a"\n').changer
    assert (changer.slots, changer.import_export, changer.serial) == (slots, import_export, "273001234_LLA")


def test_every_error_is_reported_at_once(tmp_path: Path) -> None:
    text = """
        [library]
        nam = "x"
        [[portals]]
        listen = "0.0.0.0"
        [[targets]]
        iqn = "bad"
        [changer]
        slots = 0
        [[disks]]
        name = "demo"
        size = "256 MBs"
        [[drives]]
        serial = "small"
        [logging]
        level = "verbose"
        [elsewhere]
    """
    found = problems(tmp_path, text)
    expected = [
        "library.nam: there is no such setting; did you mean 'name'?",
        "portals[1].listen: '0.0.0.0' is not an address",
        "targets[1].iqn: 'bad' is not an iSCSI name",
        "changer.slots: must be at least 1, not 0",
        "drives[1].name: is missing",
        "drives[1].serial: 'small' is not a serial number",
        "disks[1].size: '256 MBs' is not a size",
        "logging.level: must be 'debug', 'info', 'warning' or 'error', not 'verbose'",
        "elsewhere: there is no such setting; known here: library, portals",
    ]
    assert len(found) == len(expected)
    for beginning in expected:
        assert any(line.startswith(beginning) for line in found), f"{beginning!r} not in {found}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[[drives]]\nname = 'x'\n[[drives]]\nname = 'x'\n", "device name 'x' is given 2 times"),
        (MINIMAL + "[[drives]]\nname = 'changer'\n", "device name 'changer' is given 2 times"),
        (MINIMAL + "luns = { 0 = 'nothing' }\n", "there is no device 'nothing'; the library has changer"),
        (MINIMAL + "luns = { 0 = 'changer', 1 = 'changer' }\n", "a device has two LUNs"),
        (MINIMAL + f'[[targets]]\niqn = "{IQN}"\n', f"target iqn '{IQN}' is given 2 times"),
        (MINIMAL + '[[disks]]\nname = "d"\nsize = 1000\n', "size 1000 is not a multiple of block_size 512"),
        (MINIMAL + '[[chap.accounts]]\nuser = "u"\nsecret = "x-secret"\n', "at least 12"),
        (MINIMAL + '[[chap.accounts]]\nuser = "u"\nsecret = "twelve chars"\nmutual_user = "t"\n', "needs both"),
        (
            MINIMAL
            + '[[chap.accounts]]\nuser="u"\nsecret="twelve chars"\nmutual_user="t"\nmutual_secret="twelve chars"\n',
            "must differ",
        ),
        (f'[[targets]]\niqn = "{IQN}"\n', "portals: is missing"),
        (MINIMAL + "[changer]\nslots = 65535\n", "a media changer has 65535 at most"),
        (MINIMAL + '[changer]\nserial = "_LIB01"\n', "'_LIB01' is not a library's serial number"),
        ("[[portals]\n", "not valid TOML"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, said: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert said in found[0]
    assert "x-secret" not in found[0]


WRONG_TYPES = """
    library = 3
    portals = "0.0.0.0:3260"
    [[targets]]
    iqn = 7
    initiators = "all"
    luns = { x = 3 }
    [changer]
    slots = "many"
    import_export = 1.5
    model = 1
    [[drives]]
    name = true
    compression = "on please"
    [[disks]]
    name = "d"
    image = 5
    size = [1]
    lun = 99999
    [limits]
    login_seconds = 0
    send_seconds = nan
    sessions = 99999999999999999999999999
    [[chap.accounts]]
    user = ""
    secret = 5
    [logging]
    format = 2024-01-01
"""


def test_what_is_wrong_is_said_in_our_own_words(tmp_path: Path) -> None:
    found = problems(tmp_path, WRONG_TYPES)
    assert len(found) > 15
    for line in found:
        assert not re.search(r"[Ii]nput should|pydantic|validation|valid (dict|list|string|integer)|datetime", line), (
            line
        )
        assert re.match(r"[a-z_.\[\]0-9]+: must ", line), line
    assert "chap.accounts[1].secret: must be text, in quotes, not this" in found


def test_a_lun_that_cannot_be_is_named_as_it_stands_in_the_file(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, MINIMAL + "luns = { 20000 = 'changer' }\n")
    assert problem == "targets[1].luns.20000: must be at most 16383, not '20000'"


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load(tmp_path, f"\ufeff{MINIMAL}").targets[0].iqn == IQN
    assert config_file.control_socket(tmp_path / "tapebay.toml") == tmp_path / "tapebay.sock"


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL + '[[chap.accounts]]\nuser = "u"\nsecret = "twelve chars"\n')
    assert "twelve chars" not in repr(settings)
    assert settings.chap.accounts[0].secret.get_secret_value() == "twelve chars"


def test_the_template_reads_back_as_planned(tmp_path: Path) -> None:
    plan = NewLibrary(
        name="lib1", portal="[::1]:3261", drives=3, slots=30, import_export=4, disks=[("demo", "256 MiB")]
    )
    settings = load(tmp_path, render(plan))
    assert settings.targets[0].iqn == "iqn.2026-11.io.tapebay:lib1"
    assert str(settings.portals[0].listen) == "[::1]:3261"
    assert settings.portals[0].advertise is None
    assert (settings.changer.slots, settings.changer.import_export) == (30, 4)
    assert settings.device_names() == ["changer", "drive0", "drive1", "drive2", "demo"]
    assert settings.disks[0].size == 256 << 20


def uncommented(text: str) -> str:
    """All of the template switched on: "# key = value", "# [section]", "# [[section]]" without their '# '."""
    return re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", text)


def test_the_template_names_every_setting_and_its_default(tmp_path: Path) -> None:
    text = render(NewLibrary(name="lib1", portal="127.0.0.1:0", disks=[("demo", "1 MiB")]))
    settings = load(tmp_path, uncommented(text))

    def compare(with_examples: BaseModel, examples: frozenset[str]) -> None:
        for name, field in type(with_examples).model_fields.items():
            if name.endswith(SECRET_PLACES):  # instead of the secret, so not beside it
                assert name in text
                continue
            assert name in with_examples.model_fields_set, f"the template does not show {name}"
            value: Any = getattr(with_examples, name)
            if isinstance(value, BaseModel):
                compare(value, examples)
            elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
                compare(value[0], examples)
            elif name not in examples and not field.is_required() and not isinstance(value, Path):
                assert value == field.get_default(), f"the template shows another default for {name}"

    given = {"name", "size", "model", "serial", "luns", "lun", "advertise", "mutual_user", "mutual_secret", "accounts"}
    given |= {
        "budget",
        "drives",
        "physical_block_size",
        "target",
        "user",
        "copy_rate",
        "erase_rate",
        "groups",
        "devices",
        "networks",
        "portal_groups",
        "secret",
    }
    compare(settings, frozenset(given))


def test_finding_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lib" / "tapebay.toml"
    path.parent.mkdir()
    path.write_text(MINIMAL)
    monkeypatch.delenv("TAPEBAY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="tapebay init"):
        config_file.find(None)
    assert config_file.find(path) == config_file.find(path.parent) == path
    monkeypatch.setenv("TAPEBAY_CONFIG", str(path))
    assert config_file.find(None) == path
    monkeypatch.delenv("TAPEBAY_CONFIG")
    monkeypatch.chdir(path.parent)
    assert config_file.find(None) == path
