"""Run a program until standard input ends: `python -I -S tether.py PROGRAM ARGUMENT…`.

The end of the server, by SIGKILL too, closes its end of the pipe; so the program never outlives the server.
"""

import os
import subprocess
import sys
import threading


def main() -> int:
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        program.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = program.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
