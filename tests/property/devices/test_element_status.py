"""READ ELEMENT STATUS counts what it does not look at: byte for byte what a plain walk over all elements gives."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from scsi_targets.devices.changer.models import MODELS
from scsi_targets.devices.changer.status import ElementStatus, Page, element_status, pick, select
from scsi_targets.t10 import smc
from vlib_images.library.elements import ElementType, Layout

layouts = st.builds(
    lambda model, slots, exits, drives: model.layout(slots=slots, import_export=exits, drives=drives),
    st.sampled_from(list(MODELS.values())),
    st.integers(1, 12),
    st.integers(0, 5),
    st.integers(0, 5),
)
requests = st.fixed_dictionaries(
    {
        "type_code": st.integers(0, 4),
        "starting_address": st.one_of(st.integers(0, 1030), st.integers(4090, 4110), st.just(0xFFFF)),
        "number": st.one_of(st.integers(0, 25), st.just(0xFFFF)),
    }
)


def shown(address: int) -> ElementStatus:
    """Some are empty, some full, some came from elsewhere."""
    return ElementStatus(
        address, f"A{address:05}L6" if address % 3 else None, address + 1 if address % 5 == 1 else None
    )


def describe(page: Page) -> list[ElementStatus]:
    return [shown(address) for address in page.addresses]


def plainly(layout: Layout, type_code: int, starting_address: int, number: int) -> list[tuple[ElementType, int]]:
    everything = sorted((address, kind) for kind, run in layout.ranges() for address in run)
    wanted = [(kind, a) for a, kind in everything if type_code in (0, kind) and a >= starting_address]
    return wanted[:number]


@given(layouts, requests, st.booleans())
def test_the_same_as_a_walk_over_all_elements(layout: Layout, request: dict[str, int], volume_tag: bool) -> None:
    chosen = plainly(layout, **request)
    pages = select(layout, **request)
    assert [(page.kind, address) for page in pages for address in page.addresses] == chosen
    assert pick(layout, [address for _, address in chosen], **request) == [
        Page(kind, [address for _, address in group]) for kind, group in groupby(chosen, key=lambda row: row[0])
    ]
    whole = element_status(pages, 1 << 20, describe, volume_tag=volume_tag)
    header = smc.ElementStatusHeader.decode(whole)
    assert (header.number_of_elements, header.byte_count) == (len(chosen), len(whole) - 8)
    assert header.first_element_address == (chosen[0][1] if chosen else 0)


@given(layouts, requests, st.booleans(), st.integers(0, 1200))
def test_a_cut_is_the_beginning_of_the_whole_up_to_a_descriptor(
    layout: Layout, request: dict[str, int], volume_tag: bool, allocation_length: int
) -> None:
    pages = select(layout, **request)
    whole = element_status(pages, 1 << 20, describe, volume_tag=volume_tag)
    looked_at: list[int] = []

    def counting(page: Page) -> list[ElementStatus]:
        looked_at.extend(page.addresses)
        return describe(page)

    cut = element_status(pages, allocation_length, counting, volume_tag=volume_tag)
    ends, at = [8], 8
    for page in pages:
        length = smc.ElementStatusPageHeader.decode(whole[at:]).element_descriptor_length
        ends += [at + 8 + length * count for count in range(len(page.addresses) + 1)]
        at = ends[-1]
    fits = max((end for end in ends if end <= allocation_length), default=allocation_length)
    assert cut == whole[: min(fits, len(whole))]
    assert len(looked_at) * (52 if volume_tag else 16) <= allocation_length
