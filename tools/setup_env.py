"""Build ``.venv`` with what is asked for: ``python3 -m tools.setup_env [--paper SLUG] …``.

The Makefile starts it with whatever Python there is. This file therefore uses nothing that an old
one fails to parse, and the work is in :mod:`tools.environment`.
"""

import sys

OLDEST, NEWEST = (3, 11), (3, 12)


def unfit(version, platform="linux"):  # type: ignore[no-untyped-def]
    """What to say to a Python of this version on this platform, or None if it will do."""
    if platform.startswith("win"):
        return (
            "error: make does not work on Windows itself; use WSL (wsl --install), or conda with "
            "environment.yml"
        )
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    return (
        "error: Python %d.%d or %d.%d is needed (the pinned packages have wheels for no other), "
        "not %d.%d; name one with PYTHON=, as in: make PYTHON=python3.11 ..."
        % (OLDEST + NEWEST + tuple(version[:2]))
    )


if __name__ == "__main__":
    message = unfit(sys.version_info, sys.platform)
    if message:
        sys.stderr.write(message + "\n")
        sys.exit(2)
    from tools.environment import cli

    cli()
