"""The task that is built in."""

from survfuse.tasks import chimera3

DEFAULT = chimera3.TASK  # what commands, jobs and bundles are of
WITH_VECTORS = DEFAULT.with_vectors()  # what a cohort that has slide-level vectors is of
