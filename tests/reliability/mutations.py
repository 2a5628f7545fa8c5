"""Requests that are nearly right, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from .corpus import METHODS, seeds

Draw = Callable[[st.SearchStrategy[Any]], Any]

INTEGERS = [0, 1, 2, 63, 64, 383, 384, 512, 10_000, 2**31 - 1]
STRANGE_TEXTS = [
    "",
    "\0",
    "a" + "\u0301" * 3_000,
    "q" * 6_000,
    "\U0010ffff\ufeff\u202e",
    "\r\n\t \u3000",
    "न\u200dम" * 200,
    "Rome " * 1_500,
    "question",
    "electra-qa",
]
NAMES = ["top_k", "max_answer_length", "null_score_diff_threshold", "timeout", "classification"]
DOUBLES = [0.0, -0.0, 1.0, 1e-300, 3e38, 1e300, float("inf"), float("-inf"), float("nan")]

_signed = st.sampled_from([*INTEGERS, -1, -(2**31)])
_unsigned = st.sampled_from([*INTEGERS, 2**32 - 1])
_texts = st.sampled_from(STRANGE_TEXTS) | st.text(max_size=60)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: _signed,
    FieldDescriptor.CPPTYPE_INT64: _signed | st.sampled_from([2**63 - 1, -(2**63), 10**12]),
    FieldDescriptor.CPPTYPE_UINT32: _unsigned,
    FieldDescriptor.CPPTYPE_UINT64: _unsigned | st.just(2**64 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: st.sampled_from(DOUBLES),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from(DOUBLES),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.sampled_from([0, 1, 2, 3, -1, 2**31 - 1]),
}


def _scalar(draw: Draw, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=60) | _texts.map(lambda text: text.encode()))
    return draw(SCALARS.get(field.cpp_type, _texts))


def change_a_field(draw: Draw, message: Message) -> None:
    """In place, at any depth."""
    if not message.DESCRIPTOR.fields:
        return
    field = draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        change_a_field(draw, value[draw(st.sampled_from(NAMES) | _texts)])
    elif field.is_repeated:
        if value and draw(st.booleans()):
            del value[draw(st.integers(0, len(value) - 1))]
        elif value and field.message_type is not None:
            change_a_field(draw, value[draw(st.integers(0, len(value) - 1))])
        elif field.message_type is not None:
            change_a_field(draw, value.add())
        else:
            value.extend([_scalar(draw, field)] * draw(st.integers(1, 20)))
    elif field.message_type is not None:
        value.SetInParent()
        change_a_field(draw, value)
    elif draw(st.booleans()):
        setattr(message, field.name, _scalar(draw, field))
    else:
        message.ClearField(field.name)


def _changed_field(draw: Draw, name: str, raw: bytes) -> bytes:
    try:
        message = METHODS[name].request.FromString(raw)
    except DecodeError:
        return raw
    change_a_field(draw, message)
    return message.SerializeToString()


def _changed_bytes(draw: Draw, _: str, raw: bytes) -> bytes:
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 8)))
    return raw[:start] + draw(st.binary(max_size=8)) + raw[end:]


def _cut(draw: Draw, _: str, raw: bytes) -> bytes:
    return raw[: draw(st.integers(0, len(raw)))]


def _doubled(draw: Draw, _: str, raw: bytes) -> bytes:
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, len(raw)))
    return raw[:end] + raw[start:end] * draw(st.integers(1, 4)) + raw[end:]


SEEDS = seeds()
MUTATIONS = [_changed_field, _changed_field, _changed_field, _changed_bytes, _cut, _doubled]
# Of a request, in bytes.
LONGEST = 200_000


@st.composite
def requests(draw: Draw) -> tuple[str, list[bytes]]:
    """The name of a method and its requests: one, or some of a stream's."""
    name, raw = draw(st.sampled_from(SEEDS))
    raws = []
    for _ in range(draw(st.integers(1, 3)) if METHODS[name].many_requests else 1):
        mutated = raw
        for mutation in draw(st.lists(st.sampled_from(MUTATIONS), max_size=5)):
            mutated = mutation(draw, name, mutated)[:LONGEST]
        raws.append(mutated)
    if draw(st.integers(0, 19)) == 0:
        name = draw(st.sampled_from(sorted(METHODS)))
        raws = raws if METHODS[name].many_requests else raws[:1]
    return name, raws
