"""Grammars: bad texts are refused before llama.cpp sees them, and what an answer may be is what the grammar says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import vocabularies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.errors import GrammarError
from aded_local.llama.gbnf import check
from aded_local.llama.grammar import Grammar, GrammarState, Pieces
from aded_local.llama.model import Model
from aded_local.llama.readings import LAST_CHARACTER, Characters
from aded_local.llama.schema_rules import ANY_OBJECT
from aded_local.llama.vocabulary import Vocabulary
from aded_local.trials import trial

LIST = 'root ::= item+\nitem ::= "- " [^\\n]+ "\\n"\n'

HOSTILE = {
    "empty": "",
    "only space": " \n\t # a comment\n",
    "no root": 'answer ::= "a"',
    "no arrow": 'root "a"',
    "half an arrow": 'root := "a"',
    "undefined": "root ::= a b",
    "open quote": 'root ::= "a',
    "open bracket": "root ::= [a-z",
    "open parenthesis": 'root ::= ("a" | ("b"',
    "closed twice": 'root ::= ("a"))',
    "nothing in a class": "root ::= []",
    "backwards": "root ::= [z-a]",
    "unknown escape": r'root ::= "\q"',
    "half an escape": r'root ::= "\u12"',
    "no character": r'root ::= "\UFFFFFFFF"',
    "nothing repeated": "root ::= * ",
    "repeated nothing": 'root ::= ""*',
    "a million times": 'root ::= "a"{1000000}',
    "no number": 'root ::= "a"{}',
    "a long number": 'root ::= "a"{' + "9" * 5000 + "}",
    "backwards times": 'root ::= "a"{5,2}',
    "repetitions within each other": 'root ::= ("a"{1,100}){1,100}',
    "a long item often": 'root ::= "' + "abcdefghij" * 100 + '"{2000}',
    "left recursion": 'root ::= root "a" | "b"',
    "left recursion by two": 'root ::= a "x" | "y"\na ::= root "z"',
    "left recursion behind the empty": 'root ::= b root "x" | "y"\nb ::= c\nc ::= "" | "q"',
    "deep": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
    "readings at once": "\n".join(
        ["root ::= a0", *(f'a{i} ::= a{i + 1} | a{i + 1} "x"' for i in range(60)), 'a60 ::= "y"']
    ),
    "readings that double": 'root ::= s\ns ::= "a" s p | "a" s q | "a"\np ::= "p"\nq ::= "q"',
    "NUL": 'root ::= "a\0b"',
    "half a character": 'root ::= "\ud800"',
    "a token": "root ::= <|im_start|>",
    "a token's number": "root ::= <[1]>",
    "any other token": "root ::= !<[1]>",
    "long": "root ::= " + '"a" ' * 100_000,
    "JSON": '{"type": "object"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_bad_grammar_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(GrammarError) as caught:
        check(text)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 200


def test_the_line_is_named() -> None:
    with pytest.raises(GrammarError, match="line 3"):
        check('root ::= a\n# of a\na ::= "b" ]\n')


@pytest.mark.parametrize("name", ["ARITHMETIC", "C", "JAPANESE", "JSON_ARR", "JSON", "LIST"])
def test_grammars_of_llama_cpp_are_taken(name: str) -> None:
    from llama_cpp import llama_grammar

    check(getattr(llama_grammar, f"{name}_GBNF"))


@pytest.mark.parametrize(
    "text",
    [
        'root ::= ws* "a"\nws ::= [ \\t]*',
        'root ::= "a"?',
        "root ::= .",
        'root ::= ("a" | "b"){2,5} [^\\x00-\\x1F]',
    ],
)
def test_what_llama_cpp_follows_is_taken(text: str, vocabulary: Model) -> None:
    Grammar.of(vocabulary, gbnf=text)


def test_what_llama_cpp_alone_refuses_is_refused_in_one_line(vocabulary: Model) -> None:
    with pytest.raises(GrammarError, match="left recursion") as caught:
        Grammar.of(vocabulary, gbnf="root ::= root")
    assert str(caught.value).isprintable()


@pytest.fixture(scope="module")
def vocabulary(tiny: dict[str, Path]) -> Model:
    return Model(tiny["llama"])


PARTS = st.recursive(
    st.sampled_from(['"a"', '"bc"', "[a-c]", "[^x]", ".", "one", "two", '""']),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: "(" + " | ".join(each) + ")"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "{1,}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PARTS, PARTS, PARTS)
def test_what_is_taken_llama_cpp_reads_and_follows(
    vocabulary: Model, capfd: pytest.CaptureFixture[str], root: str, one: str, two: str
) -> None:
    try:
        grammar = Grammar.of(vocabulary, gbnf=f"root ::= {root}\none ::= {one}\ntwo ::= {two}\n")
    except GrammarError:
        return
    finally:
        # llama.cpp writes what it cannot read to standard error, past its own log.
        assert "error parsing grammar" not in capfd.readouterr().err
    state = grammar.state()
    every = np.arange(vocabulary.n_vocab, dtype=np.int32)
    for turn in range(12):
        allowed = np.flatnonzero(state.allowed(every))
        if not len(allowed) or vocabulary.is_end(int(allowed[turn % len(allowed)])):
            break
        state.accept(int(allowed[turn % len(allowed)]))


UNCHECKED = """
import sys
from pathlib import Path
from aded_local.llama import grammar
from aded_local.llama.model import Model
grammar.check = lambda text: None
model = Model(Path(sys.argv[1]))
try:
    state = grammar.Grammar.of(model, gbnf=sys.argv[2]).state()
    for _ in range(8):
        state.accept(model.tokenize("aaaa", add_special=False, parse_special=False)[-1])
except grammar.GrammarError:
    pass
"""


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF)), min_size=1, max_size=5),
    st.integers(0, 1 << 16),
)
def test_an_example_fits_its_class(ends: list[tuple[int, int]], turn: int) -> None:
    for negated in (False, True):
        found = Characters(tuple((min(pair), max(pair)) for pair in ends), negated)
        example = found.example(turn)
        assert found.hold(example) or (negated and example > LAST_CHARACTER)


def test_a_class_of_nothing_is_checked_at_once() -> None:
    calls = 0
    hold = Characters.hold

    def counted(self: Characters, character: int) -> bool:
        nonlocal calls
        calls += 1
        return hold(self, character)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Characters, "hold", counted)
        check('root ::= ("a" | [^\\x00-\\U0010FFFF]) root')
    assert calls < 10_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["left recursion behind the empty", "readings at once"])
def test_llama_cpp_would_not_survive_these(kind: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    # If it does some day, the check can go.
    program = tmp_path / "unchecked.py"
    program.write_text(UNCHECKED)
    outcome = trial.run(program, [str(tiny["llama"]), HOSTILE[kind]], limit=8, memory=1 << 30)
    assert outcome.ending in (trial.Ending.DIED, trial.Ending.HUNG, trial.Ending.FAILED)


# --- states --------------------------------------------------------------------------------------------


def spelt(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=False, parse_special=False)


@pytest.fixture(scope="module", params=["qwen2", "llama-spm"])
def real(request: pytest.FixtureRequest) -> Iterator[Model]:
    yield Vocabulary(vocabularies.path_of(request.param))


def after(grammar: Grammar, text: str) -> GrammarState:
    state = grammar.state()
    pieces = Pieces.of(grammar.model)
    for byte in text.encode():
        state.accept(int(pieces.bytes_[byte]))
    return state


def test_a_token_that_is_not_allowed_is_not_accepted(real: Model) -> None:
    state = Grammar.of(real, gbnf='root ::= "yes" | "no"').state()
    a = int(Pieces.of(real).bytes_[ord("a")])
    assert not state.allows(a)
    with pytest.raises(GrammarError):
        state.accept(a)
    with pytest.raises(GrammarError):
        state.accept(real.eos)  # llama.cpp ends the process here
    state.accept(int(Pieces.of(real).bytes_[ord("y")]))


def test_an_answer_ends_where_the_grammar_does(real: Model) -> None:
    grammar = Grammar.of(real, gbnf='root ::= "ab" "c"?')
    assert not after(grammar, "a").is_complete
    state = after(grammar, "ab")
    assert state.is_complete and state.allows(real.eos)
    every = np.arange(real.n_vocab, dtype=np.int32)
    last = set(np.flatnonzero(after(grammar, "abc").allowed(every)).tolist())
    assert last == set(real.end_tokens)


def test_a_clone_goes_its_own_way(real: Model) -> None:
    state = after(Grammar.of(real, gbnf='root ::= "ab" | "ac"'), "a")
    other = state.clone()
    b, c = (int(Pieces.of(real).bytes_[ord(char)]) for char in "bc")
    other.accept(b)
    assert not other.allows(c)
    assert state.allows(c)


def test_control_tokens_are_no_text(real: Model) -> None:
    every = np.arange(real.n_vocab, dtype=np.int32)
    allowed = np.flatnonzero(Grammar.of(real, gbnf="root ::= .*").state().allowed(every))
    assert not (set(allowed.tolist()) & real.control_tokens) - real.end_tokens


@pytest.mark.parametrize("text", ["", '{"', '{"a', '{"a": ', '{"a": 1', '{"é', '{"a": "\\', '{"a": [true, '])
def test_many_tokens_are_judged_as_one_is(real: Model, text: str) -> None:
    state = after(Grammar.of(real, gbnf=ANY_OBJECT), text)
    every = np.arange(real.n_vocab, dtype=np.int32)
    allowed = state.allowed(every)
    rng = np.random.default_rng(0)
    some = np.concatenate([rng.choice(np.flatnonzero(allowed), 60), rng.choice(every, 400)])
    assert [state.allows(int(token)) for token in some] == allowed[some].tolist()


def test_a_character_may_come_in_halves(real: Model) -> None:
    grammar = Grammar.of(real, gbnf='root ::= "é" | "ß"')
    first, second = (int(Pieces.of(real).bytes_[byte]) for byte in "é".encode())
    state = grammar.state()
    state.accept(first)
    assert not state.is_complete
    state.accept(second)
    assert state.is_complete


@pytest.mark.parametrize(
    "raw", [b"\xff", b"\xc0", b"\x80", b"\xe0\x80", b"\xed\xa0", b"\xf0\x8f", b"\xf4\x90", b"\xc3a"]
)
def test_what_is_no_utf_8_is_no_text(real: Model, raw: bytes) -> None:
    state = Grammar.of(real, gbnf="root ::= .*").state()
    known = Pieces.of(real).bytes_
    taken = [known[byte] >= 0 and state.takes(int(known[byte])) for byte in raw]
    assert not all(taken)


def test_an_answer_does_not_end_within_a_character(real: Model) -> None:
    state = Grammar.of(real, gbnf="root ::= .*").state()
    assert state.is_complete
    state.accept(int(Pieces.of(real).bytes_[0xC3]))
    assert not state.is_complete


def test_one_of_grammar_and_schema(vocabulary: Model) -> None:
    for given_ in ({}, {"gbnf": LIST, "schema": {}}):
        with pytest.raises(GrammarError):
            Grammar.of(vocabulary, **given_)  # type: ignore[arg-type]
