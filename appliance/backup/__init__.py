"""Backup of disks to tape without a server: block lists, the archive on tape, its catalogue, and the job."""
