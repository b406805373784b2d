"""What the simulation has found. `kind` is one word, which shrinking keeps."""


class SimulationError(AssertionError):
    """An invariant that does not hold. `kind`: which; the text: who, what, how much."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind
