"""What tests of several kinds share: servers to talk to, a Linux guest to talk from, a wire to listen on."""
