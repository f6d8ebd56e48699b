"""The list of files on its way from the agent: both directions, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from appliance.backup.listing import ListRefused, digest_of, from_line, to_line

DISK = 1 << 30

parts = st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"/", b"_").replace(b"\0", b"_"))
names = st.lists(parts.filter(lambda part: part not in (b".", b"..")), min_size=1, max_size=4).map(b"/".join)


@st.composite
def files(draw: st.DrawFn) -> Entry:
    extents, at = [], 0
    for gap, sectors, where in draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 999)), max_size=4)
    ):
        extents.append(FileExtent(at + gap * 512, where * 512, sectors * 512))
        at += (gap + sectors) * 512
    entry = Entry(draw(names), Kind.FILE, draw(st.integers(0, 0o7777)), draw(st.integers(0, 1 << 31)), 0,
                  draw(st.integers(-(1 << 40), 1 << 62)), at + draw(st.integers(0, 5)), extents or ())  # fmt: skip
    entry.attributes = draw(st.dictionaries(names, st.binary(max_size=30), max_size=3))
    return entry


others = st.one_of(
    st.builds(Entry, names, st.just(Kind.DIRECTORY)),
    st.builds(Entry, names, st.just(Kind.FIFO)),
    st.builds(Entry, names, st.just(Kind.SYMBOLIC_LINK), link=names),
    st.builds(Entry, names, st.just(Kind.HARD_LINK), link=names),
    st.builds(Entry, names, st.just(Kind.BLOCK_DEVICE), device=st.tuples(st.integers(0, 300), st.integers(0, 70000))),
    st.binary(max_size=99).map(lambda content: Entry(b"inline", Kind.FILE, size=len(content), content=content)),
    st.builds(Skipped, names, st.text(max_size=50)),
)


@given(st.one_of(files(), others))
def test_what_is_written_is_read_back(found: Entry | Skipped) -> None:
    line = to_line(found)
    assert "\n" not in line
    assert from_line(line, DISK) == found


def line(**changes: object) -> str:
    row = {"name": "a", "kind": "file", "mode": 0o644, "user": 0, "group": 0, "modified_ns": 0, "size": 1024,
           "extents": [[0, 512, 1024]]}  # fmt: skip
    return json.dumps({name: value for name, value in (row | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no description"),
        ("[]", "no object"),
        ("{}", "no description"),
        ("[" * 100_000, "no description"),
        (line(name="../etc/passwd"), "not a plain path"),
        (line(name="/etc/passwd"), "not a plain path"),
        (line(name="a//b"), "not a plain path"),
        (line(name="a\0b"), "with a NUL"),
        (line(name=""), "with 0 bytes"),
        (line(name=7), "no text"),
        (line(name="x" * 5000), "5000 bytes"),
        (line(kind="door"), "is none of file"),
        (line(mode=-1), "mode is -1"),
        (line(mode=True), "mode is True"),
        (line(size=1 << 70), "size is"),
        (line(extents=[[0, DISK - 512, 1024]]), "ends at byte"),
        (line(extents=[[0, 100, 512]]), "does not begin at a sector"),
        (line(extents=[[512, 512, 512], [0, 0, 512]]), "not in order"),
        (line(extents=[[0, 0, 2048]]), "not within its size"),
        (line(extents=[[0, 0, 0]]), "not in order"),
        (line(extents=[[0, 0]]), "no description"),
        (line(extents=[[0, -512, 512]]), "extents is -512"),
        (line(content="AAAA"), "not what its size says"),
        (line(content="A?", extents=None), "no description"),
        (line(kind="directory"), "has no content"),
        (line(kind="symbolic_link", size=0, extents=None), "leads nowhere"),
        (line(kind="hard_link", size=0, extents=None, link="../x"), "not a plain path"),
        (line(attributes=[["user.x", "A" * (4 << 20)]]), "larger than 1 MiB"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ListRefused, match=why):
        from_line(text, DISK)


def test_the_digest_is_bound_to_snapshot_key_and_order() -> None:
    right = digest_of(["a", "b"], "set1", b"key")
    changed = [(["b", "a"], "set1", b"key"), (["a", "b"], "set2", b"key"), (["a", "b"], "set1", b"kez"),
               (["a"], "set1", b"key"), (["a\nb"], "set", b"key")]  # fmt: skip
    others = {digest_of(*given) for given in changed}
    assert right not in others and len(others) == 5
