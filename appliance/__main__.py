"""`python -m appliance` is `tapebay`."""

from appliance.cli import main

main()
