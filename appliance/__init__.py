"""What an operator touches: configuration, daemon, command line."""

__version__ = "0.1.0"
