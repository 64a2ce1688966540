import sys

from survfuse.cli import main

sys.exit(main())
