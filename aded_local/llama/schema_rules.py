"""llama-cpp-python's own converter of JSON schemas to grammars, with what it gets wrong put right.

It takes schemas as ``schemas`` writes them again. Its rules are those of llama-cpp-python, save for: characters of a
string, where JSON has no line ends; days that there are not; literals with a backslash or with letters beyond ASCII;
numbers of characters and of items, for which it puts brackets within brackets; and any value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from llama_cpp.llama_grammar import JSON_GBNF, PRIMITIVE_RULES, RESERVED_NAMES, SchemaConverter

Schema = dict[str, Any]

ANY_OBJECT: Final[str] = JSON_GBNF
"""llama-cpp-python's grammar of any JSON object."""

ANY: Final[Schema] = {"type": "any"}
"""Any JSON value, to the converter below."""

CHARACTER: Final = (
    r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" '
    r"([0-9abcefABCEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))"
)
"""A character of a JSON string. The converter's own lets line ends through, which JSON does not, and halves of a
character (surrogates)."""

DATE: Final = (
    '[0-9]{4} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01]) | '
    '("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])) | '
    '[0-9]{2} ("0" [48] | [2468] [048] | [13579] [26]) "-02-29"'
)
"""A day that there is; the converter's own has 30 February. (29 February 2000 is left out.)"""

WHOLE: Final = "answer"
"""The rule of the whole schema."""

DIGITS: Final = "[0-9]{0,15}"


class Converter(SchemaConverter):
    """llama-cpp-python's converter, with what it gets wrong put right."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._refs = {f"#/$defs/{name}": schema for name, schema in definitions.items()}

    def convert(self, schema: Schema) -> str:
        """The grammar of a plain schema."""
        # Under a name of its own: a property without a name would be taken for the whole.
        self._rules["root"] = self.visit(schema, WHOLE)
        for name, rule in (("char", CHARACTER), ("date", DATE)):
            if name in self._rules:
                self._rules[name] = rule
        text: str = self.format_grammar()
        return text

    def _format_literal(self, literal: str) -> str:
        # It leaves backslashes alone, and spells letters beyond ASCII as escapes that no model would write.
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        quoted = _quoted(re.sub("[\ud800-\udfff\x7f]", _escape, text))
        # A vocabulary may lack the bytes of rare characters, and has those of their escapes.
        return re.sub(
            "[\U00010000-\U0010ffff]", lambda rare: f'" ("{rare[0]}" | {_quoted(_escape(rare))}) "', quoted
        )

    def visit(self, schema: Schema, name: str) -> str:
        """The name of the rule of a schema."""
        rule_name = f"{name}-" if name in RESERVED_NAMES else name
        kind = schema.get("type")
        if kind == "any":
            return self._rule(rule_name, self._needed("value"))
        if kind == "string" and "maxLength" in schema:
            least, most = schema["minLength"], schema["maxLength"]
            shared = f"string-{least}-{most}"  # one for all of them: it is written out for each character
            return self._rule(shared, rf'"\"" {self._needed("char")}{_times(least, most)} "\"" space')
        if kind == "array" and "maxItems" in schema:
            return self._rule(rule_name, f'"[" space {self._items(schema, name)}"]" space')
        if kind in ("integer", "number") and "minimum" in schema:
            self._needed(kind)
            if kind == "number":
                rule = 'integral-part ("." decimal-part)? ([eE] [-+]? integral-part)? space'
            else:
                rule = f"[1-9] {DIGITS} space" if schema["minimum"] == 1 else "integral-part space"
            return self._rule(rule_name, rule)
        found: str = super().visit(schema, name)
        return found

    def _items(self, schema: Schema, name: str) -> str:
        least, most = schema["minItems"], schema["maxItems"]
        if most == 0:
            return ""
        item = self.visit(schema["items"], f"{name}-item")
        more = f'("," space {item})' + _times(max(0, least - 1), None if most is None else most - 1)
        return f"{item} {more} " if least else f"({item} {more})? "

    def _rule(self, name: str, rule: str) -> str:
        found: str = self._add_rule(name, rule)
        return found

    def _needed(self, primitive: str) -> str:
        found: str = self._add_primitive(primitive, PRIMITIVE_RULES[primitive])
        return found


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _quoted(text: str) -> str:
    """A literal of a grammar."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]
