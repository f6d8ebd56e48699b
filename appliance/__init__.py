"""What an operator touches: configuration, daemon, command line."""
