"""Models and adapters that the loads need: made when first asked for, kept below one folder."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from benchmarks.cases import TARGETS, Case
from benchmarks.random_adapters import write_adapter
from benchmarks.random_model import LLAMA_1B, write_model

SCRATCH = Path("build/loads")
"""Where they are kept when a benchmark is started in the project's folder."""


class Checkpoints:
    """`folder` is where they are kept, `small` the folder of the small real model. Equal names have equal content."""

    def __init__(self, folder: Path, small: Path) -> None:
        self.folder = folder.resolve()
        self._small = small.resolve()

    def base(self, model: str) -> Path:
        """The Hugging Face folder of a case's model."""
        if model == "smol":
            return self._small
        folder = self.folder / model
        return folder if (folder / "config.json").is_file() else write_model(folder, LLAMA_1B, self._small)

    def vocabulary(self, model: str) -> int:
        """Number of token ids."""
        config = LLAMA_1B if model == "1b" else json.loads((self._small / "config.json").read_text())
        return int(config["vocab_size"])

    def adapter(self, model: str, name: str) -> Path:
        """The PEFT folder of one of `Case.adapter_names`."""
        folder = self.folder / f"{model}-adapters" / name
        if not (folder / "adapter_config.json").is_file():
            config = json.loads((self.base(model) / "config.json").read_text())
            rank, targets, _ = name.split("-")
            write_adapter(folder, config, int(rank.removeprefix("r")), TARGETS[targets], zlib.crc32(name.encode()))
        return folder

    def adapters(self, model: str, cases: list[Case]) -> dict[str, Path]:
        """Name -> PEFT folder of every adapter of some cases of one model."""
        names = dict.fromkeys(name for case in cases for name in case.adapter_names)
        return {name: self.adapter(model, name) for name in names}
