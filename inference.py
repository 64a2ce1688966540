"""The container's entrypoint: one job from /input to /output."""

import os
import sys

from survfuse.job import main

if __name__ == "__main__":
    code = main()
    # All files are closed and every line of the log is out. Taking torch apart module by module, and giving a gigabyte
    # of mapped libraries back one by one, would take as long as a good part of the job.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
