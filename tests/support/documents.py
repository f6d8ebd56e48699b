"""The documents of a cartridge in a directory, by path."""

from pathlib import Path

from vlib_images.cartridge import files
from vlib_images.cartridge.files import DirectoryFiles
from vlib_images.documents import Document


def write_document(path: Path, content: Document) -> None:
    files.write_document(DirectoryFiles(path.parent), path.name, content)


def read_document(path: Path) -> Document:
    return files.read_document(DirectoryFiles(path.parent), path.name)
