"""Names that the registry makes up: the lowest number that nobody has, found without a search."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.stack import Stack
from vbdev.bdev import Unnamed, VirtualBdevParams
from vbdev.modules.malloc import Malloc, MallocParams
from vbdev.modules.passthru import Passthru
from vbdev.registry.names import Numbers


@pytest.fixture
def stack():
    made = Stack()
    yield made
    made.close()


def malloc(stack, name=Unnamed()):  # noqa: B008 - it is a word
    params = MallocParams(name=name, num_blocks=8, block_size=512)
    return stack.run(stack.registry.create(Malloc, params))


NUMBERS = st.integers(0, 12)


@given(st.lists(st.tuples(st.sampled_from(["make", "take", "free"]), NUMBERS), max_size=60))
@settings(max_examples=300)
def test_the_lowest_number_as_a_search_finds_it(steps):
    taken = set()
    numbers = Numbers(taken.__contains__)
    for what, number in steps:
        lowest = next(n for n in range(100) if f"Disk{n}" not in taken)
        assert numbers.unused("Disk") == f"Disk{lowest}"
        if what == "make":
            taken.add(f"Disk{lowest}")
        elif what == "take":
            taken.add(f"Disk{number}")
        elif f"Disk{number}" in taken:
            taken.remove(f"Disk{number}")
            numbers.freed(f"Disk{number}")


def test_no_name_is_looked_at_again_and_again():
    taken, looks = set(), []

    def is_taken(name):
        looks.append(name)
        return name in taken

    numbers = Numbers(is_taken)
    for _ in range(1000):
        taken.add(numbers.unused("Disk"))
    assert len(looks) <= 2000
    for number in range(0, 1000, 2):
        taken.remove(f"Disk{number}")
        numbers.freed(f"Disk{number}")
    looks.clear()
    for _ in range(500):
        taken.add(numbers.unused("Disk"))
    assert len(looks) <= 1000
    assert numbers.unused("Disk") == "Disk1000"


@pytest.mark.parametrize("name", ["Disk", "Disk-1", "Disk01", "Disk²", "Disk" + "9" * 5000, "Dis"])
def test_other_names_that_are_given_back_are_none_of_these(name):
    taken = {"Disk0", "Disk1", name}
    numbers = Numbers(taken.__contains__)
    assert numbers.unused("Disk") == "Disk2"
    taken.remove(name)
    numbers.freed(name)
    assert numbers.unused("Disk") == "Disk2"


def test_what_is_given_back_twice_is_kept_once():
    numbers = Numbers({"Disk0", "Disk1"}.__contains__)
    assert numbers.unused("Disk") == "Disk2"
    for _ in range(5):
        numbers.freed("Disk1")
    assert numbers._used["Disk"].gaps == [1]
    assert numbers.unused("Disk") == "Disk2"
    assert numbers._used["Disk"].gaps == []


def test_a_name_is_free_with_its_bdev_its_alias_or_its_wish(stack):
    registry = stack.registry
    assert [malloc(stack) for _ in range(4)] == ["Malloc0", "Malloc1", "Malloc2", "Malloc3"]
    stack.run(registry.delete("Malloc1", "malloc"))
    assert malloc(stack) == "Malloc1"
    bdev = registry.get("Malloc0")
    stack.run(registry.delete("Malloc2", "malloc"))
    registry.add_alias(bdev, "Malloc2")
    assert malloc(stack) == "Malloc4"
    registry.drop_alias(bdev, "Malloc2")
    assert malloc(stack) == "Malloc2"
    wish = VirtualBdevParams(name="Malloc5", base_bdev_name="Nowhere")
    stack.run(registry.create_virtual(Passthru, wish))
    assert malloc(stack) == "Malloc6"
    stack.run(registry.delete("Malloc5", "passthru"))
    assert malloc(stack) == "Malloc5"
    registry.add_alias(bdev, "Malloc7")
    assert malloc(stack) == "Malloc8"
    registry.drop_aliases(bdev)
    assert malloc(stack) == "Malloc7"


def test_a_bdev_that_can_not_be_made_gives_its_name_back(stack):
    assert malloc(stack) == "Malloc0"
    with pytest.raises(Exception, match="Malloc0"):
        malloc(stack, "Malloc0")
    too_large = MallocParams(num_blocks=1 << 62, block_size=512)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever way memory says no
        stack.run(stack.registry.create(Malloc, too_large))
    assert malloc(stack) == "Malloc1"
