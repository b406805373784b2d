"""A disk for nbdkit's Python plugin: memory, and a look at each request's offset."""

API_VERSION = 2

size = 0
hot_bytes = 0
hot = 0  # requests that began in the first quarter
disk = memoryview(b"")


def config(key, value):
    global size
    if key != "size":
        raise RuntimeError(f"unknown parameter {key}")
    size = int(value)


def get_ready():
    global disk, hot_bytes
    disk = memoryview(bytearray(size))
    hot_bytes = size // 4


def open(readonly):
    return 1


def get_size(handle):
    return size


def pread(handle, buf, offset, flags):
    global hot
    if offset < hot_bytes:
        hot += 1
    buf[:] = disk[offset : offset + len(buf)]


def pwrite(handle, buf, offset, flags):
    global hot
    if offset < hot_bytes:
        hot += 1
    disk[offset : offset + len(buf)] = buf


def flush(handle, flags):
    pass


def can_multi_conn(handle):
    return True
