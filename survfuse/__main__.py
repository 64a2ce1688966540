import sys

from survfuse.cli.main import main

sys.exit(main())
