"""Adapters by name: chosen by `model`, loaded and removed while serving, from allowed folders only."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from manylora.errors import AdapterConflict, AdapterNotFound, AdapterRejected, EngineDied, RequestError
from manylora.server.config import ServerConfig
from manylora.server.lifecycle import AdapterLifecycle
from manylora.server.registry import NamedAdapter, Registry, check_name
from manylora.server.routes.answering import response_headers
from manylora.types.adapter import AdapterVersion

from .conftest import write_adapter
from .live import Live, make_service, serve

COMPLETION: dict[str, Any] = {"prompt": "x", "max_tokens": 3}


def load(live: Live, name: str, path: str, **more: Any) -> httpx.Response:
    return live.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})


def unload(live: Live, name: str) -> httpx.Response:
    return live.post("/v1/unload_lora_adapter", {"lora_name": name})


def ask(live: Live, model: str) -> httpx.Response:
    return live.post("/v1/completions", COMPLETION | {"model": model})


def test_load_use_unload_in_vllms_shapes(live: Live, roots: Path) -> None:
    """vLLM's requests get vLLM's answers; the adapter answers between them and is gone, memory and metrics, after them."""
    assert ask(live, "late").status_code == 404
    loaded = load(live, "late", str(roots / "allowed" / "late"))
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'late' added successfully.")
    assert loaded.headers["content-type"].startswith("text/plain")
    answer = ask(live, "late")
    version = answer.headers["x-manylora-adapter-version"]
    assert version == loaded.headers["x-manylora-adapter-version"] == live.engine.seen[-1].adapter
    with live.client() as client:
        assert 'model_name="late"' in client.get("/metrics").text
        removed = unload(live, "late")
        assert (removed.status_code, removed.text) == (200, "Success: LoRA adapter 'late' removed successfully.")
        assert 'model_name="late"' not in client.get("/metrics").text
    assert ask(live, "late").status_code == 404
    live.wait_until(lambda: version not in live.engine.versions)
    assert unload(live, "late").status_code == 404


def test_names_that_exist_are_not_overwritten(live: Live) -> None:
    """Loading a name again is a 400 in vLLM's words, which its operators' controllers look for; load_inplace allows it."""
    again = load(live, "acme", "acme")
    assert again.status_code == 400
    assert "has already been loaded" in again.json()["error"]["message"]
    assert load(live, "acme", "acme", load_inplace=True).status_code == 200
    assert load(live, "tiny", "acme", load_inplace=True).status_code == 400


OUTSIDE = ["/etc", "../outside/secret", "link", "acme/../../outside/secret", ".", "", "missing"]
NOT_FOLDERS = ["a\0b", "x" * 5000, "x" * 300, "acme/adapter_config.json"]


@pytest.mark.parametrize("path", OUTSIDE + NOT_FOLDERS, ids=lambda path: repr(path[:40]))
def test_only_below_the_roots(live: Live, path: str) -> None:
    """Absolute paths elsewhere, dots and symbolic links that lead out, the root itself, files: one line, nothing loaded."""
    before = set(live.engine.versions)
    response = load(live, "thief", path)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "lora_path"
    assert "\n" not in response.json()["error"]["message"]
    assert set(live.engine.versions) == before
    assert ask(live, "thief").status_code == 404


@pytest.mark.parametrize("name", ["a/b", "a@1", "", "x" * 129, "tab\t", " edge", "\u200b", "..", "nul\0"])
def test_names_are_checked(live: Live, name: str) -> None:
    """Names that would break a path, a version suffix or a log line are refused."""
    response = load(live, name, "acme")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "lora_name")


def test_rejected_adapter_leaves_nothing(live: Live) -> None:
    """An adapter that the engine rejects is a 400 with the reason; the name stays free and the server serves on."""
    response = load(live, "broken", "broken")
    assert response.status_code == 400
    assert "adapter_config.json" in response.json()["error"]["message"]
    assert ask(live, "broken").status_code == 404
    assert ask(live, "acme").status_code == 200


def test_requests_keep_the_version_they_started_with(live: Live, roots: Path) -> None:
    """A name that moves while an answer is under way: the answer ends with the old version, new ones use the new, and the old
    one is freed only when its last answer has ended."""
    folder = write_adapter(roots / "allowed" / "moving", 30)
    assert load(live, "moving", "moving").status_code == 200
    live.engine.pause_after = 1
    with live.client() as client:
        body = COMPLETION | {"model": "moving", "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            old = response.headers["x-manylora-adapter-version"]
            write_adapter(folder, 31)
            assert load(live, "moving", "moving", load_inplace=True).status_code == 200
            live.engine.pause_after = None
            new = ask(live, "moving").headers["x-manylora-adapter-version"]
            assert new != old
            assert {old, new} <= set(live.engine.versions)
            live.call(live.engine.go.set)
            assert "error" not in "".join(response.iter_text())
    live.wait_until(lambda: old not in live.engine.versions)
    assert new in live.engine.versions
    assert unload(live, "moving").status_code == 200


def test_two_names_of_one_content(live: Live) -> None:
    """Removing one of two names of a version leaves it with the other."""
    assert load(live, "twin", "acme").status_code == 200
    assert unload(live, "twin").status_code == 200
    assert ask(live, "acme").status_code == 200


def test_a_name_that_is_not_there_cannot_be_unloaded(live: Live) -> None:
    """The fault names the field of this route, and repeats little of a name that nothing could have."""
    for name in ("nobody", "x" * 100_000):
        response = unload(live, name)
        assert response.status_code == 404
        assert response.json()["error"]["param"] == "lora_name"
        assert len(response.content) < 1000


def test_load_and_unload_refuse_alike(live: Live) -> None:
    """A field that other servers have and this one does not is refused in the same words by both routes."""
    answers = [
        live.post(f"/v1/{verb}_lora_adapter", {"lora_name": "a", "lora_int_id": 3} | more).json()["error"]
        for verb, more in (("load", {"lora_path": "acme"}), ("unload", {}))
    ]
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "unsupported_parameter"


def test_own_chat_template(live: Live, roots: Path) -> None:
    """An adapter that brings a chat template is asked by it; one whose template is broken is rejected."""
    folder = write_adapter(roots / "allowed" / "styled", 40)
    (folder / "chat_template.jinja").write_text("[{{ messages[0].content }}]")
    assert load(live, "styled", "styled").status_code == 200
    live.post("/v1/chat/completions", {"model": "styled", "messages": [{"role": "user", "content": "q"}]})
    assert bytes(live.service.base.tokenizer.decode(live.engine.seen[-1].prompt), "utf-8") == b"[q]"
    assert unload(live, "styled").status_code == 200
    (folder / "chat_template.jinja").write_text("{% if %}")
    assert load(live, "styled", "styled").status_code == 400


def test_routes_do_not_exist_unless_allowed(tmp_path: Path) -> None:
    """Without --allow-runtime-adapters a call is told of it, and the OpenAPI document does not offer the routes."""
    with serve(tmp_path, ServerConfig()) as live:
        for response in (load(live, "a", "b"), unload(live, "a")):
            assert response.status_code == 404
            assert "--allow-runtime-adapters" in response.json()["error"]["message"]
        with live.client() as client:
            assert "/v1/load_lora_adapter" not in client.get("/openapi.json").json()["paths"]
            assert client.get("/v1/models").json()["data"][0]["id"] == tmp_path.name


def version(digit: str) -> AdapterVersion:
    return AdapterVersion(digit * 64, 10, (8,), ("q_proj",), 1)


def test_registry_moves_by_compare_and_set() -> None:
    """A name moves only from where the caller saw it; otherwise nothing changes."""
    registry = Registry(("base",))
    one, two = NamedAdapter(version("1"), Path("a")), NamedAdapter(version("2"), Path("b"))
    registry.move("x", None, one)
    for expected, entry in ((None, two), ("2" * 64, two), ("2" * 64, None)):
        with pytest.raises(AdapterConflict):
            registry.move("x", expected, entry)
        assert registry.get("x") is one
    registry.move("x", "1" * 64, two)
    assert registry.get("x") is two
    with pytest.raises(AdapterConflict):
        registry.move("base", None, one)
    with pytest.raises(AdapterNotFound):
        registry.resolve("nobody")
    with pytest.raises(RequestError):
        check_name("a@b", "lora_name")


def test_merged_adapter_is_named(tmp_path: Path) -> None:
    """Base weights with an adapter merged into them answer under that adapter's version, though the engine is asked for none."""
    plain, merged = Registry(("base",)).resolve("base"), Registry(("m",), version("3")).resolve("m")
    assert (plain.version, plain.answers) == (None, None)
    assert (merged.version, merged.answers) == (None, version("3"))
    assert response_headers(plain)["x-manylora-adapter-version"] == "base"
    assert response_headers(merged)["x-manylora-adapter-version"] == "3" * 64


def test_free_waits_for_the_engine_to_come_back(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name removed while the engine is down: its memory, which a restarted engine brings back, is freed when it is up."""
    monkeypatch.setattr("manylora.server.lifecycle.RETRY_SECONDS", 0.001)
    loaded = load(live, "late", "late").headers["x-manylora-adapter-version"]
    unload_adapter, attempts = live.engine.unload_adapter, []

    async def refusing(version: str) -> int:
        attempts.append(version)
        if len(attempts) < 3:
            raise EngineDied("the engine is restarting")
        return await unload_adapter(version)

    monkeypatch.setattr(live.engine, "unload_adapter", refusing)
    assert unload(live, "late").status_code == 200
    live.wait_until(lambda: loaded not in live.engine.versions)
    assert attempts == [loaded] * 3


def test_leases_hold_a_version() -> None:
    """`idle` waits for every lease of its version, and for no other."""

    async def scenario() -> None:
        registry = Registry(("base",))
        registry.move("x", None, NamedAdapter(version("1"), Path("a")))
        first, second, base = registry.resolve("x"), registry.resolve("x"), registry.resolve("base")
        assert (first.version, base.version) == ("1" * 64, None)
        waiting = asyncio.create_task(registry.idle("1" * 64))
        await registry.idle("2" * 64)
        first.release()
        await asyncio.sleep(0)
        assert not waiting.done()
        second.release()
        await waiting
        base.release()

    asyncio.run(scenario())


def test_reload_races_with_free(tmp_path: Path) -> None:
    """Content that is removed and loaded again while it is being freed is there afterwards, whatever the order."""

    async def scenario() -> None:
        folder = write_adapter(tmp_path / "a", 1)
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        lifecycle: AdapterLifecycle = service.lifecycle
        for turns in range(12):
            await lifecycle.load("x", folder)
            lifecycle.unload("x")
            for _ in range(turns):
                await asyncio.sleep(0)
            entry = await lifecycle.load("y", folder)
            for _ in range(40):
                await asyncio.sleep(0)
            assert entry.version.hash in engine.versions
            lifecycle.unload("y")
            await asyncio.sleep(0.01)
            assert not engine.versions
        await lifecycle.close()

    asyncio.run(scenario())


def test_a_load_under_way_has_its_content(tmp_path: Path) -> None:
    """A load of content whose only other name goes meanwhile ends with that content resident."""

    async def scenario() -> None:
        folder = write_adapter(tmp_path / "a", 1)
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        gate, load_adapter = asyncio.Event(), engine.load_adapter
        await service.lifecycle.load("x", folder)

        async def slowly(path: Path) -> AdapterVersion:
            found = await load_adapter(path)
            await gate.wait()
            return found

        engine.load_adapter = slowly  # type: ignore[method-assign]
        loading = asyncio.create_task(service.lifecycle.load("y", folder))
        await asyncio.sleep(0.05)
        service.lifecycle.unload("x")
        await asyncio.sleep(0.05)
        gate.set()
        entry = await loading
        await asyncio.sleep(0.05)
        assert entry.version.hash in engine.versions
        await service.lifecycle.close()

    asyncio.run(scenario())


def test_concurrent_loads_of_one_name(tmp_path: Path) -> None:
    """Of two loads that race for a name one wins, the other is told, and nothing of the loser stays resident."""

    async def scenario() -> None:
        one, two = write_adapter(tmp_path / "a", 1), write_adapter(tmp_path / "b", 2)
        service, engine = make_service(tmp_path, ServerConfig())
        await engine.start()
        results = await asyncio.gather(service.lifecycle.load("x", one), service.lifecycle.load("x", two), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["AdapterConflict", "NamedAdapter"]
        await asyncio.sleep(0.01)
        winner = service.registry.get("x")
        assert winner is not None
        assert set(engine.versions) == {winner.version.hash}
        with pytest.raises(AdapterRejected):
            await service.lifecycle.load("z", tmp_path)
        await service.lifecycle.close()

    asyncio.run(scenario())


def test_adapter_files_of_the_fixture_differ(roots: Path) -> None:
    """The scripted adapters are distinct contents, so the tests above can tell versions apart."""
    contents = {
        json.loads((roots / "allowed" / name / "adapter_config.json").read_text())["r"] for name in ("acme", "zeta", "late")
    }
    assert len(contents) == 3
