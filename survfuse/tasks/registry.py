"""The tasks that are built in."""

from collections.abc import Mapping

from survfuse.tasks import chimera3
from survfuse.tasks.task import Task

TASKS: Mapping[str, Task] = {task.name: task for task in (chimera3.TASK,)}
DEFAULT = chimera3.TASK  # what commands, jobs and bundles are of
