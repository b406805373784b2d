"""What the bdevs on files (`uring`, `aio`) have in common.

opening: a path becomes an open, locked file whose geometry is known. service: a reactor's ring
and its workers, shared by all files. disk: the bdev itself.
"""
