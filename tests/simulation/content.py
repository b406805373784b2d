"""What each sector of a disk may hold, with any number of writers at once.

Each WRITE fills its sectors with a number of its own, so that what is read says whose it is. A
value is out of date once a change has been acknowledged that was asked for after the value's own
writer had its answer; until then any of those that were under way together may be there. So

- `floor` has, for each sector, when the latest change was asked for that has been acknowledged;
- a value may be read by whoever asks then, if its writer had its answer at or after that moment, or
  has none yet.

Times are counts of what happened, not a clock: of two events one is always first.
"""

from __future__ import annotations

import numpy as np

SECTOR = 512
WORDS = SECTOR // 8
PENDING = 1 << 62


class Content:
    """The sectors of one disk. `number` makes what is written there unlike another disk's."""

    def __init__(self, number, sectors, most):
        self.sectors = sectors  # to begin with; `most`: what it may grow to
        self.base = (number + 1) << 32
        self.floor = np.zeros(most, np.int64)
        self.zeroed = np.zeros(most, np.int64)
        self.clearing = {}
        self.events = 0
        self.used = 1
        self.first = np.zeros(1024, np.int64)
        self.end = np.zeros(1024, np.int64)
        self.asked = np.zeros(1024, np.int64)
        self.answered = np.zeros(1024, np.int64)
        self.ghosts = []

    def _now(self):
        self.events += 1
        return self.events

    # Writers

    def write(self, first, count):
        """Begin a WRITE; return its number, which is what it fills its sectors with."""
        if self.used == len(self.first):
            for name in ("first", "end", "asked", "answered"):
                setattr(self, name, np.concatenate([getattr(self, name)] * 2))
        at = self.used
        self.used += 1
        self.first[at], self.end[at] = first, first + count
        self.asked[at], self.answered[at] = self._now(), PENDING
        return self.base + at

    def payload(self, number, count):
        """Return what such a WRITE brings."""
        return np.full(count * WORDS, number, "<u8").tobytes()

    def written(self, number, *, done):
        """End a WRITE; one that was not `done` may have changed its sectors, or not."""
        at = number - self.base
        self.answered[at] = self._now()
        if done:
            span = slice(self.first[at], self.end[at])
            self.floor[span] = np.maximum(self.floor[span], self.asked[at])

    def asked_at(self, number):
        """Return when a WRITE was asked for."""
        return self.asked[number - self.base]

    def clear(self, first, count):
        """Begin what makes zeroes of its sectors; return a word for it."""
        asked = self._now()
        self.zeroed[first : first + count] = PENDING
        self.clearing[asked] = (first, first + count)
        return asked

    def cleared(self, asked, *, done):
        """End it. Not `done`: sectors may be zeroes, or what they were."""
        first, end = self.clearing.pop(asked)
        self.zeroed[first:end] = self._now()
        for other_first, other_end in self.clearing.values():
            self.zeroed[max(first, other_first) : min(end, other_end)] = PENDING
        if done:
            span = slice(first, end)
            self.floor[span] = np.maximum(self.floor[span], asked)

    # Readers

    def look(self, first, count):
        """Return what is needed to judge what a READ that is asked for now will bring."""
        self._now()
        return self.floor[first : first + count].copy()

    def judge(self, first, words, floor):
        """Return what is wrong with sectors that hold these numbers, or an empty string."""
        zero = words == 0
        sectors = np.arange(first, first + len(words))
        fine = zero & (self.zeroed[first : first + len(words)] >= floor)
        at = words.astype(np.int64) - self.base
        known = ~zero & (at > 0) & (at < self.used)
        ours, where = at[known], sectors[known]
        fine[known] = (
            (self.first[ours] <= where)
            & (where < self.end[ours])
            & (self.answered[ours] >= floor[known])
        )
        wrong = np.flatnonzero(~fine)
        if not len(wrong):
            return ""
        place = int(wrong[0])
        value = int(words[place])
        whose = "zeroes" if not value else f"write {value - self.base} of disk {self.base >> 32}"
        return (
            f"{len(wrong)} of {len(words)} sectors from {first} on; sector {first + place} holds"
            f" {whose}, and at {int(floor[place])} another was asked for, and acknowledged since"
        )

    def judge_data(self, first, data, floor):
        """The same of the bytes of whole sectors."""
        words = np.frombuffer(data, "<u8").reshape(-1, WORDS)
        torn = np.flatnonzero((words != words[:, :1]).any(axis=1))
        if len(torn):
            return f"sector {first + int(torn[0])} is of several writes"
        return self.judge(first, words[:, 0], floor)
