"""`tapebay copy`: an operator's copies, sent as EXTENDED COPY to this library's own copy managers."""
