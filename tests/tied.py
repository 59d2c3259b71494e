"""Run a command that the kernel kills when its parent ends: `python -I -S tests/tied.py COMMAND…`.

A test run that is stopped by SIGKILL, or whose terminal is closed, cannot stop the servers that it has started,
and each of these has a process group. PR_SET_PDEATHSIG survives execve, so the command itself needs no change.
Signal dispositions are set to their defaults too: a shell starts `make test &` with SIGINT ignored, and an ignored
signal is inherited.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call: there will be no signal
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    main()
