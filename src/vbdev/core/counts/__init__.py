"""What is counted for each I/O.

`histogram`  latencies, counted
`rates`      rate limits that all channels of a bdev share
"""
