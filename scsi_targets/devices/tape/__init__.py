"""Tape drives (SSC)."""
