"""``python -m survfuse``: the same as the command ``survfuse``."""

from survfuse.cli.main import run

run()
