"""Media changers (SMC)."""
