"""``python -m qhybrid doctor``: what is installed here, what works, and what to install for the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the name of the program; the process's own by default

    Returns:
        the exit status
    """
    parser = argparse.ArgumentParser(prog="python -m qhybrid", description="qhybrid from the command line.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = "list versions, devices and what each can do, and what to install for the missing ones"
    after = "Exit status: 0, or 1 if a device that is installed cannot be made."
    commands.add_parser("doctor", help=about, description=about.capitalize() + ".", epilog=after)
    parser.parse_args(arguments)

    from qhybrid import doctor

    report = doctor.examine()
    print(report)
    return 1 if report.is_broken else 0


if __name__ == "__main__":
    sys.exit(main())
