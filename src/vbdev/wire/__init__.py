"""Codecs: a protocol's bytes to events, and answers to bytes.

What belongs here knows no socket, clock, thread, process or logger. A codec takes the bytes
that arrived, however they were cut, and gives events; it takes answers and gives bytes. It
holds a bounded amount of memory whatever the peer sends, and blames whoever was wrong.
"""
