"""The control plane: SPDK-compatible JSON-RPC.

`serving` goes from a socket to the dispatcher, and knows no single method; `methods` has one room
for each subject, which registers what it has with the dispatcher; `describing` says what there is:
schema and help; `bdev_info` is what is told of a bdev. What is declared is in `vbdev.api`, the
other end in `vbdev.client`.
"""
