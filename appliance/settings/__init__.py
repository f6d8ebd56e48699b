"""What an operator writes: tapebay.toml."""

CONTROL_SOCKET = "tapebay.sock"  # in the directory of tapebay.toml, unless that says otherwise
