"""The loader process: reads, checks, hashes and packs adapters at low priority, so that loading never stalls serving."""

from __future__ import annotations

import os
import shutil

from manylora.adapters import read_adapter
from manylora.engine.channel import Channel, ChannelClosed
from manylora.engine.image import write_image
from manylora.engine.messages import Fault, LoaderStart, Prepare, Prepared
from manylora.errors import AdapterRejected, ManyloraError

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
                        channel.send(_prepare(start, message))
    except ChannelClosed:
        if start is not None:
            shutil.rmtree(start.images, ignore_errors=True)


def _prepare(start: LoaderStart, order: Prepare) -> Prepared:
    try:
        adapter = read_adapter(order.path, start.shape, base_name=start.base_name)
        path = start.images / f"{adapter.version.hash}.image"
        # Under another name until it is whole: a loader killed half-way leaves nothing that looks like an image.
        partial = path.with_suffix(".partial")
        image = write_image(adapter, start.shape, start.extent_bytes, partial)
        partial.replace(path)
        return Prepared(order.number, image=type(image)(image.version, path, image.extents, image.extent_bytes, image.pieces))
    except ManyloraError as error:
        return Prepared(order.number, fault=Fault.of(error))
    except OSError as error:
        return Prepared(order.number, fault=Fault.of(AdapterRejected(f"{order.path}: {error.strerror or error}")))
