"""The task that is built in."""

from survfuse.tasks import chimera3

DEFAULT = chimera3.TASK  # what commands, jobs and bundles are of
