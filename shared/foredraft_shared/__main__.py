"""``python -m foredraft_shared`` is ``foredraft``, for when the script is not on the path; and the script begins here."""

import sys


def main() -> int:
    """Run the command line and return the exit code, also of who is stopped before there is a command line."""
    try:
        from .command import main as command

        return command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
