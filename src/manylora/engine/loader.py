"""The loader process: reads, checks, hashes and packs adapters at low priority, so that loading never stalls serving."""

from __future__ import annotations

import os
import shutil
import traceback
from dataclasses import replace
from pathlib import Path

from manylora.adapters import read_adapter
from manylora.engine.channel import Channel, ChannelClosed
from manylora.engine.image import AdapterImage, write_image
from manylora.engine.messages import Fault, LoaderStart, Prepare, Prepared
from manylora.errors import AdapterRejected, AdapterUnavailable, ManyloraError
from manylora.kernels import release_freed_memory

NICE = 10


def run_loader(channel: Channel) -> None:
    """Prepares adapters one at a time until the parent is gone; then removes the images. The first message is the LoaderStart."""
    os.nice(NICE)
    start: LoaderStart | None = None
    try:
        while True:
            for message in channel.receive(wait=True):
                match message:
                    case LoaderStart():
                        start = message
                    case Prepare():
                        assert start is not None
                        _answer(channel, start, message)
    except ChannelClosed:
        if start is not None:
            shutil.rmtree(start.images, ignore_errors=True)


def _answer(channel: Channel, start: LoaderStart, order: Prepare) -> None:
    """One bad adapter must not end the process that others wait for: whatever it makes go wrong is its own refusal."""
    try:
        channel.send(Prepared(order.number, image=_prepare(start, order.path)))
    except ChannelClosed:
        raise
    except ManyloraError as error:
        channel.send(Prepared(order.number, fault=Fault.of(error)))
    except Exception as error:
        traceback.print_exc()
        reason = f"{order.path}: reading it failed ({type(error).__name__}: {error})".encode(errors="replace").decode()
        channel.send(Prepared(order.number, fault=Fault.of(AdapterRejected(reason))))
    release_freed_memory()  # several times an adapter's bytes, of a process that mostly waits


def _prepare(start: LoaderStart, folder: Path) -> AdapterImage:
    try:
        adapter = read_adapter(folder, start.shape, base_name=start.base_name)
    except OSError as error:
        raise AdapterRejected(f"{folder}: {error.strerror or error}") from error
    path = start.images / f"{adapter.version.hash}.image"
    # Under another name until it is whole: a loader killed half-way leaves nothing that looks like an image.
    partial = path.with_suffix(".partial")
    try:
        image = write_image(adapter, start.shape, start.extent_bytes, partial)
        partial.replace(path)
    except OSError as error:
        raise AdapterUnavailable(f"its packed copy cannot be written to {start.images}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return replace(image, path=path)
