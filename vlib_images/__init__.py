"""What lies on disk: cartridges, disk images and the library inventory. FORMAT.md is the byte-level specification."""
