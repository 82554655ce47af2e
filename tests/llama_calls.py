"""Calls that programs make on ``llama_cpp.Llama``, to be made on ours as well: each takes the object and returns what
there is to compare. All are greedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# Before llama_cpp: it bounds how long waiting threads spin, which beside other programs is most of the time.
import aded_local.llama  # noqa: F401

# isort: split
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList

Call = Callable[[Any], Any]

GREEDY: dict[str, Any] = {"temperature": 0.0}
TALE = "Once upon a time, in a small village by the sea,"
LIST = "The days of the week are:\n1. Monday\n2."
CHAT = [{"role": "user", "content": "Name three colours of the rainbow, one on each line."}]
HISTORY = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "And of Italy?"},
]
WRITTEN_OUT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather at a place",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
TOOL = {"type": "function", "function": WEATHER}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
YES_OR_NO = LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False)


def complete(prompt: Any = TALE, **options: Any) -> Call:
    """A completion, or its chunks."""

    def call(llm: Any) -> Any:
        found = llm.create_completion(prompt(llm) if callable(prompt) else prompt, **GREEDY | options)
        return list(found) if options.get("stream") else found

    return call


def chat(messages: Any = CHAT, **options: Any) -> Call:
    """A chat's answer, or its chunks."""

    def call(llm: Any) -> Any:
        found = llm.create_chat_completion(messages, **GREEDY | {"max_tokens": 12} | options)
        return list(found) if options.get("stream") else found

    return call


def with_text(call: Call) -> Call:
    """The chunks that say something: llama-cpp-python sends an empty one where a stop text begins."""

    def made(llm: Any) -> Any:
        choices = [(chunk, chunk["choices"][0]) for chunk in call(llm)]
        return [chunk for chunk, choice in choices if choice["text"] or choice["finish_reason"]]

    return made


def tale_tokens(llm: Any) -> list[int]:
    return llm.tokenize(TALE.encode())


def nearly_full(llm: Any) -> list[int]:
    """A prompt that leaves room for five tokens."""
    return (tale_tokens(llm) * 200)[: llm.n_ctx() - 5]


def never(word: bytes) -> Call:
    """A completion in which a word's token is forbidden by a function."""

    def call(llm: Any) -> Any:
        token = llm.tokenize(word, add_bos=False)[0]

        def forbid(input_ids: Any, scores: Any) -> Any:
            changed = np.copy(scores)
            changed[token] = -np.inf
            return changed

        return complete(max_tokens=12, logits_processor=LogitsProcessorList([forbid]))(llm)

    return call


def biased(llm: Any) -> Any:
    token = llm.tokenize(b" village", add_bos=False)[0]
    return complete(max_tokens=12, logit_bias={token: 8.0})(llm)


def biased_chat(llm: Any) -> Any:
    token = llm.tokenize(b"Red", add_bos=False)[0]
    return chat(logit_bias={str(token): -100.0})(llm)


def ends_after_thirty(llm: Any) -> Any:
    def enough(input_ids: Any, logits: Any) -> bool:
        return len(input_ids) >= 30

    return complete(max_tokens=64, stopping_criteria=StoppingCriteriaList([enough]))(llm)


def ids_of_generate(llm: Any) -> Any:
    found = []
    for token in llm.generate(tale_tokens(llm), temp=0.0):
        found.append(token)
        if len(found) == 24:
            break
    return found


def ids_to_the_end(llm: Any) -> Any:
    found = []
    for token in llm.generate(llm.tokenize(WRITTEN_OUT.encode(), special=True), temp=0.0):
        found.append(token)
        if token == llm.token_eos():
            break
    return found


def step_by_step(llm: Any) -> Any:
    llm.eval(tale_tokens(llm))
    found = []
    for _ in range(12):
        token = llm.sample(temp=0.0)
        found.append(token)
        llm.eval([token])
    return found, llm.n_tokens


def left_and_come_back_to(llm: Any) -> Any:
    first = complete(max_tokens=8)(llm)
    state = llm.save_state()
    complete(LIST, max_tokens=8)(llm)
    llm.load_state(state)
    longer = TALE + first["choices"][0]["text"]
    return complete(longer, max_tokens=12)(llm), state.n_tokens


def facts(llm: Any) -> Any:
    return (
        llm.n_ctx(),
        llm.n_vocab(),
        llm.n_embd(),
        llm.token_bos(),
        llm.token_eos(),
        llm.token_nl(),
        llm.metadata,
    )


def tokens_of(text: bytes) -> Call:
    def call(llm: Any) -> Any:
        return [
            llm.tokenize(text, add_bos=add_bos, special=special)
            for add_bos in (False, True)
            for special in (False, True)
        ]

    return call


def bytes_of(llm: Any) -> Any:
    tokens = llm.tokenize("<|im_start|>Größe: 5 m² 🙂<|im_end|>".encode(), special=True)
    return llm.detokenize(tokens), llm.detokenize(tokens, special=True), llm.detokenize([])


def through_the_tokenizer(llm: Any) -> Any:
    tokenizer = llm.tokenizer()
    tokens = tokenizer.encode("Bonjour, l'été <|im_end|>")
    return (
        tokens,
        tokenizer.decode(tokens),
        tokenizer.tokenize(b"a b"),
        tokenizer.detokenize(tokens, special=True),
    )


def too_long(llm: Any) -> Any:
    try:
        llm.create_completion(tale_tokens(llm) * 200)
    except ValueError:
        return "ValueError"
    return "no error"


CALLS: dict[str, Call] = {
    # completions
    "completion": complete(),
    "called": lambda llm: llm(LIST, **GREEDY),
    "completion of 32 tokens": complete(max_tokens=32),
    "completion from ids": complete(tale_tokens, max_tokens=10),
    "completion with control tokens written out": complete(WRITTEN_OUT, max_tokens=20),
    "completion to the end of the context": complete(nearly_full, max_tokens=None),
    "completion without a limit, to a stop": complete(LIST, max_tokens=-1, stop=["\n5."]),
    "completion to one stop": complete(LIST, max_tokens=40, stop="\n"),
    "completion to the first of stops": complete(LIST, max_tokens=40, stop=["Friday", "Thurs"]),
    "completion to a stop within a token": complete(LIST, max_tokens=40, stop=["ursd"]),
    "completion with stop=None": complete(max_tokens=12, stop=None),
    "completion with echo": complete(max_tokens=12, echo=True),
    "completion with a name": complete(max_tokens=8, model="mine"),
    "completion of other letters": complete("日本の首都は", max_tokens=9),
    "completion with a repeat penalty": complete(max_tokens=12, repeat_penalty=1.3),
    "completion with other penalties": complete(max_tokens=12, frequency_penalty=0.8, presence_penalty=0.4),
    "completion with top_k=1": complete(max_tokens=10, temperature=0.7, top_k=1),
    "completion with a bias": biased,
    "completion with a forbidden word": never(b" the"),
    "completion to a criterion": ends_after_thirty,
    "completion by a grammar": complete("Is the sky blue? Answer yes or no: ", grammar=YES_OR_NO),
    "completion in chunks": complete(max_tokens=12, stream=True),
    "completion in chunks to a stop": with_text(complete(LIST, max_tokens=40, stream=True, stop=["\n4"])),
    "completion in chunks of other letters": complete("こんにちは", max_tokens=9, stream=True),
    # chats
    "chat": chat(),
    "chat with a history": chat(HISTORY),
    "chat without a limit": chat(HISTORY, max_tokens=None),
    "chat to a stop": chat(stop=["\n"]),
    "chat with a name": chat(model="mine", max_tokens=8),
    "chat with penalties": chat(repeat_penalty=1.2, presence_penalty=0.5),
    "chat with a bias": biased_chat,
    "chat by a schema": chat(response_format={"type": "json_object", "schema": SCHEMA}, max_tokens=40),
    "chat with tools that may be called": chat(tools=[TOOL], tool_choice="none", max_tokens=8),
    "chat with a function called": chat(tools=[TOOL], tool_choice=NAMED, max_tokens=24),
    "chat in older words": chat(functions=[WEATHER], function_call={"name": "get_weather"}, max_tokens=24),
    "chat by a grammar": chat(grammar=YES_OR_NO),
    "chat in chunks": chat(stream=True),
    "chat in chunks with a history": chat(HISTORY, stream=True, max_tokens=None),
    "chat in chunks with a function called": chat(
        tools=[TOOL], tool_choice=NAMED, stream=True, max_tokens=24
    ),
    # tokens
    "generate": ids_of_generate,
    "generate to the end": ids_to_the_end,
    "eval and sample": step_by_step,
    "save and load": left_and_come_back_to,
    "facts": facts,
    "tokenize": tokens_of("Hello <|im_start|> wörld\n\n  ok".encode()),
    "tokenize nothing": tokens_of(b""),
    "detokenize": bytes_of,
    "tokenizer": through_the_tokenizer,
    "a prompt too long": too_long,
}
"""Calls by what they do."""

OFTEN = {
    "called",
    "completion from ids",
    "completion to the first of stops",
    "completion to a stop within a token",
    "completion with echo",
    "completion with other penalties",
    "completion with a bias",
    "completion with a forbidden word",
    "completion by a grammar",
    "completion in chunks to a stop",
    "completion in chunks of other letters",
    "chat with a history",
    "chat by a schema",
    "chat with a function called",
    "chat in chunks",
    "generate to the end",
    "eval and sample",
    "save and load",
    "facts",
    "tokenize",
    "tokenize nothing",
    "detokenize",
    "tokenizer",
    "a prompt too long",
}
"""Those that every run of the tests makes; the others differ from one of them in an option, and are for ``-m slow``."""

WITH_LOGPROBS: dict[str, Call] = {
    "completion with logprobs": complete(max_tokens=6, logprobs=3),
    "completion with the logprobs of the chosen": complete(max_tokens=6, logprobs=0),
    "completion in chunks with logprobs": complete(max_tokens=6, logprobs=2, stream=True),
    "chat with logprobs": chat(max_tokens=6, logprobs=True, top_logprobs=2),
    "chat in chunks with logprobs": chat(max_tokens=6, logprobs=True, top_logprobs=2, stream=True),
}
"""Calls for which ``llama_cpp.Llama`` has to be opened with ``logits_all``."""

EMBEDDINGS: dict[str, Call] = {
    "embedding": lambda llm: llm.create_embedding("The sea is blue."),
    "embedding of a list": lambda llm: llm.create_embedding(["One text."], model="mine"),
    "embed": lambda llm: llm.embed(["One text."], normalize=True, return_count=True),
}
"""Calls for which it has to be opened with ``embedding``."""
