"""Write what is generated from the declarations of the RPC methods (`make generated`).

python tests/generated/write.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import client_methods
import rpc_page
from declared import ROOT


def texts():
    """Return {file: what it has to be}."""
    client = ROOT / "src" / "vbdev" / "client" / "generated"
    return {
        client / "methods.py": client_methods.render(is_async=False),
        client / "async_methods.py": client_methods.render(is_async=True),
        ROOT / "docs" / "rpc.md": rpc_page.render(),
    }


if __name__ == "__main__":
    for file, text in texts().items():
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)
            print(f"written: {file.relative_to(ROOT)}")
