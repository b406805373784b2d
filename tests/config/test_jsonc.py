"""JSON with comments: what is read, and where a mistake is said to be."""

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdev.wire.jsonc import JsoncError, JsonObject, Place, parse

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.text(st.characters(codec="utf-8"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"\\/*'), inner),
    max_leaves=20,
)
COMMENTS = st.sampled_from(["", " ", "\n", '// x "\n', "/* } \n */", "/**/", "\t//\n"])


@pytest.mark.rule("A.22.7")
@given(VALUES, st.data())
def test_what_json_reads_and_comments_in_between(value, data):
    """Comments anywhere between tokens change nothing; what looks like one in a string is text."""
    tokens = json.JSONEncoder(ensure_ascii=data.draw(st.booleans())).iterencode(value)
    text = "".join(data.draw(COMMENTS) + part for token in tokens for part in _split(token))
    assert parse(text + data.draw(COMMENTS)) == value


def _split(token):
    """Yield a token of the encoder in pieces between which there may be a comment."""
    if token.startswith('"') or not token.strip(" ,:"):
        yield token
        return
    opener = token[:1] if token[:1] in "[{,:" else ""
    if opener:
        yield opener
    if token[len(opener) :]:
        yield token[len(opener) :]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "// no /* comment */"}', {"a": "// no /* comment */"}),
        ('"a\\"// b" // c', 'a"// b'),
        ("[1e3, 2.0, -0, 1.5]", [1000, 2, 0, 1.5]),
        ("/* a */ // b\n\r\n7", 7),
    ],
)
def test_values(text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("", 1, 1, "a value is expected, not the end of the text"),
        ("[1,\n 2,\n]", 2, 3, "a comma with nothing between it and ']'"),
        ('{"a": 1,}', 1, 8, "a comma with nothing between it and '}'"),
        ('{"a": 1,\n "a": 2}', 2, 2, "key 'a' stands twice in one object"),
        ("{a: 1}", 1, 2, "a key in double quotes is expected, not 'a'"),
        ("{'a': 1}", 1, 2, "a key in double quotes is expected"),
        ('{"a" 1}', 1, 6, "':' is expected behind the key 'a', not '1'"),
        ("[1 2]", 1, 4, "',' or ']' is expected, not '2'"),
        ("[1", 1, 3, "',' or ']' is expected, not the end of the text"),
        ("[tru]", 1, 2, "'tru' is no value"),
        ("[NaN]", 1, 2, "'NaN' is no value"),
        ("[01]", 1, 2, "01 is no JSON"),
        ("[1_000]", 1, 2, "1_000 is no JSON"),
        ('["a\nb"]', 1, 2, "a string that does not end in its line"),
        ('["a\\x"]', 1, 2, "is no JSON"),
        ('["\\ud800"]', 1, 2, "is no JSON"),
        ("1 /* a", 1, 3, "a comment that does not end"),
        ("1 2", 1, 3, "nothing may follow the value"),
        ("1 # a", 1, 3, "nothing may follow the value"),
        ("[" * 65, 1, 65, "nested deeper than 64"),
        ("\n\n  ]", 3, 3, "a value is expected, not ']'"),
    ],
)
def test_mistakes(text, line, column, said):
    with pytest.raises(JsoncError) as caught:
        parse(text)
    place = Place(text)
    assert said in str(caught.value)
    assert (place.line(caught.value.at), place.column(caught.value.at)) == (line, column)


@given(st.text(st.sampled_from('{}[],:"\\*ab1. \n')))
def test_any_text_is_read_as_json_reads_it(text):
    assert _outcome(parse, text) == _outcome(partial(json.loads, object_pairs_hook=_once), text)


def _outcome(read, text):
    try:
        return read(text)
    except (JsoncError, ValueError):
        return "refused"


def _once(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def test_objects_know_their_places():
    value = parse('{\n "a": {"b": 1}}')
    assert isinstance(value["a"], JsonObject)
    assert value.places == {"a": 8}
    assert value["a"].at == 8
    assert value["a"].places == {"b": 14}
