"""Modules that take their I/Os one at a time, in coroutines: `runner`."""
