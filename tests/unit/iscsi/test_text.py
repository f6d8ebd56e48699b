"""Text keys on the wire: whole, byte by byte, damaged, too long."""

import pytest

from scsi_targets.iscsi.text import TextAssembler, TextError, TextSender, encode, parse

PAIRS = [("HeaderDigest", "CRC32C,None"), ("X-com.example.a@b_c", ""), ("TargetAlias", "Bänder=1")]


def test_pairs_survive() -> None:
    assert parse(encode(PAIRS)) == PAIRS
    assert parse(b"") == []


def test_empty_pairs_between_nuls_are_nothing() -> None:
    assert parse(b"\0\0A=1\0\0") == [("A", "1")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"A=1", "no NUL"),
        (b"A=1\0B=2", "no NUL"),
        (b"novalue\0", "no '='"),
        (b"=value\0", "no key name"),
        (b"1A=value\0", "no key name"),
        (b"A B=value\0", "no key name"),
        (b"A" * 64 + b"=value\0", "no key name"),
        ("Ä=value\0".encode(), "no key name"),
        (b"A=\xff\xfe\0", "not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(TextError, match=reason):
        parse(text)


def test_a_key_name_of_63_characters_is_allowed() -> None:
    assert parse(b"A" * 63 + b"=1\0") == [("A" * 63, "1")]


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_continuations_join(step: int) -> None:
    text = encode(PAIRS)
    assembler = TextAssembler(1000)
    parts = [text[i : i + step] for i in range(0, len(text), step)]
    for part in parts[:-1]:
        assert assembler.add(part, more=True) is None
    assert assembler.add(parts[-1], more=False) == PAIRS
    assert assembler.add(b"B=2\0", more=False) == [("B", "2")]


def test_the_limit_holds_over_continuations() -> None:
    assembler = TextAssembler(10)
    assert assembler.add(b"12345678", more=True) is None
    assert assembler.add(b"90", more=True) is None
    with pytest.raises(TextError, match="more than 10 bytes"):
        assembler.add(b"1", more=True)


def test_a_long_text_is_sent_in_segments() -> None:
    sender = TextSender()
    assert sender.take(4) == (b"", False)
    sender.start(b"0123456789")
    assert sender.take(4) == (b"0123", True)
    assert sender.pending
    assert sender.take(4) == (b"4567", True)
    assert sender.take(4) == (b"89", False)
    assert not sender.pending
    sender.start(b"0123")
    assert sender.take(4) == (b"0123", False)
