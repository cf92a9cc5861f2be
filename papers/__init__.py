"""One folder per paper; none imports another."""

import sys

if sys.argv[:1] == ["-m"]:  # python -m papers.…: a command, whose imports take a while
    from common.errors import one_line_from_now_on

    one_line_from_now_on()
