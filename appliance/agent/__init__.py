"""What runs on the server that uses the library's drives: a client of the API and of the server's own initiator."""
