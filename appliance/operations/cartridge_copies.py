"""Cartridges as a whole: checking, saving, importing and exporting them. It takes long and needs no device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, Strict

from appliance.operations import cartridge
from appliance.operations.verb import (
    OPTIONAL_SIZE,
    Barcode,
    Flag,
    OnFiles,
    OnSettings,
    Parameters,
    Positional,
    Result,
    Scope,
    verb,
)

MediumModel = Annotated[str | None, Field(description="LTO-5 to LTO-9; by default what the barcode's end says.")]
ForeignFormat = Annotated[
    str, Flag("--format"), Field(description="simh, e11, awstape, directory; import also mhvtl, tgt.")
]


class DamageReport(Result):
    """Adjoining blocks that are damaged for one reason."""

    partition: int
    first_block: int
    count: int
    reason: str


class CartridgeVerification(Result):
    """What was checked and what is damaged. text: the same for people."""

    barcode: str
    objects: int
    bytes_checked: int
    damages: list[DamageReport]
    text: list[str]


class Recovered(Result):
    """What was saved, what was lost, what else was found. text: the same for people."""

    barcode: str
    blocks: int
    filemarks: int
    bytes_copied: int
    lost: list[DamageReport]
    notes: list[str]
    text: list[str]


class Interchanged(Result):
    """What was copied, how many blocks were left out, and how many of them need a key."""

    blocks: int
    filemarks: int
    bytes_copied: int
    left_out: int
    undecrypted: int
    incomplete: bool = Field(False, description="Not all of a salvaged source could be read.")
    notes: list[str]


class VerifyCartridge(Parameters):
    barcode: Barcode


class RecoverCartridge(Parameters):
    barcode: Barcode
    new_barcode: Annotated[str, Positional("NEW"), Field(description="The new cartridge's barcode.")]
    medium: MediumModel = None


class ImportCartridge(Parameters):
    barcode: Barcode
    file: Annotated[
        Path, Strict(False), Positional("FILE"), Field(description="The other program's tape: a file, or a directory.")
    ]
    format: ForeignFormat
    medium: MediumModel = None
    capacity: Annotated[
        str | None, OPTIONAL_SIZE, Field(description='"100 GiB"; by default what such a medium holds.')
    ] = None
    salvage: Annotated[
        bool, Field(description="Keep what reads of a truncated or damaged source. Status 1: not all did.")
    ] = False


class ExportCartridge(Parameters):
    barcode: Barcode
    file: Annotated[Path, Strict(False), Positional("FILE"), Field(description="What to make; it must not exist.")]
    format: ForeignFormat
    partition: Annotated[int, Field(ge=0, le=3, description="Which partition of the cartridge.")] = 0
    key_file: Annotated[
        Path | None,
        Strict(False),
        Field(description="Decrypts with this key: 64 hexadecimal digits, as of `stenc -g`."),
    ] = None


@verb("cartridge.verify", Scope.READ, reports_progress=True)
def verify(context: OnSettings, parameters: VerifyCartridge) -> CartridgeVerification:
    """Read and check every block of a cartridge. It may be in a drive, and in use."""
    from appliance.operations import cartridge_work

    report = cartridge_work.verify_cartridge(context.settings, parameters.barcode, context.progress)
    text = [str(report), *(f"damaged: {damage}" for damage in report.damages)]
    return CartridgeVerification(
        barcode=report.barcode,
        objects=report.objects,
        bytes_checked=report.bytes_checked,
        damages=[DamageReport.model_validate(damage) for damage in report.damages],
        text=text,
    )


@verb("cartridge.recover", Scope.ADMINISTER, reports_progress=True, makes="new_barcode")
def recover(context: OnSettings, parameters: RecoverCartridge) -> Recovered:
    """Copy what reads of a damaged cartridge to a new one, on the shelf, and say what was lost."""
    from appliance.operations import cartridge_work

    report = cartridge_work.recover_cartridge(
        context.settings, parameters.barcode, parameters.new_barcode, parameters.medium, context.progress
    )
    _adopt(context, parameters.new_barcode)
    return Recovered(
        barcode=report.barcode,
        blocks=report.blocks,
        filemarks=report.filemarks,
        bytes_copied=report.bytes_copied,
        lost=[DamageReport.model_validate(damage) for damage in report.lost],
        notes=report.notes,
        text=[str(report), *(f"lost: {damage}" for damage in report.lost), *(f"note: {n}" for n in report.notes)],
    )


@verb("cartridge.import", Scope.ADMINISTER, reports_progress=True, makes="barcode")
def import_(context: OnSettings, parameters: ImportCartridge) -> Interchanged:
    """Make a new cartridge, on the shelf, of another program's tape."""
    from appliance.operations import cartridge_work

    report = cartridge_work.import_cartridge(
        context.settings,
        parameters.barcode,
        parameters.file,
        parameters.format,
        parameters.medium,
        parameters.capacity,
        context.progress,
        salvage=parameters.salvage,
    )
    _adopt(context, parameters.barcode)
    return Interchanged.model_validate(report)


@verb("cartridge.export", Scope.ADMINISTER, reports_progress=True)
def export(context: OnSettings, parameters: ExportCartridge) -> Interchanged:
    """Write a cartridge, which must not be in a drive, in another program's format. Status 1: blocks were left out."""
    from appliance.operations import cartridge_work

    report = cartridge_work.export_cartridge(
        context.settings,
        parameters.barcode,
        parameters.file,
        parameters.format,
        parameters.partition,
        parameters.key_file,
        context.progress,
    )
    return Interchanged.model_validate(report)


def _adopt(context: OnSettings, barcode: str) -> None:
    """Where the library's files are not open here, whoever opens them next finds the cartridge."""
    if isinstance(context, OnFiles):
        cartridge.adopt(context, cartridge.OneCartridge(barcode=barcode))
