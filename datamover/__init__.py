"""Moves bytes: the C engine, copy jobs and their endpoints, the initiator."""
