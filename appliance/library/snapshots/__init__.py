"""Snapshot sets that the library keeps: who holds them, until when, and what they may take."""
