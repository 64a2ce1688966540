"""The container's entrypoint: one job from /input to /output."""

import os

from survfuse.container.supervisor import supervised
from survfuse.runtime.exits import import_failed
from survfuse.runtime.waiting import wait_asleep


def job() -> int:
    """Imported in the job's own process, so that the parent process stays small."""
    try:
        from survfuse.container.job import main
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        return import_failed(error)
    return main()


if __name__ == "__main__":
    wait_asleep()
    os._exit(supervised(job))
