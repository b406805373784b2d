"""Bdevs as devices /dev/nbdN: nbd_start_disk, nbd_stop_disk, nbd_get_disks, and what ends one.

Method: an App in this process, and a stand-in for the kernel that gets the same ioctls and speaks
the same protocol. What is said to the real kernel is held against its header; its errors are real.
"""

import errno
import logging
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from support.local_app import LocalApp
from support.nbd_kernel import StandInKernel
from vbdev.api.methods import RpcError
from vbdev.bdev import BdevError
from vbdev.bdev.entry import entry_of
from vbdev.targets.nbd import kernel
from vbdev.targets.nbd import kernel_disks as disks
from vbdev.targets.nbd.kernel import KernelNbd, Setup
from vbdev.vocab import NbdError
from vbdev.wire.nbd import Command, CommandFlag, TransmissionFlag

WAIT_S = 20
NO_DEVICE = (-19, "No such device")
BUSY = (-16, "Device or resource busy")
INVALID = (-22, "Invalid argument")
TIMED_OUT = (-110, "Connection timed out")
UNDECODED = (-32603, "spdk_json_decode_object failed")
MALLOC_FLAGS = 0x01 | 0x04 | 0x08 | 0x20 | 0x40  # HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES


class Machine:
    """An App with a stand-in kernel; `call` and `fails` are RPC calls."""

    def __init__(self, app):
        self.app = app
        self.disks = app.app.kernel_disks
        self.kernel = self.disks.kernel = StandInKernel()
        self.detail = None

    def call(self, method, **params):
        return self.app.run(self.app.app.dispatcher.call(method, params or None))

    def begin(self, method, **params):
        """Begin a call; return a function that waits for its end and returns (code, message)."""
        ended = []

        def call():
            try:
                ended.append(self.call(method, **params))
            except RpcError as error:
                ended.append((error.code, error.message))

        thread = threading.Thread(target=call)
        thread.start()

        def wait():
            thread.join(WAIT_S)
            return ended[0]

        return wait

    def fails(self, method, **params):
        with pytest.raises(RpcError) as caught:
            self.call(method, **params)
        self.detail = str(caught.value.data)
        return caught.value.code, caught.value.message

    def malloc(self, name="Disk", **more):
        self.call(
            "bdev_malloc_create", **{"name": name, "num_blocks": 2048, "block_size": 512, **more}
        )

    def start(self, name="Disk"):
        """Attach to /dev/nbd0 and return that."""
        assert self.call("nbd_start_disk", bdev_name=name, nbd_device="/dev/nbd0") == "/dev/nbd0"
        return self.kernel[0]

    def wait_until_none(self):
        """Wait until no disk is left, and nothing of any."""
        self.app.wait_until(lambda: not self.disks.disks)
        for device in self.kernel.devices.values():
            device.wait_until_over()
        self.app.wait_idle()


@pytest.fixture(params=[1, 2])
def machine(tmp_path, request):
    app = LocalApp(tmp_path, num_reactors=request.param)
    app.start()
    made = Machine(app)
    yield made
    for device in made.kernel.devices.values():
        device.hang.clear()
    app.close()


# The whole path


def test_a_bdev_becomes_a_device_and_ceases_to_be_one(machine):
    machine.malloc()
    device = machine.start()
    assert (device.size, device.timeout_s, device.set_flags) == (1 << 20, 60, MALLOC_FLAGS)
    shown = [{"nbd_device": "/dev/nbd0", "bdev_name": "Disk"}]
    assert told(machine.call("nbd_get_disks")) == shown
    assert told(machine.call("nbd_get_disks", nbd_device="/dev/nbd0")) == shown
    assert {signal.SIGTERM, signal.SIGINT} <= device.signals_blocked
    device.write(4096, b"\5" * 8192)
    assert device.read(0, 16384) == bytes(4096) + b"\5" * 8192 + bytes(4096)
    device.write(512, b"\6" * 512, CommandFlag.FUA)
    device.flush()
    assert device.ask(Command.TRIM, 4096, 4096).error == 0
    assert device.ask(Command.WRITE_ZEROES, 8192, 4096, CommandFlag.NO_HOLE).error == 0
    assert device.read(0, 12288) == bytes(512) + b"\6" * 512 + bytes(11264)
    assert device.ask(Command.READ, 1 << 20, 512).error == NbdError.EINVAL
    holders = machine.call("vbdev_get_holders", name="Disk")
    assert "nbd disk /dev/nbd0" in str(told(holders))
    assert machine.call("nbd_stop_disk", nbd_device="/dev/nbd0") is True
    assert told(machine.call("nbd_get_disks")) == []
    assert device.opens == 0
    assert device.calls[0][0] == 0xAB00
    assert device.calls[1:] == [
        (0xAB01, 512),
        (0xAB07, 2048),
        (0xAB09, 60),
        (0xAB0A, MALLOC_FLAGS),
        (0xAB03, 0),
        (0xAB08, 0),
        (0xAB04, 0),
    ]
    assert machine.call("bdev_malloc_delete", name="Disk") is True


def told(answer):
    """Return an answer as JSON has it."""
    import msgspec

    return msgspec.to_builtins(answer)


def test_the_configuration_lists_it_as_spdk_does(machine):
    machine.malloc()
    machine.start()
    assert told(machine.call("framework_get_config", name="nbd"))[-1] == {
        "method": "nbd_start_disk",
        "params": {"nbd_device": "/dev/nbd0", "bdev_name": "Disk"},
    }


def test_many_requests_at_once_leave_the_disk_like_the_model(machine):
    machine.malloc(num_blocks=4096)
    device = machine.start()
    model = bytearray(2 << 20)
    wrong = []

    def work(part):
        chance = random.Random(part)
        low = part << 18
        for _ in range(200):
            at = low + 512 * chance.randrange(256)
            length = 512 * chance.randint(1, 256)
            if chance.random() < 0.5:
                data = chance.randbytes(length)
                device.write(at, data)
                model[at : at + length] = data
            elif device.read(at, length) != bytes(model[at : at + length]):
                wrong.append((at, length))

    threads = [threading.Thread(target=work, args=(part,)) for part in range(0, 8, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not wrong
    assert device.read(0, 2 << 20) == bytes(model)


def test_what_the_kernel_is_told_follows_from_the_bdev(machine, tmp_path):
    machine.malloc("Md", block_size=4096, num_blocks=100, md_size=8, md_interleave=True)
    assert machine.call("nbd_start_disk", bdev_name="Md") == "/dev/nbd0"
    assert (machine.kernel[0].block_size, machine.kernel[0].num_blocks) == (4096, 100)
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    machine.call("bdev_aio_create", name="Ro", filename=str(file), block_size=512, readonly=True)
    assert machine.call("nbd_start_disk", bdev_name="Ro") == "/dev/nbd1"
    assert machine.kernel[1].set_flags == TransmissionFlag.HAS_FLAGS | TransmissionFlag.READ_ONLY
    assert machine.kernel[1].ask(Command.WRITE, 0, 512, 0, bytes(512)).error == NbdError.EPERM


def test_a_partition_table_is_read_before_the_device_says_that_it_runs(machine):
    machine.malloc(num_blocks=4096)
    partition = {"num_blocks": 1024}
    machine.call("bdev_gpt_create", base_bdev="Disk", partitions=[partition])
    # Its partitions are bdevs, which have it claimed.
    taken = machine.fails("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    assert taken == (-1, "Operation not permitted")
    assert "gpt" in machine.detail
    assert machine.call("bdev_gpt_delete", base_bdev="Disk") is True
    machine.start().write(0, bytes(510) + b"\x55\xaa")  # its user writes one
    assert machine.call("nbd_stop_disk", nbd_device="/dev/nbd0") is True
    machine.kernel[0].scan = True
    assert machine.start().table[510:512] == b"\x55\xaa"


@pytest.mark.parametrize(("block_size", "sector"), [(1536, 512), (8192, 4096), (65536, 4096)])
def test_blocks_that_the_driver_can_not_have(machine, block_size, sector):
    """The device has smaller ones; what they leave of the bdev's is read and written with them."""
    machine.malloc(block_size=block_size, num_blocks=16)
    device = machine.start()
    assert (device.block_size, device.size) == (sector, 16 * block_size)
    device.write(sector, b"\7" * sector)
    assert device.read(0, 4 * sector) == bytes(sector) + b"\7" * sector + bytes(2 * sector)


# When it can be used


def test_it_has_its_size_and_partitions_when_the_answer_comes(machine):
    """A user who mounts right away finds what it was told of."""
    machine.malloc()
    entry = b"\0\0\2\0\x83\0\0\0\1\0\0\0\1\0\0\0"
    machine.start().write(0, bytes(446) + entry + bytes(48) + b"\x55\xaa")
    assert machine.call("nbd_stop_disk", nbd_device="/dev/nbd0") is True
    device = machine.start()
    assert device.size == 1 << 20
    assert device.partitions == [0x83]


def test_a_device_that_gets_no_size_is_answered_for_all_the_same(machine, monkeypatch, caplog):
    monkeypatch.setattr(disks, "RUNNING_WAIT_US", 50_000)
    machine.kernel[0].sizeless = True
    machine.malloc()
    machine.start()
    assert "does not say that it runs" in caplog.text
    assert machine.kernel[0].looks == 0


def test_an_open_that_hangs_holds_up_nobody(machine, monkeypatch, caplog):
    monkeypatch.setattr(disks, "LOOK_WAIT_US", 50_000)
    machine.kernel[0].slow_look.set()
    machine.malloc()
    device = machine.start()
    assert "takes long to be opened" in caplog.text
    device.write(0, b"\1" * 512)
    assert machine.call("nbd_stop_disk", nbd_device="/dev/nbd0") is True
    device.slow_look.clear()


def test_a_device_that_ends_while_it_is_opened(machine):
    machine.kernel[0].slow_look.set()
    machine.malloc()
    wait = machine.begin("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    machine.app.wait_until(lambda: machine.kernel[0].looks)
    assert machine.call("bdev_malloc_delete", name="Disk") is True
    assert wait()[0] == -5
    machine.kernel[0].slow_look.clear()
    machine.wait_until_none()


# Refusals


REFUSED = [
    ("nbd_start_disk", {}, UNDECODED, "bdev_name"),
    ("nbd_start_disk", {"bdev_name": "Disk", "nbd_device": 0}, UNDECODED, "nbd_device"),
    ("nbd_start_disk", {"bdev_name": "Disk", "device": "/dev/nbd0"}, UNDECODED, "device"),
    *(
        (
            "nbd_start_disk",
            {"bdev_name": "Disk", "nbd_device": wrong},
            (-19, f"illegal nbd device {wrong}"),
            "no nbd device",
        )
        for wrong in ("", "nbd1", "/dev/sda", "/dev/nbd", "/dev/nbd1p1", "/dev/nbd-1", "/dev/nbd01")
    ),
    (
        "nbd_start_disk",
        {"bdev_name": "Disk", "nbd_device": "/dev/nbd7"},
        (-2, "No such file or directory"),
        "modprobe nbd",
    ),
    ("nbd_start_disk", {"bdev_name": "Nobody", "nbd_device": "/dev/nbd1"}, NO_DEVICE, "Nobody"),
    ("nbd_start_disk", {"bdev_name": "Disk", "nbd_device": "/dev/nbd0"}, BUSY, "bdev Taken"),
    (
        "nbd_start_disk",
        {"bdev_name": "Below", "nbd_device": "/dev/nbd1"},
        (-1, "Operation not permitted"),
        "Top",
    ),
    ("nbd_stop_disk", {}, UNDECODED, "nbd_device"),
    ("nbd_stop_disk", {"nbd_device": "/dev/nbd1"}, NO_DEVICE, "/dev/nbd0"),
    ("nbd_stop_disk", {"nbd_device": ""}, NO_DEVICE, "/dev/nbd0"),
    ("nbd_get_disks", {"nbd_device": "/dev/nbd1"}, NO_DEVICE, "/dev/nbd0"),
    ("nbd_get_disks", {"nbd_device": 1}, UNDECODED, "nbd_device"),
    ("nbd_get_disks", {"device": 1}, UNDECODED, "device"),
]


def test_refusals(machine):
    machine.malloc("Taken")
    machine.start("Taken")
    machine.malloc()
    machine.malloc("Below")
    machine.call("bdev_passthru_create", name="Top", base_bdev_name="Below")
    for method, params, failure, detail in REFUSED:
        assert machine.fails(method, **params) == failure, (method, params)
        assert detail in machine.detail
    assert list(machine.disks.disks) == ["/dev/nbd0"]
    assert machine.kernel[1].opens == 0
    assert machine.kernel[1].socket is None
    assert machine.call("bdev_malloc_delete", name="Disk") is True


def test_the_first_free_device_is_taken(machine, monkeypatch):
    monkeypatch.setattr(disks, "BUSY_WAIT_S", 0.1)
    machine.kernel.devices.update(StandInKernel(4).devices)
    for name in "ABC":
        machine.malloc(name)
    machine.kernel.owners[0] = 4711
    machine.kernel[1].refuse[kernel.NBD_SET_SOCK] = errno.EBUSY
    assert machine.call("nbd_start_disk", bdev_name="A") == "/dev/nbd2"
    assert machine.call("nbd_start_disk", bdev_name="B") == "/dev/nbd3"
    assert machine.fails("nbd_start_disk", bdev_name="C") == (-19, "nbd device not found")
    assert "no device of 4 is free" in machine.detail
    busy = {"bdev_name": "C", "nbd_device": "/dev/nbd0"}
    assert machine.fails("nbd_start_disk", **busy) == BUSY
    assert "process 4711" in machine.detail
    # One that was somebody else's all the time is not cleared.
    assert {request for request, _ in machine.kernel[1].calls} == {kernel.NBD_SET_SOCK}
    assert machine.kernel[1].opens == 0


def test_a_device_that_is_about_to_be_free_is_waited_for(machine):
    machine.malloc()
    machine.kernel[0].refuse[kernel.NBD_SET_SOCK] = errno.EBUSY
    wait = machine.begin("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    time.sleep(0.1)
    assert machine.fails("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0") == BUSY
    machine.kernel[0].refuse.clear()
    assert wait() == "/dev/nbd0"


@pytest.mark.parametrize(
    ("request_name", "number"),
    [
        ("NBD_SET_SIZE_BLOCKS", errno.EINVAL),
        ("NBD_SET_TIMEOUT", errno.EPERM),
        ("NBD_SET_FLAGS", errno.EIO),
        ("NBD_DO_IT", errno.EINVAL),
        ("NBD_SET_SOCK", errno.EPERM),
    ],
)
def test_what_the_kernel_refuses_is_told_and_leaves_nothing(machine, request_name, number):
    machine.malloc()
    machine.kernel[0].refuse[getattr(kernel, request_name)] = number
    code, _ = machine.fails("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    assert code == -number
    assert request_name in machine.detail
    if number == errno.EPERM:
        assert "CAP_SYS_ADMIN" in machine.detail
    machine.wait_until_none()
    machine.kernel[0].refuse.clear()
    machine.start()


def test_a_device_of_which_nothing_can_be_found_out_is_given_back(machine, monkeypatch):
    owner = machine.kernel.owner

    def unreadable(number):
        if machine.disks.disks:
            raise BdevError(errno.EIO, "/sys/block/nbd0/pid: Input/output error")
        return owner(number)

    machine.malloc()
    with monkeypatch.context() as patched:
        patched.setattr(machine.kernel, "owner", unreadable)
        failed = machine.fails("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
        assert failed == (-errno.EIO, "Input/output error")
        assert machine.call("nbd_get_disks") == []
    machine.wait_until_none()
    machine.start()


def test_there_is_no_thread_for_it(machine, monkeypatch):
    machine.malloc()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "nbd0":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    started = machine.fails("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    assert started == (-11, "Resource temporarily unavailable")
    machine.wait_until_none()


def test_no_reactor_can_serve_it(machine, monkeypatch):
    machine.malloc()
    session = disks.Session

    class Refusing(session):
        def start(self, early):
            self._on_refusal()

    monkeypatch.setattr(disks, "Session", Refusing)
    failed = machine.fails("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    assert failed == (-5, "Input/output error")
    machine.wait_until_none()


# The end


def test_it_is_started_and_stopped_a_hundred_times(machine):
    machine.malloc()
    for _ in range(100):
        device = machine.start()
        device.write(0, bytes(512))
        assert machine.call("nbd_stop_disk", nbd_device="/dev/nbd0") is True
    machine.wait_until_none()


def test_two_who_stop_it_both_succeed(machine):
    machine.malloc()
    machine.start()
    waits = [machine.begin("nbd_stop_disk", nbd_device="/dev/nbd0") for _ in range(2)]
    answers = [wait() for wait in waits]
    assert True in answers
    assert set(answers) <= {True, NO_DEVICE}


def test_the_bdev_is_deleted_under_it(machine):
    machine.malloc()
    device = machine.start()
    assert machine.call("bdev_malloc_delete", name="Disk") is True
    machine.wait_until_none()
    assert (kernel.NBD_DISCONNECT, 0) in device.calls
    with pytest.raises(OSError, match="does not run"):
        device.read(0, 512)


def test_the_base_is_deleted_under_it_while_it_works(machine):
    machine.malloc()
    machine.call("bdev_passthru_create", name="Top", base_bdev_name="Disk")
    device = machine.start("Top")
    ended = []

    def work():
        try:
            while True:
                device.write(0, bytes(65536))
        except OSError as error:
            ended.append(error.errno)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    assert machine.call("bdev_malloc_delete", name="Disk") is True
    thread.join(WAIT_S)
    assert ended == [errno.EIO]
    machine.wait_until_none()


def test_the_kernel_ends_it_by_itself(machine):
    machine.malloc()
    device = machine.start()
    device.send_disconnect()  # nbd-client -d
    machine.wait_until_none()
    assert machine.call("bdev_malloc_delete", name="Disk") is True


def test_the_kernel_breaks_the_protocol(machine):
    machine.malloc()
    device = machine.start()
    device.socket.sendall(b"\0" * 28)
    machine.wait_until_none()


def test_a_kernel_that_does_not_disconnect_is_dropped(machine, monkeypatch):
    monkeypatch.setattr(disks, "DRAIN_US", 50_000)
    machine.malloc()
    device = machine.start()
    device.deaf = True
    assert machine.call("nbd_stop_disk", nbd_device="/dev/nbd0") is True
    machine.wait_until_none()


def test_a_device_that_hangs_in_the_kernel_is_told_and_left(machine, monkeypatch):
    monkeypatch.setattr(disks, "WAIT_US", 100_000)
    machine.malloc()
    device = machine.start()
    device.hang.set()
    machine.kernel.mounts[0] = ["the mount at /mnt"]
    assert machine.fails("nbd_stop_disk", nbd_device="/dev/nbd0") == TIMED_OUT
    assert "the mount at /mnt" in machine.detail
    assert machine.call("bdev_malloc_delete", name="Disk") is True
    device.hang.clear()
    device.wait_until_over()
    machine.malloc()
    machine.start()


def test_io_that_hangs_in_the_bdev_is_told(machine, monkeypatch):
    monkeypatch.setattr(disks, "WAIT_US", 100_000)
    monkeypatch.setattr(disks, "CLEANUP_US", 50_000)
    monkeypatch.setattr(disks, "DRAIN_US", 50_000)
    machine.malloc()
    machine.call("bdev_error_create", base_name="Disk")
    device = machine.start("EE_Disk")
    inject = {"name": "EE_Disk", "io_type": "write", "error_type": "pending"}
    machine.call("bdev_error_inject_error", **inject)
    ended = []

    def write():
        try:
            device.write(0, bytes(512))
        except OSError as error:
            ended.append(error.errno)

    writer = threading.Thread(target=write)
    writer.start()
    machine.app.wait_until(
        lambda: entry_of(machine.app.app.registry.get("EE_Disk")).outstanding == 1
    )
    assert machine.fails("nbd_stop_disk", nbd_device="/dev/nbd0") == TIMED_OUT
    assert "1 I/Os are outstanding on bdev EE_Disk" in machine.detail
    assert machine.call("bdev_error_resume_pending", name="EE_Disk") is True
    machine.wait_until_none()
    writer.join(WAIT_S)
    assert ended == [errno.EIO]


def test_the_daemon_stops_with_devices_attached(machine, caplog):
    machine.malloc()
    machine.start()
    machine.kernel.mounts[0] = ["the mount at /mnt"]
    with caplog.at_level(logging.WARNING):
        machine.app.run(machine.disks.close())
    assert "nbd disk stops in use device=/dev/nbd0 by=the mount at /mnt" in caplog.text
    machine.wait_until_none()


def test_it_is_stopped_while_it_starts(machine):
    machine.malloc()
    machine.kernel[0].refuse[kernel.NBD_SET_SOCK] = errno.EBUSY
    wait = machine.begin("nbd_start_disk", bdev_name="Disk", nbd_device="/dev/nbd0")
    machine.app.wait_until(lambda: machine.disks.disks)
    stopped = machine.begin("nbd_stop_disk", nbd_device="/dev/nbd0")
    time.sleep(0.05)
    machine.kernel[0].refuse.clear()
    assert wait() == (-5, "Input/output error")
    assert stopped() is True
    machine.wait_until_none()


def test_it_keeps_its_size_when_the_bdev_grows(machine, caplog):
    machine.call("bdev_null_create", name="Null0", num_blocks=2048, block_size=512)
    device = machine.start("Null0")
    machine.call("bdev_null_resize", name="Null0", new_size=2)
    machine.app.wait_until(lambda: "keeps its size" in caplog.text)
    assert device.size == 1 << 20
    assert device.ask(Command.READ, 1 << 20, 512).error == NbdError.EINVAL


# The real kernel


def test_the_ioctls_are_those_of_the_header():
    names = ["SET_SOCK", "SET_BLKSIZE", "DO_IT", "CLEAR_SOCK", "SET_SIZE_BLOCKS", "DISCONNECT"]
    numbers = dict(zip(names, (0, 1, 3, 4, 7, 8), strict=True)) | {
        "SET_TIMEOUT": 9,
        "SET_FLAGS": 10,
    }
    for name, number in numbers.items():
        assert getattr(kernel, f"NBD_{name}") == 0xAB << 8 | number  # _IO(0xab, number)
        assert kernel.NAMES[getattr(kernel, f"NBD_{name}")] == f"NBD_{name}"
    header = Path("/usr/include/linux/nbd.h")
    if header.exists():
        text = header.read_text(encoding="ascii").replace("\t", " ")
        for name, number in numbers.items():
            assert any(
                line.replace(" ", "") == f"#defineNBD_{name}_IO(0xab,{number})"
                for line in text.splitlines()
            ), name


def test_real_calls_that_fail_say_what_was_asked(tmp_path):
    real = KernelNbd()
    assert not real.exists(str(tmp_path / "nbd"))
    with pytest.raises(BdevError, match="modprobe nbd") as caught:
        real.open(str(tmp_path / "nbd"))
    assert caught.value.errno == errno.ENOENT
    file = tmp_path / "file"
    file.write_bytes(bytes(512))
    device = real.open(str(file))
    setup = Setup(socket_fd=0, block_size=512, num_blocks=1 << 40, flags=TransmissionFlag(0xFFF))
    assert setup.flags == kernel.FLAGS
    for call in (lambda: device.set_socket(setup), device.run, device.disconnect, device.clear):
        with pytest.raises(BdevError, match="no device of the kernel's nbd driver") as caught:
            call()
        assert caught.value.errno == errno.ENOTTY
    with pytest.raises(BdevError, match=r"NBD_SET_BLKSIZE of 512.*powers of two"):
        device.set_up(setup)
    assert kernel.call_ioctl(device._fd, kernel.NBD_SET_SIZE_BLOCKS, (1 << 64) - 1) == errno.ENOTTY
    device.close()
    assert real.owner(999_999_999) is None
    assert real.users(999_999_999) == []


@pytest.mark.skipif(Path("/dev/nbd0").exists(), reason="this machine has the driver")
def test_a_machine_without_the_driver(local_app):
    local_app.start()
    machine = Machine(local_app)
    machine.disks.kernel = KernelNbd()
    machine.malloc()
    assert machine.fails("nbd_start_disk", bdev_name="Disk") == (-19, "nbd device not found")
    assert "/dev/nbd0" in machine.detail
    assert "modprobe nbd" in machine.detail
    assert "nbd_export_add" in machine.detail
    named = {"bdev_name": "Disk", "nbd_device": "/dev/nbd0"}
    assert machine.fails("nbd_start_disk", **named) == (-2, "No such file or directory")
    assert "modprobe nbd" in machine.detail
    assert machine.call("bdev_malloc_delete", name="Disk") is True
