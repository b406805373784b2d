"""vbdev beside its peers: what is measured, against whom, and the report.

    python -m bench [--quick] [--rows 1,5,6b] [--report]

`rows/` has a file for each group of rows of the table; each row is a function that sets up what
it measures and yields works. `runner` runs their sides by turns, `figures` is what is kept of
that (build/bench.json), `report` and `chart` make docs/performance.md and docs/performance.svg of
it. `servers` starts what is measured, `clients` loads it. Nothing is built or installed: a peer
that is not there is reported as missing.
"""
