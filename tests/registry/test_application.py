"""The application around the registry: order of subsystems, nothing left at the end."""

import pytest

from support.told import as_declared
from vbdev.api.errors import RpcError
from vbdev.daemon.app import App, AppError
from vbdev.modules.split import Split


@pytest.fixture
def app():
    made = App()
    yield made
    made.close()


def call(app, method, **params):
    result = app.reactor.run_until_complete(app.dispatcher.call(method, params or None))
    return as_declared(result, app.dispatcher.get(method).result)


@pytest.mark.rule("A.6.10", "A.22.1", "A.6.9")
def test_subsystems_end_in_the_reverse_of_their_order(app):
    """The NBD target stands on bdevs: it lets go of them before they are unregistered."""
    subsystems = call(app, "framework_get_subsystems")
    listed = [entry["subsystem"] for entry in subsystems]
    assert listed == ["scheduler", "iobuf", "accel", "bdev", "nbd"]
    for position, entry in enumerate(subsystems):
        assert set(entry["depends_on"]) <= set(listed[:position])
    app.create("malloc", {"name": "Disk", "num_blocks": 8, "block_size": 512})
    app.create("passthru", {"name": "Top", "base_bdev_name": "Disk"})
    app.nbd.add_export("Top")
    order = []
    nbd_close, bdev_close = app.nbd.close, app.registry.close

    async def noted(name, close):
        order.append((name, len(app.registry.bdevs), len(app.nbd.exports)))
        await close()

    app.nbd.close = lambda: noted("nbd", nbd_close)
    app.registry.close = lambda: noted("bdev", bdev_close)
    app.reactor.run_until_complete(app.stop())
    assert order == [("nbd", 2, 1), ("bdev", 2, 0)]
    assert [name for name, *_ in order] == list(reversed(listed[3:]))
    assert app.registry.bdevs == {}
    assert (app.engine.ios_in_use, app.engine.buffers.live_buffers) == (0, 0)
    assert app.exit_status == 0


@pytest.mark.parametrize("part", ["rpc", "kernel_disks", "nbd"])
def test_a_part_that_can_not_be_stopped_keeps_no_bdev_from_its_end(app, part, caplog):
    async def fail():
        raise RuntimeError("a bug")

    app.create("malloc", {"name": "Disk", "num_blocks": 8, "block_size": 512})
    getattr(app, part).close = fail
    app.reactor.run_until_complete(app.stop())
    assert app.registry.bdevs == {}
    assert app.exit_status == 1
    assert "the stop failed" in caplog.text


@pytest.mark.rule("A.5.8")
@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_what_has_no_base_waits_for_nothing(app, kind, tmp_path):
    absent = tmp_path / "absent"
    with pytest.raises(AppError, match="absent"):
        app.create(kind, {"name": "Disk", "filename": str(absent), "block_size": 512})
    assert app.registry.creations == {}
    absent.write_bytes(bytes(4096))
    with pytest.raises(RpcError):
        call(app, "bdev_get_bdevs", name="Disk")
    app.reactor.run_until_complete(app.stop())


def test_a_module_that_inherits_anothers_methods_is_told_which(app):
    class Half(Split):
        kind = "half"

    with pytest.raises(AppError, match=r"'half' of .*: RPC method bdev_split_create is registered"):
        app.add_module(Half)
    assert "half" not in app.modules
    assert app.dispatcher.get("bdev_half_delete") is None
    app.reactor.run_until_complete(app.stop())
