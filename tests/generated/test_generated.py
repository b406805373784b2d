"""What is generated is what would be generated now."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from declared import ROOT
from write import texts

FILES = [str(file.relative_to(ROOT)) for file in texts()]


@pytest.mark.parametrize("name", FILES)
def test_it_is_up_to_date(name):
    stale = (ROOT / name).read_text() != texts()[ROOT / name]
    assert not stale, f"{name} is stale: run `make generated`, or python tests/generated/write.py"
