"""The copy manager: EXTENDED COPY (SPC)."""
