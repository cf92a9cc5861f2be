"""One folder per paper; none imports another."""

import sys

if sys.argv[:1] == ["-m"]:  # python -m papers.…: a command, whose imports take a while
    from common.errors import interrupted_in_one_line

    interrupted_in_one_line()
