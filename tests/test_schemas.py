"""JSON schemas: what is written is always valid, and what cannot be held to is refused by name."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import SCHEMAS

from aded_local.errors import GrammarError
from aded_local.llama.gbnf import check
from aded_local.llama.grammar import Grammar, Pieces
from aded_local.llama.model import Model
from aded_local.llama.schemas import gbnf_of

REFUSED = {
    "pattern": ({"type": "string", "pattern": "^a$"}, "'pattern' at #"),
    "format": ({"type": "string", "format": "email"}, "'format' at #"),
    "number's maximum": ({"type": "number", "maximum": 3}, "'maximum' at #"),
    "minimum": ({"properties": {"a": {"type": "integer", "minimum": 7}}}, "'minimum' at #/properties/a"),
    "wide range": ({"type": "integer", "minimum": 0, "maximum": 10**9}, "'minimum' at #"),
    "no number": ({"type": "integer", "minimum": 5, "maximum": 1}, "at least 5 and at most 1"),
    "multipleOf": ({"type": "integer", "multipleOf": 3}, "'multipleOf' at #"),
    "uniqueItems": ({"type": "array", "items": {}, "uniqueItems": True}, "'uniqueItems' at #"),
    "contains": ({"type": "array", "contains": {"type": "null"}}, "'contains' at #"),
    "not": ({"not": {"type": "null"}}, "'not' at #"),
    "if": ({"type": "object", "if": {}, "then": {}}, "'if' at #"),
    "allOf": ({"allOf": [{"type": "object"}, {"required": ["a"]}]}, "'allOf' at #"),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "'oneOf' at #"),
    "oneOf without a type": ({"oneOf": [{"properties": {"a": {}}}, {"type": "null"}]}, "'oneOf' at #"),
    "oneOf of equal numbers": ({"oneOf": [{"enum": [1]}, {"enum": [1.0]}]}, "'oneOf' at #"),
    "patternProperties": ({"type": "object", "patternProperties": {}}, "'patternProperties' at #"),
    "minProperties": ({"type": "object", "minProperties": 1}, "'minProperties' at #"),
    "dependentRequired": ({"type": "object", "dependentRequired": {}}, "'dependentRequired' at #"),
    "propertyNames": ({"type": "object", "propertyNames": {}}, "'propertyNames' at #"),
    "misspelt": ({"type": "string", "maxLenght": 4}, "'maxLenght' at #"),
    "remote": ({"$ref": "https://example.org/a.json"}, r"'\$ref' at #"),
    "nowhere": ({"$ref": "#/$defs/a"}, r"'\$ref' at #"),
    "beside a reference": ({"$ref": "#/$defs/a", "$defs": {"a": {}}, "maxLength": 3}, "'maxLength' at #"),
    "beside anyOf": ({"type": "string", "anyOf": [{"type": "string"}]}, "'type' at #"),
    "beside enum": ({"enum": ["a"], "minLength": 2}, "'minLength' at #"),
    "enum of another type": ({"enum": [1], "type": "string"}, "'enum' at #"),
    "no values": ({"enum": []}, "'enum' at #"),
    "type": ({"type": "str"}, "'type' at #"),
    "length": ({"type": "string", "maxLength": 5000}, "'maxLength' at #"),
    "negative": ({"type": "string", "minLength": -1}, "'minLength' at #"),
    "turned round": ({"type": "array", "minItems": 3, "maxItems": 2}, "'maxItems' at #"),
    "required and forbidden": (
        {"type": "object", "required": ["a"], "additionalProperties": False},
        "'required' at #",
    ),
    "false": ({"properties": {"a/b": False}}, "'this' at #/properties/a~1b"),
    "deep": (json.loads('{"items":' * 200 + "{}" + "}" * 200), "deeper"),
}


@pytest.mark.parametrize(("schema", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_to_is_refused_by_keyword_and_path(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(GrammarError, match=said) as caught:
        gbnf_of(schema)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "[",
        "[1]",
        '"a"',
        "NaN",
        '{"const": NaN}',
        "{" * 100_000,
        {"const": {1, 2}},
        {"a": float("nan")},
        3,
    ],
)
def test_what_is_no_schema_is_refused_in_one_line(schema: Any) -> None:
    with pytest.raises(GrammarError) as caught:
        gbnf_of(schema)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


class Writer:
    """Writes texts that a grammar allows, byte by byte."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.pieces = Pieces.of(model)
        self.known = self.pieces.bytes_[self.pieces.bytes_ >= 0]

    def write(self, grammar: str, seed: int, longest: int = 1500) -> str:
        """A random text; whatever may end ends once it has some length."""
        rng = random.Random(seed)
        state = Grammar.of(self.model, gbnf=grammar).state()
        text = b""
        while len(text) < longest:
            if state.is_complete and (rng.random() < 0.5 or len(text) > 200):
                return text.decode()
            allowed = self.known[state.allowed(self.known)]
            if not len(allowed):
                return text.decode()
            ways = {self.model.piece(int(token)): int(token) for token in allowed}
            ending = [byte for byte in ways if byte in b'"]}']
            byte = rng.choice(ending if ending and rng.random() < 0.4 else sorted(ways))
            state.accept(ways[byte])
            text += byte
        pytest.skip("a long text")


@pytest.fixture(scope="module")
def writer(tiny: dict[str, Path]) -> Writer:
    return Writer(Model(tiny["llama"]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCHEMAS, st.integers(0, 1000))
def test_whatever_the_grammar_allows_is_valid(writer: Writer, schema: dict[str, Any], seed: int) -> None:
    text = writer.write(gbnf_of(schema), seed)
    checker = jsonschema.FormatChecker(["date"])
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=checker)


TREE = {
    "$ref": "#/$defs/string",
    "$defs": {
        "string": {
            "type": "object",
            "properties": {"string": {"type": "string", "maxLength": 3}, "below": {"$ref": "#/$defs/list"}},
            "required": ["string", "below"],
        },
        "list": {"type": "array", "items": {"$ref": "#/$defs/string"}, "maxItems": 1},
    },
}

SHAPES = {
    "any object": {},
    "any value": {"properties": {"a": True}, "required": ["a"]},
    "references, one called as a rule": TREE,
    "two of one name": {
        "properties": {"a": {"$ref": "#/x/n"}, "b": {"$ref": "#/y/n"}},
        "required": ["a", "b"],
        "$comment": "x and y lie outside $defs",
    },
    "one of": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "a"}, "x": {"type": "null"}},
                "required": ["kind", "x"],
            },
            {
                "type": "object",
                "properties": {"kind": {"const": "b"}, "y": {"type": "null"}},
                "required": ["kind", "y"],
            },
            {"type": "null"},
        ]
    },
    "all of one": {"allOf": [{"type": "boolean"}]},
    "optional": {"properties": {name: {"type": "null"} for name in "abc"}},
    "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 3}},
    "no items": {"type": "array", "items": False},
    "old tuple": {"type": "array", "items": [{"type": "null"}, {"type": "boolean"}]},
    "types": {"type": ["string", "null"], "maxLength": 2},
    "described": {"title": "T", "description": "D", "default": 1, "type": "boolean", "examples": [True]},
    "names not described": {"required": ["a"], "properties": {}},
}


@pytest.mark.parametrize("schema", SHAPES.values(), ids=SHAPES)
def test_shapes(writer: Writer, schema: dict[str, Any]) -> None:
    whole = dict(schema)
    if "$comment" in whole:
        del whole["$comment"]
        whole |= {"definitions": {"x": {"n": {"type": "null"}}, "y": {"n": {"type": "boolean"}}}}
        text_ = json.dumps(whole).replace("#/x/", "#/definitions/x/").replace("#/y/", "#/definitions/y/")
        whole = json.loads(text_)
    for seed in range(12):
        text = writer.write(gbnf_of(whole), seed)
        version = jsonschema.Draft7Validator if isinstance(whole.get("items"), list) else None
        jsonschema.validate(json.loads(text), whole, version)


def test_letters_are_written_as_they_are(writer: Writer) -> None:
    assert json.loads(writer.write(gbnf_of({"const": 'Käse \\ "x" 😀'}), 0)) == 'Käse \\ "x" 😀'
    assert "Käse" in gbnf_of({"const": "Käse"})


def test_a_schema_may_be_text(writer: Writer) -> None:
    assert gbnf_of('{"type": "boolean"}') == gbnf_of({"type": "boolean"})


def test_a_large_schema_is_no_large_grammar() -> None:
    large = {"properties": {f"p{i}": {"type": "string", "maxLength": 500} for i in range(100)}}
    check(gbnf_of(large))


def test_days_are_days(writer: Writer) -> None:
    grammar = gbnf_of({"type": "string", "format": "date"})
    state = Grammar.of(writer.model, gbnf=grammar).state()
    for byte in b'"2023-02-2':
        state.accept(int(writer.pieces.bytes_[byte]))
    nine, eight = (np.array([writer.pieces.bytes_[ord(digit)]], np.int32) for digit in "98")
    assert state.allowed(eight).all() and not state.allowed(nine).any()
