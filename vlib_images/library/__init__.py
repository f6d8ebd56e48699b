"""What a library remembers: where cartridges are, state, identity."""
