"""Run a program until standard input ends: `python -I -S tether.py PROGRAM ARGUMENT…`.

The end of the server, by SIGKILL too, closes its end of the pipe; so the program never outlives the server. On Linux
the kernel ends it with this process as well.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>."""


def end_with_parent() -> None:
    """Ask the kernel to end this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    before = end_with_parent if sys.platform == "linux" else None
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=before)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        program.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = program.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
