"""One cartridge on disk: its block log, its memory, its checks. FORMAT.md has the bytes."""
