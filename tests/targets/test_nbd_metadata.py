"""NBD exports of bdevs with metadata: a client sees data, and is told of damage."""

import random

import pytest

from vbdev.vocab import DifCheck, NbdError, Op, Status
from vbdev.wire.nbd import Command

INTERLEAVED = {"md_size": 64, "md_interleave": True, "dif_type": 1, "dif_pi_format": 2}
SEPARATE = {"md_size": 8, "dif_type": 2}
KINDS = {"interleaved": ("malloc", INTERLEAVED), "separate": ("malloc", SEPARATE)}
KINDS["null"] = ("null", {"md_size": 8, "dif_type": 1})


@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("layout", KINDS)
def test_a_client_sees_data_blocks_only(local_app, layout, block_size):
    kind, params = KINDS[layout]
    export = local_app.serve(
        num_blocks=256, block_size=block_size, kind=kind, params=params, strict_blocks=True
    )
    info = export.info()
    assert info.size_bytes == 256 * block_size
    assert info.block_sizes.minimum_bytes == block_size
    client = local_app.client()
    data = random.Random(1).randbytes(20 * block_size)
    client.write(3 * block_size, data)
    if kind == "malloc":
        assert client.read(3 * block_size, len(data)) == data
        client.ask(Command.WRITE_ZEROES, 4 * block_size, block_size)
        assert client.read(4 * block_size, block_size) == bytes(block_size)
    assert client.read(200 * block_size, 4 * block_size) == bytes(4 * block_size)
    assert client.read(255 * block_size, block_size) == bytes(block_size)


@pytest.mark.parametrize("params", [INTERLEAVED, SEPARATE], ids=["interleaved", "separate"])
def test_damage_is_an_error_and_not_data(local_app, params):
    local_app.serve(num_blocks=64, params=params)
    client = local_app.client()
    client.write(0, bytes([7]) * 2048)
    box = []

    def damage():
        registry = local_app.app.registry
        bdev = registry.get("Disk")
        descriptor = registry.open("Disk", write=True, on_event=lambda _: None, holder="vandal")
        md = None if bdev.md_interleave else bytes(8)

        def ended(request):
            box.append(request.status)
            descriptor.close()

        descriptor.submit(
            Op.WRITE,
            1,
            1,
            bytes(bdev.block_size),
            metadata=md,
            dif_check_flags_exclude_mask=DifCheck.GUARD | DifCheck.REFTAG,
            callback=ended,
        )

    local_app.ask(damage)
    local_app.wait_until(lambda: box)
    assert box == [Status.SUCCESS]
    assert client.read(0, 512) == bytes([7]) * 512
    client.send(client.message(Command.READ, 0, 1024))
    (reply,) = client.wait_all().values()
    assert reply.error == NbdError.EIO
    client.write(512, bytes(512))  # writing makes it good
    assert client.read(0, 1024) == bytes([7]) * 512 + bytes(512)
