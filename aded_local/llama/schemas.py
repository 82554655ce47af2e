"""A JSON schema as a grammar: what the answer may be is never more than the schema allows.

The conversion is llama-cpp-python's own (``llama_cpp.llama_grammar``). It skips what it does not know, so the schema is
read first: every keyword is one that the grammar will hold an answer to, or one that demands nothing, or an error. What
is left is written in the words that the converter gets right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from aded_local.errors import GrammarError
from aded_local.llama.gbnf import MOST_REPETITIONS
from aded_local.llama.schema_rules import ANY, ANY_OBJECT, Converter, Schema
from aded_local.shown import one_line

LONGEST_SCHEMA: Final = 1 << 17
"""Characters of a schema at most. Chosen."""

DEEPEST_SCHEMA: Final = 32
"""Schemas within each other at most; OpenAI takes five, and the converter calls itself for each. Chosen."""

MOST_SCHEMAS: Final = 2000
"""Schemas within a schema at most. Chosen."""

MOST_NUMBERS: Final = 256
"""Whole numbers between a minimum and a maximum at most: they are listed."""

MOST_OPTIONAL: Final = 100
"""Properties of an object that may be missing, at most: the converter calls itself for each. Chosen."""


DEMAND_NOTHING: Final = frozenset(
    ("title", "description", "default", "example", "examples", "$schema", "$id", "$anchor", "$comment", "$defs",
     "definitions", "deprecated", "readOnly", "writeOnly", "discriminator", "strict")
)  # fmt: skip
"""Keywords that say something about a value and do not restrict it."""

OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
    "string": frozenset(("minLength", "maxLength", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "number": frozenset(("minimum",)),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""The keywords that restrict a value of each type, as far as a grammar can hold to them."""

UNTYPED: Final = "untyped"
"""Marks a plain schema whose keywords are about one type, and which values of all others fit."""

FORMATS: Final = ("date", "time", "date-time", "uuid")

FIRST_CHARACTERS: Final[Mapping[str, str]] = {
    "object": "{", "array": "[", "string": '"', "integer": "-0123456789", "number": "-0123456789", "boolean": "tf",
    "null": "n",
}  # fmt: skip


def gbnf_of(schema: Mapping[str, Any] | str) -> str:
    """The grammar of a JSON schema; of an empty one, that of any JSON object.

    Args:
        schema: or its JSON text.

    Raises:
        GrammarError: it is no schema, or a grammar cannot hold an answer to it.
    """
    if not isinstance(schema, (str, Mapping)):
        raise GrammarError(f"a JSON schema is an object or its JSON text, not {type(schema).__name__}")
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
    except RecursionError:
        raise GrammarError("the JSON schema is too deep") from None
    except (TypeError, ValueError) as error:
        raise GrammarError(
            f"the JSON schema holds what JSON has no word for: {one_line(str(error))}"
        ) from None
    if len(text) > LONGEST_SCHEMA:
        raise GrammarError(
            f"the JSON schema has {len(text):,} characters; at most {LONGEST_SCHEMA:,} are taken"
        )
    return _converted(text)


@lru_cache(maxsize=64)
def _converted(text: str) -> str:
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise GrammarError("the JSON schema is too deep") from None
    except ValueError as error:
        raise GrammarError(f"the JSON schema is no JSON: {one_line(str(error))}") from None
    if schema == {}:
        return ANY_OBJECT
    reader = _Reader(schema, text)
    plain = reader.read(schema, "#", 0)
    return Converter(reader.definitions).convert(plain)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Reader:
    """Reads a schema and says it again in the words that the converter knows."""

    def __init__(self, whole: Any, text: str) -> None:
        self._whole = whole
        self._count = 0
        self.definitions: dict[str, Schema] = {}
        self._names: dict[str, str] = {}  # of definitions, by their pointer
        # The converter makes rules of properties' names too, and takes a rule of a definition's name for that.
        self._prefix = "ref"
        while self._prefix in text.replace("$ref", ""):
            self._prefix += "x"

    def read(self, schema: Any, path: str, depth: int) -> Schema:
        """The plain form of a schema.

        Args:
            schema: as given.
            path: where it stands, as a JSON pointer.
            depth: schemas around it.
        """
        self._count += 1
        if depth > DEEPEST_SCHEMA or self._count > MOST_SCHEMAS:
            what = (
                f"deeper than {DEEPEST_SCHEMA}" if depth > DEEPEST_SCHEMA else f"of over {MOST_SCHEMAS} parts"
            )
            raise GrammarError(f"JSON schemas {what} are not taken (at {_shown(path)})")
        if schema is True or schema == {}:
            return dict(ANY)
        if not isinstance(schema, dict):
            raise _cannot("this", path, "it is no schema")
        demands = {key: value for key, value in schema.items() if key not in DEMAND_NOTHING}
        if path != "#" and "$id" in schema:
            raise _cannot("$id", path, "it would move what $ref means")
        for key, read in (
            ("$ref", self._reference),
            ("allOf", self._all_of),
            ("anyOf", self._any_of),
            ("oneOf", self._one_of),
        ):
            if key in demands:
                beside = [other for other in demands if other != key]
                if beside:
                    raise _cannot(beside[0], path, f"beside {key} it cannot be held to")
                return read(demands[key], f"{path}/{key}", depth)
        if "const" in demands or "enum" in demands:
            return self._listed(demands, path)
        return self._typed(demands, path, depth)

    def _reference(self, target: Any, path: str, depth: int) -> Schema:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise _cannot(
                "$ref", path.removesuffix("/$ref"), "only parts of the schema itself (#/…) can be meant"
            )
        name = self._names.get(target)
        if name is None:
            name = self._names[target] = f"{self._prefix}{len(self._names)}"
            self.definitions[name] = self.read(self._found(target, path), target, depth + 1)
        return {"$ref": f"#/$defs/{name}"}

    def _found(self, target: str, path: str) -> Any:
        at = self._whole
        for part in unquote(target).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and key.isascii() and key.isdigit() and int(key) < len(at):
                at = at[int(key)]
            elif isinstance(at, dict) and key in at:
                at = at[key]
            else:
                raise _cannot("$ref", path.removesuffix("/$ref"), f"there is no {_shown(target)}")
        return at

    def _all_of(self, parts: Any, path: str, depth: int) -> Schema:
        if not isinstance(parts, list) or len(parts) != 1:
            raise _cannot("allOf", path.removesuffix("/allOf"), "only a list of one schema can be held to")
        return self.read(parts[0], f"{path}/0", depth + 1)

    def _any_of(self, parts: Any, path: str, depth: int) -> Schema:
        if not isinstance(parts, list) or not parts:
            raise _cannot(path.rpartition("/")[2], path.rpartition("/")[0], "it must be a list of schemas")
        return {"anyOf": [self.read(part, f"{path}/{i}", depth + 1) for i, part in enumerate(parts)]}

    def _one_of(self, parts: Any, path: str, depth: int) -> Schema:
        found = self._any_of(parts, path, depth)
        read = found["anyOf"]
        if not all(self._are_apart(a, b) for i, a in enumerate(read) for b in read[:i]):
            why = (
                "a value might fit two of its schemas, by type and by properties with fixed values; use anyOf"
            )
            raise _cannot("oneOf", path.removesuffix("/oneOf"), why)
        return found

    def _are_apart(self, a: Schema, b: Schema) -> bool:
        """Whether no value that is written for one of them can fit the other, as far as that is easy to see."""
        a, b = (self.definitions.get(s["$ref"].rpartition("/")[2], ANY) if "$ref" in s else s for s in (a, b))
        if not (_written(a) & _fitting(b) or _written(b) & _fitting(a)):
            return True
        if "enum" in a and "enum" in b:
            return not any(one == other for one in a["enum"] for other in b["enum"])
        if not (_written(a) == _written(b) == {"{"}):
            return False
        return any(
            "enum" in a["properties"][name]
            and "enum" in b.get("properties", {}).get(name, {})
            and self._are_apart(a["properties"][name], b["properties"][name])
            for name in set(a.get("required", ())) & set(b.get("required", ()))
        )

    def _listed(self, demands: Schema, path: str) -> Schema:
        values = [demands["const"]] if "const" in demands else demands["enum"]
        if not isinstance(values, list) or not values:
            raise _cannot("enum", path, "it must be a list of values")
        for key in demands:
            if key not in ("const", "enum", "type"):
                raise _cannot(key, path, "beside enum it cannot be held to")
        if "const" in demands and "enum" in demands:
            values = [value for value in demands["enum"] if json.dumps(value) == json.dumps(demands["const"])]
        if "type" in demands:
            types = self._types(demands["type"], path)
            values = [value for value in values if any(_is_of_type(value, one) for one in types)]
        if not values:
            raise _cannot("enum", path, "none of its values is of the type that is asked for")
        return {"enum": values}

    def _types(self, given: Any, path: str) -> list[str]:
        types = given if isinstance(given, list) else [given]
        if not types or not all(isinstance(one, str) and one in OF_TYPE for one in types):
            raise _cannot("type", path, f"it must be one of {', '.join(OF_TYPE)}, or a list of them")
        return types

    def _typed(self, demands: Schema, path: str, depth: int) -> Schema:
        if "type" in demands:
            types = self._types(demands["type"], path)
        else:
            # A value of another type would fit as well; the grammar may be narrower.
            types = [one for one in ("object", "array", "string") if OF_TYPE[one] & demands.keys()][:1]
        known = frozenset(("type",)).union(*(OF_TYPE[one] for one in types))
        for key in demands:
            if key not in known:
                raise _cannot(key, path, "there is no way yet to hold an answer to it")
        if not types:
            return dict(ANY)
        found = []
        for one in types:
            own = {key: value for key, value in demands.items() if key in OF_TYPE[one]}
            plain = getattr(self, f"_{one}")(own, path, depth)
            found.append(plain if "type" in demands else {**plain, UNTYPED: True})
        return found[0] if len(found) == 1 else {"anyOf": found}

    # --- one type each -----------------------------------------------------------------------------

    def _object(self, own: Schema, path: str, depth: int) -> Schema:
        properties, required = own.get("properties", {}), own.get("required", [])
        if not isinstance(properties, dict):
            raise _cannot("properties", path, "it must be an object of schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _cannot("required", path, "it must be a list of names")
        others = own.get("additionalProperties", True)
        missing = [name for name in required if name not in properties]
        if missing and others is False:
            raise _cannot("required", path, f"no property may be called {one_line(missing[0])[:40]!r}")
        read = {
            name: self.read(schema, f"{path}/properties/{_escaped(name)}", depth + 1)
            for name, schema in properties.items()
        }
        # What is required and not described may be anything that other properties may be.
        for name in missing:
            read[name] = self.read(others, f"{path}/additionalProperties", depth + 1)
        if len(read) - len(set(required)) > MOST_OPTIONAL:
            raise _cannot("properties", path, f"at most {MOST_OPTIONAL} can be left out; require the others")
        if read or others is False:
            # No other properties are written: they might repeat one of these.
            return {"type": "object", "properties": read, "required": required, "additionalProperties": False}
        value = self.read(others, f"{path}/additionalProperties", depth + 1)
        return {"type": "object"} if value == ANY else {"type": "object", "additionalProperties": value}

    def _array(self, own: Schema, path: str, depth: int) -> Schema:
        if own.get("uniqueItems") not in (None, False):
            raise _cannot("uniqueItems", path, "a grammar does not remember what was written")
        least, most = (_count(own, key, path) for key in ("minItems", "maxItems"))
        if most is not None and (least or 0) > most:
            raise _cannot("maxItems", path, "it is less than minItems")
        first, items = own.get("prefixItems"), own.get("items", True)
        if isinstance(items, list):  # as it was written before 2020
            first, items = items, True
        if first is None:
            found: Schema = {"type": "array", "items": dict(ANY)}
            if items is not False:
                found["items"] = self.read(items, f"{path}/items", depth + 1)
            elif least:
                raise _cannot("items", path, "no items are allowed, and minItems asks for some")
            else:
                most = 0
            return {**found, "minItems": least or 0, "maxItems": most}
        if not isinstance(first, list) or not first:
            raise _cannot("prefixItems", path, "it must be a list of schemas")
        if (least or 0) > len(first) or (most is not None and most < len(first)):
            raise _cannot(
                "prefixItems", path, "beside minItems and maxItems that differ it cannot be held to"
            )
        return {
            "type": "array",
            "prefixItems": [
                self.read(schema, f"{path}/prefixItems/{i}", depth + 1) for i, schema in enumerate(first)
            ],
        }

    def _string(self, own: Schema, path: str, depth: int) -> Schema:
        least, most = (_count(own, key, path) for key in ("minLength", "maxLength"))
        if most is not None and (least or 0) > most:
            raise _cannot("maxLength", path, "it is less than minLength")
        if "format" in own:
            if own["format"] not in FORMATS:
                raise _cannot("format", path, f"of the formats, {', '.join(FORMATS)} can be held to")
            if least is not None or most is not None:
                raise _cannot("format", path, "beside a length it cannot be held to")
            return {"type": "string", "format": own["format"]}
        if least is None and most is None:
            return {"type": "string"}
        return {"type": "string", "minLength": least or 0, "maxLength": most}

    def _integer(self, own: Schema, path: str, depth: int) -> Schema:
        if not own:
            return {"type": "integer"}
        for key, value in own.items():
            if not _is_of_type(value, "integer"):
                raise _cannot(key, path, "it must be a whole number")
        lows = [int(own[key]) + add for key, add in (("minimum", 0), ("exclusiveMinimum", 1)) if key in own]
        highs = [
            int(own[key]) - less for key, less in (("maximum", 0), ("exclusiveMaximum", 1)) if key in own
        ]
        low, high = max(lows, default=None), min(highs, default=None)
        if low is not None and high is None and low in (0, 1):
            return {"type": "integer", "minimum": low}
        if low is not None and high is not None and low > high:
            raise _cannot(next(iter(own)), path, f"no whole number is at least {low} and at most {high}")
        if low is None or high is None or high - low >= MOST_NUMBERS:
            why = f"whole numbers can be held to 0 or 1 at least, or to a range of at most {MOST_NUMBERS}"
            raise _cannot(next(iter(own)), path, why)
        return {"enum": list(range(low, high + 1))}

    def _number(self, own: Schema, path: str, depth: int) -> Schema:
        if own and own["minimum"] != 0:
            raise _cannot("minimum", path, "numbers can be held to a minimum of 0 only")
        return {"type": "number", **own}

    def _boolean(self, own: Schema, path: str, depth: int) -> Schema:
        return {"type": "boolean"}

    def _null(self, own: Schema, path: str, depth: int) -> Schema:
        return {"type": "null"}


def _written(schema: Schema) -> set[str]:
    """The first characters of what is written for a plain schema."""
    if "enum" in schema:
        return {json.dumps(value)[0] for value in schema["enum"]}
    return set(FIRST_CHARACTERS.get(schema.get("type", "any"), "".join(FIRST_CHARACTERS.values())))


def _fitting(schema: Schema) -> set[str]:
    """The first characters of what fits it."""
    return _written(ANY if UNTYPED in schema else schema)


def _cannot(keyword: str, path: str, why: str) -> GrammarError:
    return GrammarError(
        f"the JSON schema cannot be converted: {one_line(keyword)[:40]!r} at {_shown(path)}: {why}"
    )


def _shown(path: str) -> str:
    shown = one_line(path)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _count(own: Schema, key: str, path: str) -> int | None:
    value = own.get(key)
    if value is None:
        return None
    if not _is_of_type(value, "integer") or value < 0:
        raise _cannot(key, path, "it must be a whole number, 0 or more")
    if value > MOST_REPETITIONS:
        raise _cannot(key, path, f"llama.cpp's grammars count to {MOST_REPETITIONS} at most")
    return int(value)


def _is_of_type(value: Any, kind: str) -> bool:
    if value is None:
        return kind == "null"
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, (int, float)):
        return kind == "number" or (kind == "integer" and (isinstance(value, int) or value.is_integer()))
    return kind == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object")
