"""rpc_get_schema: an OpenRPC document of what is declared, and of nothing else."""

import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from support.told import as_json
from vbdev.api.params import UINT64_MAX
from vbdev.bdev import VirtualBdev, VirtualBdevParams
from vbdev.daemon.app import App
from vbdev.reactor.task import gather
from vbdev.rpc.describing.field_docs import FieldDocs
from vbdev.rpc.describing.schema import describe_methods

sys.path.insert(0, str(Path(__file__).parent))
from openrpc import DOCUMENT

MODULE = '''
"""A module of somebody else's."""

from typing import Annotated, Any, Literal

import msgspec

from vbdev.bdev import VirtualBdev, VirtualBdevParams
from vbdev.api.methods import ModuleMethod
from vbdev.api.params import Params, Uint32


class Strange:
    pass


class TintParams(VirtualBdevParams, kw_only=True, forbid_unknown_fields=True):
    """Tint what is read."""

    colour: Literal["red", "green"] = "red"
    """Which colour, in words that
    go on here."""
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """How much of it."""


class Layer(Params, kw_only=True, frozen=True):
    """Part of a coat."""

    depth: Uint32
    """Depth in um."""


class CoatParams(Params, kw_only=True, frozen=True):
    name: str
    layers: list[Layer]
    """From the ground up."""


class Coat(msgspec.Struct):
    """What it looks like now."""

    layers: int
    """How many there are."""


class StrangeParams(msgspec.Struct):
    strange: Strange


async def coat(registry, params):
    """Put paint on a tint bdev.

    It dries by itself.
    """
    return Coat(len(params.layers))


class Tint(VirtualBdev):
    kind = "tint"
    Params = TintParams

    @classmethod
    def rpc_methods(cls):
        return (
            ModuleMethod("bdev_tint_coat", CoatParams, coat, result=Coat, errors=((-5, "Wet"),)),
            ModuleMethod("bdev_tint_strange", StrangeParams, coat, result=Strange),
        )
'''


def declared(app):
    return describe_methods(app.dispatcher.methods())


@pytest.fixture
def app():
    app = App()
    yield app
    app.close()


@pytest.fixture
def tinted(app, tmp_path):
    """A document with a module in it that came from a file."""
    (tmp_path / "tint_for_schema.py").write_text(MODULE)
    app.load_module_file(str(tmp_path / "tint_for_schema.py"))
    return app


def method(document, name):
    (found,) = [one for one in document["methods"] if one["name"] == name]
    return found


def param(document, name, field):
    (found,) = [one for one in method(document, name)["params"] if one["name"] == field]
    return found


def check(document):
    """Hold a document to OpenRPC's rules, those that no schema can say included."""

    def retrieve(uri):
        name = uri.removeprefix("https://json-schema.org/draft/2020-12/")
        return jsonschema.Draft202012Validator.META_SCHEMA if name == "schema" else 1 / 0

    validator = jsonschema.Draft202012Validator(DOCUMENT)
    assert [error.message for error in validator.iter_errors(document)] == []
    names = [one["name"] for one in document["methods"]]
    assert len(names) == len(set(names))
    for one in document["methods"]:
        fields = [each["name"] for each in one["params"]]
        assert len(fields) == len(set(fields)), one["name"]
    resource = DRAFT202012.create_resource(document)
    resolver = Registry().with_resource("", resource).resolver()
    references = list(references_in(document))
    for reference in references:
        resolver.lookup(reference)
    used = {reference.rpartition("/")[2] for reference in references}
    assert used == set(document["components"]["schemas"])


def references_in(part):
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from references_in(value)


def test_it_is_an_openrpc_document(app):
    check(as_json(declared(app)))


def test_a_broken_document_is_found_out(app):
    for spoil in (
        lambda d: d["methods"].append(d["methods"][0]),
        lambda d: d["methods"][0].pop("params"),
        lambda d: d["methods"][0]["result"].update(schema={"type": "nonsense"}),
        lambda d: d["methods"][0]["result"].update(schema={"$ref": "#/components/schemas/No"}),
        lambda d: d.update(openrpc="2.0.0"),
    ):
        document = json.loads(json.dumps(declared(app)))
        spoil(document)
        with pytest.raises(Exception):  # noqa: B017, PT011 - whichever rule it breaks
            check(document)


def test_every_method_is_there_with_words_for_all_it_takes_and_answers(app):
    document = declared(app)
    assert [one["name"] for one in document["methods"]] == app.dispatcher.names()
    for one in document["methods"]:
        assert one["summary"].endswith("."), one["name"]
        for each in one["params"]:
            assert each.get("description"), f"{one['name']}: {each['name']} is not described"
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, own in schema["properties"].items():
            assert own.get("description"), f"{name}: {field} is not described"


def test_states_and_errors(app):
    document = declared(app)
    assert method(document, "rpc_get_schema")["x-spdk-state"] == ["STARTUP", "RUNTIME"]
    assert method(document, "bdev_set_options")["x-spdk-state"] == ["STARTUP"]
    get = method(document, "bdev_get_bdevs")
    assert get["x-spdk-state"] == ["RUNTIME"]
    texts = {error["code"]: error["message"] for error in get["errors"]}
    assert texts[-32603] == "spdk_json_decode_object failed"
    assert texts[-19] == "No such device"
    assert "framework_start_init" in texts[-1]
    assert method(document, "framework_get_reactors")["errors"][0] == {
        "code": -32602,
        "message": "`framework_get_reactors` requires no arguments",
    }


def test_types_bounds_and_defaults(app):
    document = declared(app)
    timeout = param(document, "bdev_get_bdevs", "timeout")
    assert timeout["required"] is False
    assert timeout["schema"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": UINT64_MAX,
        "default": 0,
    }
    # null is no value, so it is not among those that may be sent.
    assert param(document, "bdev_get_bdevs", "name")["schema"] == {
        "type": "string",
        "x-names": "bdev",
    }
    assert param(document, "bdev_malloc_create", "uuid")["schema"]["format"] == "uuid"
    assert param(document, "bdev_malloc_create", "block_size")["required"] is True
    assert param(document, "bdev_get_iostat", "reset_mode")["schema"]["enum"]
    assert method(document, "bdev_get_bdevs")["result"]["schema"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/BdevInfo"},
    }
    info = document["components"]["schemas"]["BdevInfo"]
    assert "claimed" in info["required"]
    assert "claim_type" not in info["required"]
    assert info["properties"]["claim_type"]["type"] == "string"


def test_a_module_that_came_from_a_file(tinted):
    document = as_json(declared(tinted))
    check(document)
    create = method(document, "bdev_tint_create")
    assert (create["summary"], create["tags"]) == ("Tint what is read.", [{"name": "bdev_tint"}])
    colour = param(document, "bdev_tint_create", "colour")
    assert colour["description"] == "Which colour, in words that go on here."
    assert colour["schema"] == {"enum": ["green", "red"], "default": "red"}
    assert param(document, "bdev_tint_create", "base_bdev_name")["schema"]["x-names"] == "bdev"
    coat = method(document, "bdev_tint_coat")
    assert (coat["summary"], coat["description"]) == (
        "Put paint on a tint bdev.",
        "It dries by itself.",
    )
    assert {"code": -5, "message": "Wet"} in coat["errors"]
    assert "description" not in param(document, "bdev_tint_coat", "name")
    layer = document["components"]["schemas"]["Layer"]
    assert layer["properties"]["depth"]["description"] == "Depth in um."
    assert document["components"]["schemas"]["Coat"]["description"] == "What it looks like now."
    # What no schema can say is anything, and spoils nothing else.
    (strange,) = method(document, "bdev_tint_strange")["params"]
    assert strange == {"name": "strange", "required": True, "schema": {"title": "Strange"}}
    assert method(document, "bdev_tint_strange")["result"]["schema"] == {"title": "Strange"}


def test_a_module_whose_source_has_gone(tinted, tmp_path):
    (tmp_path / "tint_for_schema.py").unlink()
    document = declared(tinted)
    check(document)
    assert "description" not in param(document, "bdev_tint_create", "colour")
    assert param(document, "bdev_tint_create", "name")["description"]


def test_parameters_without_words_do_not_speak_with_their_bases(app):
    class Terse(VirtualBdev):
        kind = "terse"

        class Params(VirtualBdevParams, kw_only=True):
            size: int = 3

    app.add_module(Terse)
    document = describe_methods(app.dispatcher.methods())
    (method,) = [one for one in document["methods"] if one["name"] == "bdev_terse_create"]
    assert method["summary"] == "Create a terse bdev."


def test_a_class_of_no_module_has_no_words():
    made = type("Made", (), {"__module__": "nowhere", "x": 1})
    assert FieldDocs().of(made) == {}


def test_over_the_wire(serve, tmp_path):
    """The same document, from a daemon, in both states; a module is in it."""
    (tmp_path / "tint_over_the_wire.py").write_text(MODULE)
    daemon = serve("--module", tmp_path / "tint_over_the_wire.py")
    document = daemon.rpc.call("rpc_get_schema")
    check(document)
    assert [one["name"] for one in document["methods"]] == daemon.rpc.call("rpc_get_methods")
    assert method(document, "bdev_tint_create")
    assert daemon.rpc.call("rpc_get_schema") == document


def test_many_who_ask_at_once_have_one_answer(local_app):
    app = local_app.app
    local_app.start()

    async def ask():
        asked = [app.reactor.spawn(app.dispatcher.call("rpc_get_schema")) for _ in range(8)]
        return await gather(asked)

    first, *others = local_app.run(ask())
    assert first["methods"]
    assert all(other is first for other in others)


def test_a_loader_that_tells_no_source_is_gone_round(tmp_path, monkeypatch):
    """Such as pytest's, through which an installed vbdev comes in everybody's test runs."""

    class Loader(SourceFileLoader):
        get_source = None

    path = tmp_path / "quiet.py"
    path.write_text('class Quiet:\n    loud: int = 1\n    """How loud."""\n')
    spec = spec_from_file_location("quiet", path, loader=Loader("quiet", str(path)))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "quiet", module)
    assert FieldDocs().of(module.Quiet) == {"loud": "How loud."}
    path.unlink()
    assert FieldDocs().of(module.Quiet) == {}
