"""The real client of OpenAI with a real server whose agents are echoes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")

TOKEN, BOBS_TOKEN = "root-secret-root", "bob-secret-bob-bob"
Server = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    module = Path(__file__).parents[1]
    path = os.pathsep.join([str(module), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"PORT": "0", "DATA_DIR": str(folder), "DRIVER": "echo", "STORE": "memory", "POOL_SIZE": "0"}
    env = {f"PORTICO_{name}": value for name, value in settings.items()}
    env |= {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": path, "PORTICO_MAX_SESSIONS": "3"}
    env["PORTICO_AUTH_TOKENS"] = f"root:{TOKEN}:admin,bob:{BOBS_TOKEN}"
    installed = subprocess.run(
        [sys.executable, "-m", "portico", "plugins", "--json"], env=env, cwd=folder, stdout=subprocess.PIPE, check=True
    )
    if '"module": "portico_openai"' not in installed.stdout.decode():
        env["PORTICO_PLUGINS"] = "portico_openai"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "portico", "serve"], env=env, cwd=folder, stderr=log)
    try:
        found = folder / "server.json"
        for _ in range(2400):
            if found.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert found.exists(), (folder / "log").read_text()
        yield {"url": json.loads(found.read_text())["url"], "token": TOKEN, "log": folder / "log"}
    finally:
        process.terminate()
        try:
            assert process.wait(120) == 0
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server['url']}/v1", api_key=server["token"], max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server['token']}"}
    with httpx.Client(base_url=f"{server['url']}/claude", headers=headers, trust_env=False, timeout=120) as client:
        yield client


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def none_left(api: httpx.Client) -> bool:
    """Tell whether all sessions disappear within two minutes."""
    for _ in range(2400):
        if not api.get("/sessions").json()["sessions"]:
            return True
        time.sleep(0.05)
    return False


def test_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["portico"]


def test_an_answer_comes_whole(client: Any, api: httpx.Client) -> None:
    answer = client.chat.completions.create(model="portico", messages=[user("two words")])
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "two words", "stop")
    assert answer.object == "chat.completion" and answer.model == "portico" and answer.created > 1e9
    assert answer.usage.completion_tokens == 2
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 2
    assert none_left(api)


def test_an_answer_comes_as_it_is_said(client: Any, api: httpx.Client) -> None:
    query = json.dumps({"deltas": 5, "size": 3, "gap": 0.05})
    chunks = list(client.chat.completions.create(model="portico", messages=[user(query)], stream=True))
    texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(filter(None, texts)) == "x" * 15 and texts.count("xxx") == 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1
    assert none_left(api)


def test_a_conversation_is_put_as_one_question(client: Any) -> None:
    said = [{"role": "system", "content": "Be brief."}, user("one"), {"role": "assistant", "content": "1"}]
    parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]
    answer = client.chat.completions.create(model="portico", messages=[*said, user(parts)])
    lines = answer.choices[0].message.content.split("\n")
    assert lines[1:7] == ["<user>", "one", "</user>", "<assistant>", "1", "</assistant>"]
    assert lines[-2:] == ["two", "three"]


@pytest.mark.parametrize(("tell", "told"), [("append_system_prompt", "Be brief.\n\nBe kind."), ("model", "claude-x")])
def test_system_messages_and_model_are_the_agents(client: Any, tell: str, told: str) -> None:
    said = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}]
    messages = [*said, user(json.dumps({"tell": tell}))]
    answer = client.chat.completions.create(model="claude-x", messages=messages)
    assert answer.choices[0].message.content == told


def test_a_model_that_is_none_of_claudes_is_the_servers_own(client: Any) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=[user('{"tell": "model"}')])
    assert answer.choices[0].message.content == "null"


def test_a_session_that_is_named_goes_on(client: Any, api: httpx.Client) -> None:
    assert api.post("/sessions", json={"session_id": "mine"}).status_code == 201
    headers = {"X-Portico-Session": "mine", "Idempotency-Key": "t1"}
    for _ in range(2):  # the second time nothing is asked again
        answer = client.chat.completions.create(
            model="portico", messages=[user("before"), user("hello")], extra_headers=headers
        )
        assert answer.choices[0].message.content == "hello"
    session = api.get("/sessions/mine").json()
    assert (session["state"], session["turns"]) == ("idle", 1)
    assert api.delete("/sessions/mine?purge=true").status_code == 204
    with pytest.raises(openai.NotFoundError, match="there is no session 'mine'"):
        client.chat.completions.create(model="portico", messages=[user("hello")], extra_headers=headers)


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("n", {"n": 2}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
        ("stop", {"stop": "x"}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("messages", {"messages": []}),
        ("messages", {"messages": [{"role": "assistant", "content": "me"}]}),
        ("messages", {"messages": [user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])]}),
        ("messages", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}),
        ("query", {"messages": [user(" ")]}),
    ],
)
def test_what_is_not_supported_is_refused(client: Any, api: httpx.Client, what: str, values: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "portico", "messages": [user("hello")], **values})
    assert what in refused.value.message and refused.value.code == "invalid"
    assert none_left(api)


def test_bad_json_is_refused_in_the_same_shape(server: Server, api: httpx.Client) -> None:
    url, headers = f"{server['url']}/v1/chat/completions", {"content-type": "application/json"}
    answer = api.post(url, content=b"{", headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "malformed"


def test_a_stranger_is_refused(server: Server) -> None:
    with (
        openai.OpenAI(base_url=f"{server['url']}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model="portico", messages=[user("hello")])


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_fails_is_an_error_that_nobody_retries(server: Server, api: httpx.Client, stream: bool) -> None:
    asked: list[httpx.Request] = []
    with (
        httpx.Client(trust_env=False, timeout=120, event_hooks={"request": [asked.append]}) as http,
        openai.OpenAI(
            base_url=f"{server['url']}/v1", api_key=server["token"], max_retries=5, http_client=http
        ) as client,
    ):
        with pytest.raises(openai.APIError, match="as was asked") as failed:
            list(client.chat.completions.create(model="portico", messages=[user('{"fail": true}')], stream=stream))
        assert failed.value.code == "api_error" and len(asked) == 1
    assert none_left(api)


def test_a_limit_is_an_error_that_may_be_retried(client: Any, api: httpx.Client) -> None:
    for n in range(3):
        api.post("/sessions", json={"session_id": f"full-{n}"})
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="portico", messages=[user("hello")])
    assert refused.value.code == "too_many_sessions"
    assert refused.value.response.headers["x-should-retry"] == "true"
    for n in range(3):
        api.delete(f"/sessions/full-{n}?purge=true")


@pytest.mark.parametrize("deltas", [1, None])
def test_who_leaves_before_the_answer_leaves_nothing_behind(
    server: Server, api: httpx.Client, deltas: int | None
) -> None:
    body = {"model": "portico", "messages": [user(json.dumps({"deltas": deltas, "gap": 0 if deltas is None else 60}))]}
    with httpx.Client(headers=dict(api.headers), trust_env=False, timeout=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{server['url']}/v1/chat/completions", json=body)
    assert none_left(api)


@pytest.mark.parametrize("gap", [0.05, 60])
def test_who_leaves_a_stream_leaves_nothing_behind(client: Any, api: httpx.Client, gap: float) -> None:
    query = json.dumps({"deltas": None, "gap": gap})
    with client.chat.completions.create(model="portico", messages=[user(query)], stream=True) as chunks:
        assert next(iter(chunks)).choices[0].delta.role == "assistant"
        assert len(api.get("/sessions").json()["sessions"]) == 1
    assert none_left(api)


def test_who_leaves_late_leaves_the_next_session_of_that_id_alone(
    server: Server, client: Any, api: httpx.Client
) -> None:
    def chats() -> int:
        count: int = server["log"].read_text().count("POST /v1/chat/completions")
        return count

    before = chats()
    query = json.dumps({"deltas": None, "size": 500_000, "gap": 0.005})
    with client.chat.completions.create(model="portico", messages=[user(query)], stream=True) as chunks:
        assert next(iter(chunks)).choices[0].delta.role == "assistant"  # from now on it reads nothing
        (session,) = api.get("/sessions").json()["sessions"]
        one = f"/sessions/{session['session_id']}"
        while api.get(one).json()["last_seq"] < 60:  # more than fits between client and server
            time.sleep(0.02)
        assert api.delete(f"{one}?purge=true").status_code == 204
        bobs = {"Authorization": f"Bearer {BOBS_TOKEN}"}
        made = api.post("/sessions", json={"session_id": session["session_id"]}, headers=bobs)
        assert made.status_code == 201, made.text
    while chats() == before:  # it is logged once everything after the answer is done
        time.sleep(0.02)
    assert api.get(one).json()["owner"] == "bob"
    assert api.delete(f"{one}?purge=true", headers=bobs).status_code == 204
