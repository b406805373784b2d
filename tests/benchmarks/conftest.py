"""`bench` is no part of the package that is installed; it is imported from the tree."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
