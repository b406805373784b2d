"""What a disk may hold: for each block the contents that a READ may bring.

One content as long as all is well. What failed or was aborted half-way may have happened or not:
then there are several, until a READ says which. I/Os that overlap are the caller's to keep apart.
"""

from __future__ import annotations

ANYTHING = None
"""In place of a block's contents: nothing is known of it."""


class Model:
    """Blocks, of zeroes at first. `forgets`: nothing is ever known."""

    def __init__(self, num_blocks, block_size, *, forgets=False):
        self.num_blocks, self.block_size, self.forgets = num_blocks, block_size, forgets
        self.zero = bytes(block_size)
        self.may_be = [ANYTHING if forgets else {self.zero}] * num_blocks

    def split(self, data):
        return [data[i : i + self.block_size] for i in range(0, len(data), self.block_size)]

    def load(self, content):
        """Take over what the disk holds, all of it."""
        self.may_be = [ANYTHING if self.forgets else {one} for one in self.split(bytes(content))]

    def write(self, first, data):
        """It has been written."""
        for block, one in enumerate(self.split(bytes(data)), first):
            self.may_be[block] = ANYTHING if self.forgets else {one}

    def may_have_written(self, first, data):
        """It has been written, or not, block by block."""
        for block, one in enumerate(self.split(bytes(data)), first):
            if self.may_be[block] is not ANYTHING:
                self.may_be[block] = self.may_be[block] | {one}

    def forget(self, first, count):
        """Anything may have happened to these blocks."""
        self.may_be[first : first + count] = [ANYTHING] * count

    def copy(self, source, first, count, *, done=True):
        """They have been copied; with `done` false: or not."""
        found = self.may_be[source : source + count]
        for block, contents in enumerate(found, first):
            if done or contents is ANYTHING:
                self.may_be[block] = contents
            elif self.may_be[block] is not ANYTHING:
                self.may_be[block] = self.may_be[block] | contents

    def allows(self, first, data):
        """Whether the blocks from `first` may hold this."""
        return all(
            self.may_be[block] is ANYTHING or one in self.may_be[block]
            for block, one in enumerate(self.split(bytes(data)), first)
        )

    def found(self, first, data, what):
        """They do: AssertionError where they can not. From now on they are known."""
        for block, one in enumerate(self.split(bytes(data)), first):
            contents = self.may_be[block]
            assert contents is ANYTHING or one in contents, (
                f"{what}: disk block {block} starts with {one[:8].hex()}, and may be"
                f" {sorted(c[:8].hex() for c in contents)}"
            )
            if not self.forgets:
                self.may_be[block] = {one}

    def must_be(self, first, data):
        """Whether the blocks from `first` hold this for certain."""
        return all(
            self.may_be[block] == {one} for block, one in enumerate(self.split(bytes(data)), first)
        )

    def guess(self, first, count):
        """Return something that the blocks may hold."""
        return b"".join(
            min(contents) if contents else self.zero
            for contents in self.may_be[first : first + count]
        )

    def may_be_zero(self, first, count):
        return self.allows(first, bytes(count * self.block_size))
