"""The program: `tapebay`, and `python -m appliance`."""

import sys


def main() -> None:
    """The console script. Ctrl-C while its modules are still being read ends it as quietly as later."""
    try:
        from appliance.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells have it


if __name__ == "__main__":
    main()
