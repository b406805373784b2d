"""What an I/O costs, in counts that do not wobble: measured, and held against a baseline.

`loads` are the workloads, `child` runs them in a process of its own, `tools` starts that process
under callgrind, under strace, and with a memcpy and a malloc that count; `figures` makes costs of
one I/O of what they counted, and `baseline` compares. docs/testing.md says how to use it.
"""
