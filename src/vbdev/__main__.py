"""`python -m vbdev` is the command line."""

import sys

from vbdev.cli import main

sys.exit(main())
