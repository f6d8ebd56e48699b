"""RFC 7143: PDUs, text keys, negotiation, login, sessions and the server."""
