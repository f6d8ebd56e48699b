"""Requests for drives and volumes, and the grants that come of them."""
