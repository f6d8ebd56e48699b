"""What an operator writes: tapebay.toml."""
