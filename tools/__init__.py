"""What runs papers and shows results; knows a paper only through its files."""

import sys

# Before anything else is imported, in words that an old Python understands.
if sys.version_info < (3, 11):
    sys.stderr.write(
        "error: Python 3.11 or 3.12 is needed, not %d.%d; 'make' looks for one by itself, and "
        "PYTHON= names another\n" % tuple(sys.version_info[:2])
    )
    sys.exit(2)


def _one_line(kind, error, trace):  # type: ignore[no-untyped-def]
    """Ctrl-C while something is still being imported is no fault to be traced."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line
