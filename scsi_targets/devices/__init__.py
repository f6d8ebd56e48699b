"""Behaviour of the logical units: disk, tape drive, media changer, copy manager."""
