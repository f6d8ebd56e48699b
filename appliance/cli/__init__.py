"""The command line: `tapebay`. Commands are declared here; what they need is imported when they run, so that help and
completion answer at once."""
