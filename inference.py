"""The container's entrypoint: one job from /input to /output."""

import atexit
import os
import sys

from survfuse.job import main

if __name__ == "__main__":
    code = main()
    # Nothing is left to do but what libraries asked to have done at the end, such as removing a temporary folder.
    # Taking torch apart module by module, and unmapping its libraries one by one, would take half a second more.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
