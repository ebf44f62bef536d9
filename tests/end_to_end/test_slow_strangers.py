"""What comes with an adapter may take for ever, its files to read or its chat template to render. Others are served."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import httpx
import psutil

from tests.end_to_end.conftest import TEMPLATE, World
from tests.end_to_end.live_server import LiveServer, completion, in_background, until
from tests.end_to_end.test_bad_input import error_of

ENDLESS = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"


def child(server: LiveServer, *words: str) -> psutil.Process | None:
    """The server's child whose command line has these words after `python -m`."""
    found = [child for child in server.children() if child.cmdline()[2 : 2 + len(words)] == list(words)]
    return found[0] if found else None


def with_template(world: World, folder: Path, template: str) -> Path:
    """A copy of a good adapter that brings a chat template of its own."""
    shutil.copytree(world.adapters["qv8"], folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_load_that_hangs_keeps_no_memory(own_server: LiveServer, world: World) -> None:
    """While the loader reads for ever, another adapter that is removed gives its memory back; the load then ends as it should."""
    server, loader = own_server, child(own_server, "manylora.engine.process", "loader")
    assert loader is not None
    held = server.fresh_metric("adapter_bytes")
    loader.suspend()
    try:
        loaded = in_background(lambda: server.load("again", world.adapters["all4"]))
        assert server.unload("mixed").status_code == 200
        until(lambda: server.fresh_metric("adapter_bytes") < held, "the memory of the removed adapter is free")
        assert "again" not in server.names()
    finally:
        loader.resume()
    assert loaded().status_code == 200
    assert server.answer("again") == server.answer("all4")


def test_a_template_that_never_ends(own_server: LiveServer, world: World) -> None:
    """An adapter whose template never ends is not loaded; one whose template does not end for some words fails for these only,
    others are answered as ever, and a signal ends the server, whatever its template does."""
    server, before = own_server, own_server.answer("all4")
    error = error_of(server.load("endless", with_template(world, world.root / "endless", ENDLESS)), 400)
    assert "processor time" in error["message"]
    trap = "{% if messages[0].content == 'trap' %}" + ENDLESS + "{% endif %}" + TEMPLATE
    assert server.load("trapped", with_template(world, world.root / "trapped", trap)).status_code == 200

    def ask(model: str, words: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": 4, "temperature": 0}
        return server.post("/v1/chat/completions", body)

    trapped = in_background(lambda: error_of(ask("trapped", "trap"), 400))
    assert server.answer("all4") == before
    assert "processor time" in trapped()["message"]
    said = [ask(model, "hello").json()["choices"][0]["message"] for model in ("trapped", "qv8")]
    assert said[0] == said[1]

    worker = child(server, "manylora.server.template_worker")
    assert worker is not None
    idle = worker.cpu_times().user
    waiting = in_background(lambda: ask("trapped", "trap"))
    until(lambda: worker.cpu_times().user > idle + 0.1, "the template is being rendered")
    children = server.children()
    process = psutil.Process(server.pid)
    os.kill(server.pid, signal.SIGTERM)
    assert waiting().status_code in (400, 503)
    assert process.wait(60) == 0
    until(lambda: not any(left.is_running() and left.status() != psutil.STATUS_ZOMBIE for left in children), "nothing is left")


def test_a_template_link_out_of_the_folder(own_server: LiveServer, world: World) -> None:
    """A chat template that is a link out of the adapter's folder is refused as its weights would be."""
    folder = with_template(world, world.root / "linked", TEMPLATE)
    (world.outside / "text").write_text("a secret")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").symlink_to(world.outside / "text")
    assert "leads out of the folder" in error_of(own_server.load("linked", folder), 400)["message"]
    assert own_server.post("/v1/completions", completion("linked")).status_code == 404
