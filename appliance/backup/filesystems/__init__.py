"""File systems of a disk that nobody has mounted, read from outside: which files there are, and where they lie."""
