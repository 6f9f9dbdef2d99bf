"""Run a command, then write its peak resident memory in bytes as the last line of stderr.

A small process between: a child counts the memory of the process that it was forked from as its
own, and the caller of this one holds torch.
"""

from __future__ import annotations

import os
import subprocess
import sys

KIB = 1024  # the unit of ru_maxrss on Linux


def main() -> int:
    """The command's exit code."""
    process = subprocess.Popen(sys.argv[1:])
    _, status, usage = os.wait4(process.pid, 0)
    print(f"\n{usage.ru_maxrss * KIB}", file=sys.stderr)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
