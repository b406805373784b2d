"""Protection information against known answers and a plain-Python twin.

Known answers: the CRC catalogue's check values; NVM Command Set Specification 1.0, 5.2.1.3 and
5.2.1.4 (4 KiB of zeroes, ones, counting up and down); RFC 3720, B.4 (CRC-32C of 32 bytes); T10
SBC-4, 4.22.4 (CRC-16 of 32 bytes).
"""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.dif_twin import Twin, guard
from vbdev.core.memory import dif as compiled
from vbdev.core.memory.dif import Dif
from vbdev.vocab import DifCheck

ALL = DifCheck.GUARD | DifCheck.APPTAG | DifCheck.REFTAG
UP = bytes(range(256))
DOWN = UP[::-1]


@pytest.mark.parametrize("function", [compiled.guard, guard], ids=["compiled", "twin"])
@pytest.mark.parametrize(
    ("data", "answers"),
    [
        (b"", (0, 0, 0)),
        (b"123456789", (0xD0DB, 0xE3069283, 0xAE8B14860A799888)),
        (bytes(4096), (0, 0x98F94189, 0x6482D367EB22B64E)),
        (b"\xff" * 4096, (None, 0x25C1FE13, 0xC0DDBA7302ECA3AC)),
        (UP * 16, (None, 0x9C71FE32, 0x3E729F5F6750449C)),
        (DOWN * 16, (None, 0x214941A8, 0x9A2DF64B8E9E517E)),
        (bytes(32), (0, 0x8A9136AA, None)),
        (b"\xff" * 32, (0xA293, 0x62A8AB43, None)),
        (UP[:32], (0x0224, 0x46DD794E, None)),
        (UP[:32][::-1], (None, 0x113FDB5C, None)),
        (DOWN[:32], (0xA0B7, None, None)),
    ],
    ids=[
        "empty",
        "check",
        "4K-0",
        "4K-1",
        "4K-up",
        "4K-down",
        "32-0",
        "32-1",
        "32-up",
        "32-down",
        "32-ff",
    ],
)
def test_known_answers(function, data, answers):
    for pi_format, answer in enumerate(answers):
        if answer is not None:
            assert function(pi_format, data) == answer


@given(st.binary(max_size=300), st.integers(0, 2))
def test_guard_of_any_length(data, pi_format):
    assert compiled.guard(pi_format, data) == guard(pi_format, data)


@st.composite
def layouts(draw):
    pi_format = draw(st.integers(0, 2))
    interleaved = draw(st.booleans())
    md_len = draw(st.sampled_from([8, 16, 24, 64, 128][1 if pi_format else 0 :]))
    data_size = 512 if interleaved or pi_format == 0 else 4096
    return Twin(
        data_size + (md_len if interleaved else 0),
        md_len,
        interleaved,
        draw(st.integers(1, 3)),
        draw(st.booleans()),
        int(draw(st.sampled_from([ALL, DifCheck.GUARD, DifCheck.GUARD | DifCheck.REFTAG]))),
        pi_format,
    )


def compiled_of(twin):
    return Dif(
        block_size=twin.block_size,
        md_len=twin.md_len,
        md_interleave=twin.md_interleave,
        dif_type=twin.dif_type,
        dif_is_head_of_md=twin.dif_is_head_of_md,
        dif_check_flags=twin.dif_check_flags,
        dif_pi_format=twin.dif_pi_format,
    )


def cut(data, cuts):
    """Return copies of the pieces that these places cut data into, some of them empty."""
    at = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [bytearray(data[a:b]) for a, b in itertools.pairwise(at)]


def noise(n, seed):
    return random.Random(seed).randbytes(n)


REF_TAGS = st.sampled_from([0, 7, 2**32 - 2, 2**48 - 1, 2**64 - 2])
CUTS = st.lists(st.integers(0, 20_000), max_size=7)


@given(layouts(), st.integers(0, 4), REF_TAGS, st.integers(0, 0xFFFF), CUTS, st.data())
@settings(deadline=None)
def test_generate_verify_remap(twin, count, ref_tag, app_tag, cuts, data):
    ours = compiled_of(twin)
    source = noise(count * twin.block_size, count)
    source_md = b"" if twin.md_interleave else noise(count * twin.md_len, count + 1)
    pieces = cut(source, cuts)
    md = None if twin.md_interleave else bytearray(source_md)
    how = {"num_blocks": count, "ref_tag": ref_tag}
    # Generation touches the protection information and nothing else.
    ours.generate(pieces, md, app_tag=app_tag, **how)
    want = twin.join(
        [
            (d, twin.generate(d, m, i, ref_tag, app_tag))
            for i, (d, m) in enumerate(twin.blocks(source, source_md))
        ]
    )
    assert (b"".join(pieces), bytes(md or b"")) == want
    assert ours.verify(pieces, md, app_tag=app_tag, **how) is None

    # One byte changed anywhere is found, or not, as the twin finds it.
    target, at = draw_byte(data, pieces, md)
    if target is not None:
        before = target[at]
        target[at] ^= data.draw(st.integers(1, 255))
        changed = twin.blocks(b"".join(pieces), md or b"")
        exclude = data.draw(st.sampled_from([0, *DifCheck, ALL]))
        found = [
            twin.verify(d, m, i, ref_tag, app_tag, exclude=exclude)
            for i, (d, m) in enumerate(changed)
        ]
        first = next((f for f in found if f), None)
        assert ours.verify(pieces, md, app_tag=app_tag, exclude=exclude, **how) == first
        target[at] = before

    new = data.draw(REF_TAGS)
    assert ours.remap(pieces, md, new_ref_tag=new, **how) is None
    moved = [
        (d, m if twin.escaped(m) else remapped(twin, m, i, new))
        for i, (d, m) in enumerate(twin.blocks(*want))
    ]
    assert (b"".join(pieces), bytes(md or b"")) == twin.join(moved)
    if twin.dif_type != 3:
        checked = ours.verify(pieces, md, num_blocks=count, ref_tag=new, app_tag=app_tag)
        assert checked is None


def remapped(twin, md, index, new):
    if twin.dif_type == 3:
        return md
    value, app, _ = twin.unpack(md)
    pi = twin.pack(value, app, new + index)
    return md[: twin.pi_at] + pi + md[twin.pi_at + twin.pi_size :]


def draw_byte(data, pieces, md):
    targets = [p for p in [*pieces, md] if p]
    if not targets:
        return None, 0
    target = data.draw(st.sampled_from(range(len(targets))))
    return targets[target], data.draw(st.integers(0, len(targets[target]) - 1))


@given(layouts(), st.integers(0, 4), REF_TAGS, CUTS, CUTS)
@settings(deadline=None)
def test_insert_and_strip(twin, count, ref_tag, cuts, more_cuts):
    if not twin.md_interleave:
        return
    ours = compiled_of(twin)
    data = noise(count * twin.data_size, 5)
    blocks = cut(noise(count * twin.block_size, 6), more_cuts)
    how = {"num_blocks": count, "ref_tag": ref_tag}
    ours.insert(cut(data, cuts), blocks, **how)
    size = twin.data_size
    want = [
        (d, twin.generate(d, bytes(twin.md_len), i, ref_tag))
        for i, d in enumerate(data[at : at + size] for at in range(0, len(data), size))
    ]
    assert b"".join(blocks) == twin.join(want)[0]
    back = cut(bytes(len(data)), cuts)
    assert ours.strip(blocks, back, **how) is None
    assert b"".join(back) == data
    if count:
        whole = bytearray(b"".join(blocks))
        whole[(count - 1) * twin.block_size] ^= 1
        found = ours.strip(whole, back, **how)
        assert found is not None
        assert found[:2] == (count - 1, DifCheck.GUARD)
        assert ours.strip(whole, back, exclude=DifCheck.GUARD, **how) is None


def one(**changes):
    how = {
        "block_size": 520,
        "md_len": 8,
        "md_interleave": True,
        "dif_type": 1,
        "dif_check_flags": ALL,
    }
    return Dif(**how | changes)


def block(ours, app_tag=0, ref_tag=9, **more):
    made = bytearray(noise(520, 1))
    ours.generate(made, num_blocks=1, ref_tag=ref_tag, app_tag=app_tag, **more)
    return made


@pytest.mark.parametrize("dif_type", [1, 2, 3])
def test_application_tag_of_ones_switches_checking_off(dif_type):
    ours = one(dif_type=dif_type)
    made = block(ours, escape=True)
    assert made[-6:] == b"\xff" * 6
    made[0] ^= 1
    assert ours.verify(made, num_blocks=1, ref_tag=9) is None
    made[-1] = 0  # types 1 and 2 look at the application tag alone
    found = ours.verify(made, num_blocks=1, ref_tag=9)
    assert (found is None) == (dif_type != 3)
    # A remapping leaves escaped tags alone.
    before = bytes(made)
    assert ours.remap(made, num_blocks=1, ref_tag=9, new_ref_tag=1) is None
    assert made == before


def test_checks_come_in_order_and_can_be_excluded():
    ours = one()
    made = block(ours, app_tag=5)
    made[0] ^= 1
    how = {"num_blocks": 1, "ref_tag": 10, "app_tag": 6}
    assert ours.verify(made, **how)[1] == DifCheck.GUARD
    assert ours.verify(made, exclude=DifCheck.GUARD, **how)[1:] == (DifCheck.APPTAG, 6, 5)
    left = DifCheck.GUARD | DifCheck.APPTAG
    assert ours.verify(made, exclude=left, **how)[1:] == (DifCheck.REFTAG, 10, 9)
    assert ours.verify(made, exclude=ALL, **how) is None
    assert ours.verify(made, exclude=left, num_blocks=1, ref_tag=9) is None


def test_application_tags_are_compared_under_a_mask():
    ours = one()
    made = block(ours, app_tag=0x12F4)
    assert ours.verify(made, num_blocks=1, ref_tag=9, app_tag=0x1204, app_mask=0xFF0F) is None
    found = ours.verify(made, num_blocks=1, ref_tag=9, app_tag=0x1204, app_mask=0xFFF0)
    assert found == (0, DifCheck.APPTAG, 0x1204, 0x12F0)


def test_remap_refuses_a_tag_that_is_not_the_old_one():
    ours = one()
    made = block(ours)
    assert ours.remap(made, num_blocks=1, ref_tag=8, new_ref_tag=1) == (0, DifCheck.REFTAG, 8, 9)
    assert ours.remap(made, num_blocks=1, ref_tag=8, new_ref_tag=1, check=False) is None
    assert ours.verify(made, num_blocks=1, ref_tag=1) is None


def test_type_3_has_a_tag_of_the_users_own():
    ours = one(dif_type=3)
    made = bytearray(noise(1040, 2))
    ours.generate(made, num_blocks=2, ref_tag=77)
    assert made[516:520] == made[-4:] == (77).to_bytes(4, "big")
    assert ours.verify(made, num_blocks=2, ref_tag=1) is None
    before = bytes(made)
    assert ours.remap(made, num_blocks=2, ref_tag=77, new_ref_tag=3) is None
    assert made == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"dif_type": 4}, "dif_type 4"),
        ({"dif_pi_format": 3}, "dif_pi_format 3"),
        ({"md_len": 0}, "md_len is 0"),
        ({"md_len": 129}, "md_len is 129"),
        ({"dif_pi_format": 1}, "16 bytes .* in metadata of 8"),
        ({"block_size": 8}, "blocks of 8 bytes"),
        ({"md_interleave": False}, "a multiple of 512"),
        (
            {"md_interleave": False, "block_size": 512, "md_len": 16, "dif_pi_format": 2},
            "a multiple of 4096",
        ),
    ],
)
def test_layouts_that_do_not_fit_are_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        one(**changes)


def test_memory_that_is_too_short_is_refused():
    ours = one()
    short = bytearray(519)
    for call in (
        lambda: ours.generate(short, num_blocks=1, ref_tag=0),
        lambda: ours.verify(short, num_blocks=1, ref_tag=0),
        lambda: ours.remap(short, num_blocks=1, ref_tag=0, new_ref_tag=1),
        lambda: ours.insert(bytes(512), short, num_blocks=1, ref_tag=0),
        lambda: ours.insert(bytes(511), bytearray(520), num_blocks=1, ref_tag=0),
        lambda: ours.strip(short, bytearray(512), num_blocks=1, ref_tag=0),
        lambda: ours.strip(bytearray(520), bytearray(511), num_blocks=1, ref_tag=0),
    ):
        with pytest.raises(ValueError, match="1 blocks"):
            call()
    separate = one(block_size=512, md_interleave=False)
    for md in (None, bytearray(7), [bytearray(8), bytearray(8)]):
        with pytest.raises(ValueError, match="8 bytes in one piece"):
            separate.generate(bytearray(512), md, num_blocks=1, ref_tag=0)
    with pytest.raises(ValueError, match="interleaved"):
        ours.generate(bytearray(520), bytearray(8), num_blocks=1, ref_tag=0)


def test_metadata_without_protection_information_is_the_users_own():
    plain = one(dif_type=0)
    for call in (plain.generate, plain.verify):
        with pytest.raises(ValueError, match="no protection information"):
            call(bytearray(520), num_blocks=1, ref_tag=0)
    blocks, back = bytearray(noise(520, 3)), bytearray(512)
    plain.insert(noise(512, 4), blocks, num_blocks=1, ref_tag=0)
    assert blocks == noise(512, 4) + bytes(8)
    assert plain.strip(blocks, back, num_blocks=1, ref_tag=0) is None
    assert back == noise(512, 4)


@given(layouts(), st.binary(min_size=1, max_size=64), CUTS)
@settings(deadline=None)
def test_garbage_is_judged_as_the_twin_judges_it(twin, seed, cuts):
    ours = compiled_of(twin)
    data = (seed * (2 * twin.block_size // len(seed) + 1))[: 2 * twin.block_size]
    md = None if twin.md_interleave else (seed[::-1] * 300)[: 2 * twin.md_len]
    if md is not None and len(md) < 2 * twin.md_len:
        md += bytes(2 * twin.md_len - len(md))
    found = [twin.verify(d, m, i, 3) for i, (d, m) in enumerate(twin.blocks(data, md or b""))]
    first = next((f for f in found if f), None)
    assert ours.verify(cut(data, cuts), md, num_blocks=2, ref_tag=3) == first
