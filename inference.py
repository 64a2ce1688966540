"""The container's entrypoint: one job from /input to /output."""

import sys

from survfuse.job import main

if __name__ == "__main__":
    sys.exit(main())
