"""What the bdevs on files (`uring`, `aio`) have in common.

service: a reactor's ring and its workers, shared by all files. disk: the bdev itself. How files
are opened is told in `vbdev.files`.
"""
