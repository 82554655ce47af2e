"""Random JSON schemas that can be converted, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(
    [
        "name",
        "age",
        "a b",
        'say "hi"',
        "straße",
        "back\\slash",
        "string",
        "char",
        "root",
        "value",
        "item",
        "line\nend",
        "😀",
        "$ref",
        "",
    ]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=6), st.lists(st.integers(0, 3), max_size=2)
)


def _string() -> st.SearchStrategy[dict[str, Any]]:
    lengths = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
        lambda pair: {"type": "string", "minLength": min(pair), "maxLength": max(pair)}
    )
    formats = st.sampled_from(["date", "time", "date-time", "uuid"]).map(
        lambda f: {"type": "string", "format": f}
    )
    return st.one_of(st.just({"type": "string"}), lengths, formats)


def _number() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.sampled_from(
            [
                {"type": "integer"},
                {"type": "number"},
                {"type": "integer", "minimum": 0},
                {"type": "integer", "minimum": 1},
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "number", "minimum": 0},
            ]
        ),
        st.tuples(st.integers(-20, 20), st.integers(0, 30)).map(
            lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
        ),
    )


def _object(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, inner, max_size=4))
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if properties:
            schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
        if draw(st.booleans()):
            schema["additionalProperties"] = draw(st.one_of(st.booleans(), inner))
        return schema

    return build()


def _array(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    lengths = st.tuples(st.integers(0, 3), st.integers(0, 3))
    lists = st.tuples(inner, lengths).map(
        lambda pair: {"type": "array", "items": pair[0], "minItems": min(pair[1]), "maxItems": max(pair[1])}
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(lambda each: {"type": "array", "prefixItems": each})
    return st.one_of(lists, tuples)


SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.one_of(
        _string(),
        _number(),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]),
        st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
        VALUES.map(lambda value: {"const": value}),
    ),
    lambda inner: st.one_of(
        _object(inner),
        _array(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}),
    ),
    max_leaves=8,
)
"""Schemas of most kinds that a grammar can hold an answer to."""
