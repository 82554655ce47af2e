"""The HTTP interface over a model that says what it is told to: shapes, refusals, streams."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from fake_serving import FakeModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from starlette.testclient import TestClient
from test_serve_line import until

from aded_cli.serve import app, limits
from aded_cli.serve.app import make_app
from aded_cli.serve.asking import messages_of
from aded_cli.serve.endpoints import Serving
from aded_cli.serve.fields import MOST_CHOICES, ChatRequest
from aded_cli.serve.metrics import Metrics
from aded_cli.serve.openapi import description
from aded_cli.serve.queue import READY, Line
from aded_cli.serve.refusals import LONGEST
from aded_cli.serve.sessions import Pool
from aded_local.chat.style import HERMES, PLAIN, AnswerStyle
from aded_local.request import LONG_FOR_A_TOKEN

LOCAL = "http://127.0.0.1:8080"
QUESTION = {"messages": [{"role": "user", "content": "hello"}]}


class Server:
    """One server in this process, with a client."""

    def __init__(self, model: FakeModel, *, key: str | None = None, origins: tuple[str, ...] = ()) -> None:
        self.model = model
        self.complaints: list[str] = []
        metrics = Metrics()
        self.line = Line(lambda say: model, most_waiting=4, most_bytes=1 << 20, on_answer=metrics.answered)
        serving = Serving(self.line, metrics, complain=self.complaints.append)
        self.client = TestClient(make_app(serving, key, origins), base_url=LOCAL)
        self.line.start()
        until(lambda: self.line.state == READY)

    def chat(self, **fields: Any) -> Any:
        return self.client.post("/v1/chat/completions", json={**QUESTION, **fields})

    def events(self, path: str, **fields: Any) -> list[Any]:
        """The chunks of a stream."""
        with self.client.stream("POST", path, json={**fields, "stream": True}) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    found = Server(FakeModel())
    yield found
    found.line.close()
    assert found.line.join(PATIENCE)


@pytest.fixture
def server(shared: Server) -> Server:
    shared.model.asked.clear()
    shared.model.offered.clear()
    shared.model.failure = shared.model.says = None
    shared.model.style = PLAIN
    shared.complaints.clear()
    return shared


@pytest.fixture
def made() -> Iterator[Any]:
    servers: list[Server] = []

    def make(**options: Any) -> Server:
        servers.append(Server(FakeModel(), **options))
        return servers[-1]

    yield make
    for server in servers:
        server.line.close()
        assert server.line.join(PATIENCE)


def refused(response: Any, status: int, *words: str, param: str | None = None) -> None:
    """OpenAI's error object, with ``words`` in its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    for word in words:
        assert word in error["message"]
    if param is not None:
        assert error["param"] == param


# Answers


def test_a_chat_is_answered(server: Server) -> None:
    found = server.chat(max_tokens=20, temperature=0.5, seed=3, stop=["x"], model="whatever").json()
    assert found["object"] == "chat.completion" and found["model"] == "fake-model"
    assert found["id"].startswith("chatcmpl-")
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "w0 w1 w2 w3 w4 "}
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    assert {"tokens_per_pass", "drafted", "accepted", "tokens_per_second"} <= set(found["timings"])
    assert server.model.asked == [("hello", {"max_tokens": 20, "temperature": 0.5, "seed": 3, "stop": ["x"]})]


def test_a_chat_is_streamed(server: Server) -> None:
    chunks = server.events("/v1/chat/completions", **QUESTION)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(said) == "w0 w1 w2 w3 w4 "
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
    assert "timings" in chunks[-1] and all("usage" not in chunk for chunk in chunks)


def test_the_usage_of_a_stream_comes_last_where_it_is_wanted(server: Server) -> None:
    chunks = server.events("/v1/chat/completions", **QUESTION, n=2, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}


def test_several_choices_come_one_after_the_other_with_seeds_of_their_own(server: Server) -> None:
    found = server.chat(n=3, seed=7).json()
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 15, "total_tokens": 20}
    assert [options["seed"] for _, options in server.model.asked] == [7, 8, 9]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [("ab", ["ab"]), (["ab", "c"], ["ab", "c"]), ([97, 98], ["ab"]), ([[97], [98]], ["a", "b"])],
)
def test_texts_and_token_ids_are_continued(server: Server, prompt: Any, asked: list[str]) -> None:
    found = server.client.post("/v1/completions", json={"prompt": prompt}).json()
    assert found["object"] == "text_completion"
    assert [choice["text"] for choice in found["choices"]] == ["w0 w1 w2 w3 w4 "] * len(asked)
    assert [text for text, _ in server.model.asked] == asked
    assert all(options == {"max_tokens": 16} for _, options in server.model.asked)


@pytest.mark.parametrize("prompt", ["w7 ", [7]])
def test_a_completion_begins_with_its_prompt_where_that_is_wanted(server: Server, prompt: Any) -> None:
    asked = {"prompt": prompt, "echo": True}
    found = server.client.post("/v1/completions", json=asked).json()
    assert found["choices"][0]["text"] == "w7 w0 w1 w2 w3 w4 "
    assert "".join(chunk["choices"][0]["text"] for chunk in server.events("/v1/completions", **asked)) == (
        "w7 w0 w1 w2 w3 w4 "
    )
    refused(server.client.post("/v1/completions", json={**asked, "logprobs": 1}), 400, param="echo")


def test_a_completion_is_streamed(server: Server) -> None:
    chunks = server.events("/v1/completions", prompt="ab")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "w0 w1 w2 w3 w4 "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ({"draft": "off"}, {"draft": "off"}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": -1}, {"max_tokens": -1}),
        ({"logit_bias": {"5": -100}}, {"logit_bias": {5: -100.0}}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": False}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {}}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "object"}},
                }
            },
            {"json_schema": {"type": "object"}},
        ),
        (
            {"presence_penalty": 1, "top_k": 5, "min_p": 0.1},
            {"presence_penalty": 1.0, "top_k": 5, "min_p": 0.1},
        ),
        ({"user": "me", "store": True, "metadata": {"a": "b"}, "temperature": None}, {}),
    ],
)
def test_fields_become_options_of_the_engine(
    server: Server, field: dict[str, Any], options: dict[str, Any]
) -> None:
    assert server.chat(**field).status_code == 200
    assert server.model.asked[0][1] == options


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = ['<tool_call>\n{"name": "look", ', '"arguments": {"at": "it"}}\n</tool_call>']


def test_calls_are_told_apart_from_the_content(server: Server) -> None:
    server.model.style = AnswerStyle(calls=HERMES, names=frozenset(["look"]))
    server.model.says = CALL
    found = server.chat(tools=TOOLS, tool_choice="auto").json()["choices"][0]
    assert server.model.offered == [(TOOLS, "auto")]
    assert found["finish_reason"] == "tool_calls" and found["message"]["content"] is None
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["name"] == "look"
    assert json.loads(call["function"]["arguments"]) == {"at": "it"}
    chunks = server.events("/v1/chat/completions", **QUESTION, tools=TOOLS)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert [chunk for chunk in chunks if "tool_calls" in chunk["choices"][0]["delta"]]


def test_thoughts_are_told_apart_from_the_content(server: Server) -> None:
    server.model.style = AnswerStyle(reasoning=("<think>", "</think>"))
    server.model.says = ["<think>hm", "</think>", "yes"]
    message = server.chat().json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("yes", "hm")


def test_results_of_calls_go_back_to_the_model(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "", "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "nothing"}]},
    ]
    asked = msgspec.convert({"messages": messages}, ChatRequest)
    kept = [
        {key: value for key, value in one.items() if key not in ("refusal", "annotations")}
        for one in messages
    ]
    assert messages_of(asked) == kept


def test_likeliest_tokens_are_told(server: Server) -> None:
    found = server.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [each["logprob"] for each in found] == [-0.5] * 5
    assert {each["token"] for each in found[0]["top_logprobs"]} == {"w0 ", "w99 "}
    found = server.client.post("/v1/completions", json={"prompt": "a", "logprobs": 2}).json()
    assert found["choices"][0]["logprobs"]["token_logprobs"] == [-0.5] * 5


# What is refused


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": MOST_CHOICES + 1}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "pirate", "content": "a"}]}, "messages[0].role"),
        ({"messages": "hello"}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"draft": "fast"}, "draft"),
        ({"temperatur": 1}, "temperatur"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": "look"}, "tools"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar"),
    ],
)
def test_a_field_that_cannot_be_followed_is_named(server: Server, field: dict[str, Any], param: str) -> None:
    refused(server.chat(**field), 400, param=param)
    assert server.model.asked == []


@pytest.mark.parametrize("prompt", [5, [], [""], [[]], ["a", 1], [[1], 2], {"a": 1}, [True], [-1]])
def test_a_prompt_that_is_none_is_refused(server: Server, prompt: Any) -> None:
    refused(server.client.post("/v1/completions", json={"prompt": prompt}), 400)


def test_more_answers_than_one_request_may_ask_for_are_refused(server: Server) -> None:
    many = {"prompt": ["a", "b"], "n": MOST_CHOICES}
    refused(server.client.post("/v1/completions", json=many), 400, param="n")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"messages": NaN}', b"null", b'"\\ud800"']
)
def test_a_body_that_is_no_json_object_is_refused(server: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused(server.client.post("/v1/chat/completions", content=body, headers=headers), 400)


def test_a_body_of_another_kind_is_refused(server: Server) -> None:
    refused(server.client.post("/v1/chat/completions", data={"a": "b"}), 415, "application/json")


def test_a_large_body_is_refused_with_and_without_a_length(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_BYTES", 1000)
    large = json.dumps({**QUESTION, "user": "a" * 1000}).encode()
    headers = {"Content-Type": "application/json"}
    refused(server.client.post("/v1/chat/completions", content=large, headers=headers), 413)
    pieces = iter([large[:600], large[600:]])
    refused(server.client.post("/v1/chat/completions", content=pieces, headers=headers), 413)


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (b'"json_schema": {"a": ', b"}"),
        (b'"tools": [{"type": "function", "function": {"name": "a", "parameters": {"a": ', b"}}}]"),
        (b'"response_format": {"type": "json_object", "schema": {"a": ', b"}}"),
        (b'"nonsense": ', b""),
    ],
)
def test_a_deep_body_is_refused(server: Server, depth: int, before: bytes, behind: bytes) -> None:
    start = b'{"messages": [{"role": "user", "content": "a"}], ' + before
    body = start + b"[" * depth + b"]" * depth + behind + b"}"
    headers = {"Content-Type": "application/json"}
    refused(server.client.post("/v1/chat/completions", content=body, headers=headers), 400)
    assert server.model.asked == []


def test_a_prompt_that_does_not_fit_is_refused_before_its_turn(server: Server) -> None:
    response = server.chat(messages=[{"role": "user", "content": "a" * 512}])
    refused(response, 400, "512 tokens")
    assert response.json()["error"]["code"] == "context_length_exceeded"
    refused(server.client.post("/v1/completions", json={"prompt": ""}), 400, param="prompt")
    assert server.model.asked == []


def test_a_text_that_no_tokens_could_spell_is_refused_before_it_is_tokenized(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenized(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("aded_cli.serve.sessions.Pool.chat_prompt", tokenized)
    monkeypatch.setattr("aded_cli.serve.sessions.Pool.text_tokens", tokenized)
    long = "a" * (LONG_FOR_A_TOKEN * 512 + 1)
    refused(
        server.chat(messages=[{"role": "user", "content": [{"type": "text", "text": long}]}]),
        400,
        "bytes, and the 512 tokens",
    )
    refused(
        server.client.post("/v1/completions", json={"prompt": ["x", long]}), 400, "bytes, and the 512 tokens"
    )


def test_prompts_come_into_the_line_in_the_order_in_which_they_came(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = made()
    begun = threading.Event()
    prompt = Pool.chat_prompt

    def slow(pool: Pool, messages: Any, *others: Any) -> Any:
        if messages[-1]["content"] == "first":
            begun.set()
            time.sleep(0.3)
        return prompt(pool, messages, *others)

    monkeypatch.setattr(Pool, "chat_prompt", slow)
    with server.client, ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.chat, messages=[{"role": "user", "content": "first"}])
        assert begun.wait(PATIENCE)
        second = clients.submit(server.chat, messages=[{"role": "user", "content": "second"}])
        assert {first.result().status_code, second.result().status_code} == {200}
    assert [text for text, _ in server.model.asked] == ["first", "second"]


def test_a_body_that_does_not_arrive_is_refused_in_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_request: Any) -> bytes:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(limits, "_read", never)
    monkeypatch.setattr(limits, "READING_SECONDS", 0.01)
    refused(server.chat(), 408, "did not arrive")


def test_a_refusal_quotes_little_and_stays_a_line(server: Server) -> None:
    response = server.chat(**{"x\ny\u202e" * 9000: 1})
    message = response.json()["error"]["message"]
    assert response.status_code == 400 and len(message) <= LONGEST + 1 and not set("\n\u202e") & set(message)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_has_a_status_also_of_a_stream(server: Server, stream: bool) -> None:
    from aded_local.errors import DeviceError, OptionError

    server.model.failure = OptionError("that is no grammar")
    refused(server.chat(stream=stream), 400, "no grammar")
    server.model.failure = DeviceError("no memory")
    refused(server.chat(stream=stream), 500, "no memory")


def test_what_nobody_foresaw_quotes_nothing(server: Server) -> None:
    server.model.failure = ValueError("secret")
    response = server.chat()
    refused(response, 500, "ValueError")
    assert "secret" not in response.text + str(server.complaints)
    assert len(server.complaints) == 1


def test_paths_and_methods_that_are_not_there(server: Server) -> None:
    refused(server.client.get("/v1/nothing"), 404, "openapi.json")
    refused(server.client.get("/v1/chat/completions"), 405, "GET")
    refused(server.client.get("/v1/models/other"), 404)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    ),
    field=st.sampled_from(
        ["messages", "stop", "n", "tools", "logit_bias", "response_format", "stream_options"]
    ),
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]),
)
def test_no_body_is_our_fault(server: Server, body: Any, field: str, path: str) -> None:
    for sent in (body, {**QUESTION, field: body}):
        try:
            text = json.dumps(sent)
        except ValueError:
            return
        response = server.client.post(path, content=text, headers={"Content-Type": "application/json"})
        assert response.status_code < 500, response.text


# Who may ask


def test_a_key_is_asked_for_where_one_is_set(made: Any) -> None:
    client = made(key="sésame").client
    refused(client.get("/v1/models"), 401)
    for wrong in ("Bearer wrong", "Bearer", "Basic abc", "sesame", "Bearer \u00e9"):
        refused(client.get("/v1/models", headers={"Authorization": wrong.encode("latin-1")}), 401)
    right = {"Authorization": "Bearer sésame".encode()}
    assert client.get("/v1/models", headers=right).status_code == 200
    assert client.get("/v1/models", headers={**right, "Host": "example.com"}).status_code == 200
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "[::1]:1", "127.9.9.9", "LOCALHOST."])
def test_without_a_key_names_of_this_machine_are_answered(server: Server, host: str) -> None:
    assert server.client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example.com", "", "10.0.0.1", "localhost.example.com"]
)
def test_without_a_key_no_other_name_is_answered(server: Server, host: str) -> None:
    refused(server.client.get("/v1/models", headers={"Host": host}), 403)


def test_a_page_in_a_browser_is_answered_where_its_origin_is_allowed(made: Any) -> None:
    origin = "http://localhost:3000"
    strict, lenient = made().client, made(origins=(origin,)).client
    refused(strict.get("/v1/models", headers={"Origin": origin}), 403)
    refused(strict.get("/v1/models", headers={"Origin": "null"}), 403)
    found = lenient.get("/v1/models", headers={"Origin": origin})
    assert found.status_code == 200 and found.headers["access-control-allow-origin"] == origin
    refused(lenient.get("/v1/models", headers={"Origin": "http://example.com"}), 403)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert lenient.options("/v1/chat/completions", headers=asked).status_code == 200
    assert "access-control-allow-origin" not in strict.get("/health").headers


# The others


def test_the_model_is_listed(server: Server) -> None:
    (found,) = server.client.get("/v1/models").json()["data"]
    assert found["id"] == "fake-model" and found["object"] == "model"
    assert server.client.get("/v1/models/fake-model").json() == found


def test_health_tells_what_is_ready(server: Server) -> None:
    response = server.client.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "drafting": "ready", "waiting": 0, "running": 0}


def test_health_while_loading_and_closing(made: Any) -> None:
    server = made()
    server.line.close()
    found = server.client.get("/health")
    assert (found.status_code, found.json()["status"]) == (503, "closing")
    server.line.state = "loading"
    found = server.client.get("/health")
    assert found.status_code == 503 and found.json()["reason"]
    refused(server.chat(), 503)
    refused(server.client.get("/v1/models"), 503)


def test_metrics_count_requests_and_tokens(made: Any) -> None:
    server = made()
    server.chat()
    server.chat(n=0)
    text = server.client.get("/metrics").text
    assert 'aded_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'aded_requests_total{route="/v1/chat/completions",status="400"} 1.0' in text
    assert 'aded_tokens_total{kind="prompt"} 5.0' in text
    assert 'aded_tokens_total{kind="generated"} 5.0' in text
    assert "aded_ready 1.0" in text and "aded_sessions 1.0" in text


def test_the_description_has_every_route_and_no_other(server: Server) -> None:
    found = server.client.get("/openapi.json").json()
    described = {
        (method.upper(), path.replace("{model}", "{model:path}"))
        for path, methods in found["paths"].items()
        for method in methods
    }
    assert described == {(method, path) for method, path, _ in app.ROUTES}
    assert found == json.loads(json.dumps(description()))


def test_the_description_has_every_status_that_was_refused_with(server: Server) -> None:
    responses = description()["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(responses) >= {"200", "400", "401", "403", "408", "413", "415", "429", "500", "503"}
    fields = description()["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "tools", "response_format", "draft", "stream_options"} <= set(fields)
