"""Result: what all answers are."""

from __future__ import annotations

import msgspec

__all__ = ["Result"]


class Result(msgspec.Struct, kw_only=True):
    """Base of what a method answers with. Each field has a docstring: unit, when it is absent."""
