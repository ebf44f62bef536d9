"""The chat template an adapter folder brings is read from that folder only, and within bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from manylora.errors import AdapterRejected
from manylora.server.adapter_template import MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES, read_adapter_template

FILES = ("chat_template.jinja", "tokenizer_config.json")


def test_which_template_is_taken(tmp_path: Path) -> None:
    """chat_template.jinja wins over tokenizer_config.json; named templates use the default one; none is none."""
    assert read_adapter_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    assert read_adapter_template(tmp_path) is None
    config.write_text(
        json.dumps({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})
    )
    assert read_adapter_template(tmp_path) == "d"
    config.write_text(json.dumps({"chat_template": "plain"}))
    assert read_adapter_template(tmp_path) == "plain"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert read_adapter_template(tmp_path) == "file"


@pytest.mark.parametrize("name", FILES)
def test_links_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    """A template that is a link to a file elsewhere on the machine is not read; one within the folder is."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (tmp_path / "secret").write_text(json.dumps({"chat_template": "secret"}))
    (folder / name).symlink_to("../secret")
    with pytest.raises(AdapterRejected, match=rf"{name}: is a link that leads out of the folder"):
        read_adapter_template(folder)
    (folder / name).unlink()
    (folder / "mine").write_text(json.dumps({"chat_template": "mine"}))
    (folder / name).symlink_to("mine")
    assert "mine" in str(read_adapter_template(folder))


@pytest.mark.parametrize(("name", "limit"), list(zip(FILES, (MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES), strict=True)))
def test_large_files_are_refused_unread(name: str, limit: int, tmp_path: Path) -> None:
    """A file over its limit is refused by its size, however it is written."""
    with (tmp_path / name).open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(AdapterRejected, match=rf"{name}: has {limit + 1} bytes, the limit is {limit}"):
        read_adapter_template(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    """A pipe cannot hang the load, a folder or a link to nothing is not passed over as if no template were there."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(AdapterRejected, match="is not a regular file"):
        read_adapter_template(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(AdapterRejected, match=name):
        read_adapter_template(tmp_path)
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to("nothing")
    with pytest.raises(AdapterRejected, match=name):
        read_adapter_template(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": 5}'),
        ("tokenizer_config.json", json.dumps({"chat_template": "x" * (MAX_TEMPLATE_BYTES + 1)}).encode()),
        ("chat_template.jinja", b"\xff"),
    ],
    ids=["cut", "list", "deep", "number", "long", "no text"],
)
def test_unusable_content_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    """What cannot be a template is one line that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AdapterRejected, match=name) as caught:
        read_adapter_template(tmp_path)
    assert "\n" not in str(caught.value)
