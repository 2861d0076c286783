"""The text format is kept word for word, and what isn't the format is refused with its place."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_agent.servers.textproto import (
    Field,
    Message,
    Scalar,
    TextProtoError,
    Value,
    message,
    number,
    parse,
    print_message,
    text,
)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
scalars = st.one_of(
    st.integers().map(lambda value: Scalar(str(value))),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: Scalar(repr(value))),
    st.text(st.characters(blacklist_categories=["Cs"])).map(text),
    names.map(Scalar),
)


def messages_of(values: st.SearchStrategy[Value]) -> st.SearchStrategy[Message]:
    fields = st.builds(Field, names, values)
    return st.lists(fields, max_size=4).map(lambda found: Message(tuple(found)))


values: st.SearchStrategy[Value] = st.recursive(
    st.one_of(scalars, st.lists(scalars, max_size=3).map(tuple)),
    lambda inner: st.one_of(messages_of(inner), st.lists(messages_of(inner), min_size=1, max_size=3).map(tuple)),
    max_leaves=12,
)


@given(messages_of(values))
def test_what_is_printed_reads_back_the_same(content: Message) -> None:
    assert parse(print_message(content)) == content


@given(st.text())
def test_no_text_crashes_the_parser(source: str) -> None:
    with contextlib.suppress(TextProtoError):
        parse(source)


KEPT = """
# a person's file
name: "digits"  platform: 'onnxruntime_onnx'
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 64 ] }, { name: "z" } ]
output { name: "y" dims: -1 dims: 10; }
parameters < key: "p" value: { string_value: "one" "two" } >,
optimization { priority: PRIORITY_MAX, cuda { graphs: true } }
scale: 1.5e-3f mask: 0xFF neg: -inf
[ext.name/x]: 1
"""


def test_all_forms_of_the_format_are_read() -> None:
    content = parse(KEPT)
    assert content.first("name") == Scalar('"digits"')
    assert content.first("input") == (
        message(("name", text("x")), ("data_type", Scalar("TYPE_FP32")), ("dims", (Scalar("-1"), number(64)))),
        message(("name", text("z"))),
    )
    output = content.first("output")
    assert isinstance(output, Message)
    assert [field.value for field in output.named("dims")] == [Scalar("-1"), Scalar("10")]
    parameters = content.first("parameters")
    assert parameters == message(("key", text("p")), ("value", message(("string_value", Scalar('"one" "two"')))))
    assert [content.first(name) for name in ("scale", "mask", "neg", "[ext.name/x]")] == [
        Scalar("1.5e-3f"),
        Scalar("0xFF"),
        Scalar("-inf"),
        Scalar("1"),
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("name", "line 1, column 5: expected ':' or '{', found the end"),
        ('name: "x', "is neither a name, a number nor a string"),
        ("a: 1\n  b {", "line 2, column 6: expected '}', found the end"),
        ("a { b: 1 >", "expected a field name, found '>'"),
        ("a: [1, ]", "expected a value, found ']'"),
        ("a: [1 2]", "expected ',' or ']', found '2'"),
        ("a: [{}, 1]", "expected '{', found '1'"),
        ("a [1]", "expected '{', found '1'"),
        ("a: -", "expected a number after '-'"),
        ("}", "expected a field name, found '}'"),
        ("3: 1", "expected a field name, found '3'"),
        ("[]: 1", "expected a name in the brackets"),
        ('{"name": "json"}', "expected a field name, found '{'"),
        ("a { " * 200, "expected at most 100 levels"),
    ],
)
def test_a_refusal_says_where_and_what_was_expected(source: str, words: str) -> None:
    with pytest.raises(TextProtoError) as refusal:
        parse(source)
    assert words in str(refusal.value)


def test_replacing_keeps_the_place_and_leaves_one() -> None:
    content = parse("a: 1 b: 2 a: 3 c: 4")
    assert print_message(content.replacing("a", number(9))) == "a: 9\nb: 2\nc: 4\n"
    assert print_message(content.replacing("d", number(9))).endswith("c: 4\nd: 9\n")
