"""Disks (SBC)."""
