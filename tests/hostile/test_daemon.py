"""A daemon with hostile modules of a user's: it names them, and serves everybody else meanwhile."""

import time

import pytest

from support.nbd_client import NbdClient, NbdFailedError
from vbdev.client import RpcError

MODULES = """
import time
from vbdev.bdev import ALL_OPS, VirtualBdev
from vbdev.vocab import Op

class Hostile(VirtualBdev):
    kind = "hostile"
    product_name = "Hostile"
    ops = ALL_OPS
    def submit(self, channel, ios):
        channel.base.submit(ios)

class Raises(Hostile):
    kind = "raises"
    def submit(self, channel, ios):
        raise ZeroDivisionError("a bug")

class RaisesUp(Hostile):
    kind = "raises_up"
    def completed(self, channel, ios):
        raise ZeroDivisionError("a bug")

class NoChannel(Hostile):
    kind = "no_channel"
    def create_channel(self, channel):
        raise ZeroDivisionError("a bug")

class Blocks(Hostile):
    kind = "blocks"
    def submit(self, channel, ios):
        time.sleep(1)
        channel.base.submit(ios)

class Keeps(Hostile):
    kind = "keeps"
    def submit(self, channel, ios):
        self.kept = [*getattr(self, "kept", []), ios.take(Op.READ)]
        channel.base.submit(ios)

class Wide(Hostile):
    kind = "wide"
    gives_read_buffers = True
    async def start(self):
        self.block_size = 4096

class Odd(Hostile):
    kind = "odd"
    async def start(self):
        self.required_alignment = 63

class Mute(Hostile):
    kind = "mute"
    def dump_info(self):
        raise ZeroDivisionError("a bug")

class Garbage(Hostile):
    kind = "garbage"
    def dump_info(self):
        return {"it": object()}
    def config_params(self):
        raise ZeroDivisionError("a bug")
"""


@pytest.fixture
def hostile(serve, tmp_path):
    """Return a function that serves disks Good and Bad, and a hostile layer Top on Bad."""
    path = tmp_path / "hostile.py"
    path.write_text(MODULES)

    def start(kind=None):
        daemon = serve("malloc:1MiB,name=Good", "--module", path)
        daemon.check_log = lambda: None  # it has much to complain about
        daemon.rpc.call("bdev_malloc_create", name="Bad", num_blocks=2048, block_size=512)
        if kind is not None:
            create(daemon, kind)
        return daemon

    return start


def create(daemon, kind):
    daemon.rpc.call(f"bdev_{kind}_create", name="Top", base_bdev_name="Bad")
    daemon.rpc.call("nbd_export_add", bdev_name="Top")


def check_good(daemon):
    with NbdClient(daemon.socket, "Good") as good:
        good.write(4096, b"good" * 128)
        assert good.read(4096, 512) == b"good" * 128


@pytest.mark.parametrize("kind", ["raises", "raises_up"])
def test_one_that_raises(hostile, kind):
    daemon = hostile(kind)
    with NbdClient(daemon.socket, "Top") as top, NbdClient(daemon.socket, "Good") as good:
        for _ in range(3):
            with pytest.raises(NbdFailedError):
                top.read(0, 4096)
            good.write(0, bytes(4096))
    check_good(daemon)
    assert f"bdev Top ({kind}) raised ZeroDivisionError('a bug'); 1 I/Os failed" in daemon.stderr


def test_one_that_can_not_make_a_channel(hostile):
    daemon = hostile("no_channel")
    # The client may have been let in before the channel was made.
    with (
        pytest.raises((NbdFailedError, ConnectionError)),
        NbdClient(daemon.socket, "Top") as top,
    ):
        top.read(0, 512)
    assert """bdev Top (no_channel): create_channel: ZeroDivisionError('a bug')""" in daemon.stderr
    check_good(daemon)


def test_one_that_blocks(hostile):
    daemon = hostile("blocks")
    with NbdClient(daemon.socket, "Top") as top:
        assert top.read(0, 512) == bytes(512)
    check_good(daemon)
    assert "module blocked the reactor bdev=Top kind=blocks" in daemon.stderr


def test_one_that_never_completes(hostile):
    daemon = hostile("keeps")
    top = NbdClient(daemon.socket, "Top")
    top.send(top.message(0, 0, 512))
    deadline = time.monotonic() + 25
    check_good(daemon)
    while "module holds I/Os bdev=Top kind=keeps" not in daemon.stderr:
        assert time.monotonic() < deadline, daemon.stderr
        time.sleep(0.2)
    check_good(daemon)
    top.close()
    daemon.kill()  # what is never completed can not be waited for


def test_one_whose_blocks_are_not_the_bases(hostile):
    daemon = hostile("wide")
    with NbdClient(daemon.socket, "Top") as top:
        with pytest.raises(NbdFailedError):
            top.read(0, 8192)
        with pytest.raises(NbdFailedError):
            top.write(0, bytes(8192))
    check_good(daemon)


def test_one_that_is_aligned_to_nothing(hostile):
    daemon = hostile()
    with pytest.raises(RpcError) as refusal:
        create(daemon, "odd")
    assert "required_alignment" in daemon.stderr + str(refusal.value)
    check_good(daemon)
    create(daemon, "raises")  # its base is free


@pytest.mark.parametrize("kind", ["mute", "garbage"])
def test_one_that_can_not_be_told_of(hostile, kind):
    daemon = hostile(kind)
    names = [bdev["name"] for bdev in daemon.rpc.call("bdev_get_bdevs")]
    assert sorted(names) == ["Bad", "Good", "Top"]
    told = {"mute": "dump_info", "garbage": "config_params"}[kind]
    config = daemon.rpc.call("framework_get_config", name="bdev")
    (saved,) = [call for call in config if call["method"] == f"bdev_{kind}_create"]
    assert saved["params"]["base_bdev_name"] == "Bad"
    assert told in daemon.stderr
    check_good(daemon)
