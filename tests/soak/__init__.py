"""A soak: a daemon under all that clients do to it at once, and one honest client that is timed.

`make soak`, or `PYTHONPATH=tests python -m soak --seconds 60`. The figure is the worst latency of
the honest client. It runs on the wall clock, against a real daemon; what is to be found again from
a seed is for `tests/simulation`.
"""
