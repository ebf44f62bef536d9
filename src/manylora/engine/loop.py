"""The engine process: polls its socket between steps, steps, and says in one message what a step did."""

from __future__ import annotations

import time

from manylora.engine.assemble import assemble
from manylora.engine.channel import Channel, ChannelClosed
from manylora.engine.core import EngineCore
from manylora.engine.messages import (
    Abort,
    Attach,
    Attached,
    Detach,
    Detached,
    EngineStart,
    Fault,
    Progress,
    Ready,
    Refused,
    StartFailed,
    Stepped,
    Submit,
    ToEngine,
)
from manylora.engine.residency import Arrived, Freed
from manylora.engine.step_log import StepLog, unlogged
from manylora.errors import ManyloraError

ATTACH_TIMEOUT_NS = 30_000_000_000
"""How long an adapter may wait for memory that running requests hold."""


def run_engine(channel: Channel) -> None:
    """Serves until the parent is gone. The first message is the EngineStart."""
    log: StepLog | None = None
    try:
        (start,) = channel.receive(wait=True)
        assert isinstance(start, EngineStart)
        try:
            if start.config.step_log is not None:
                log = StepLog(start.config.step_log)
            core, info, extent_bytes = assemble(
                start.config, start.capability, lambda stage, done, total: channel.send(Progress(stage, done, total)), log
            )
        except ManyloraError as error:
            channel.send(StartFailed(Fault.of(error)))
            channel.receive(wait=True)  # until the parent has read it and closes
            return
        channel.send(Ready(info, extent_bytes))
        serve(core, channel, log)
    except ChannelClosed:
        pass  # the parent is gone, and nobody else may use this process
    finally:
        if log is not None:
            log.close()


def serve(core: EngineCore, channel: Channel, log: StepLog | None = None) -> None:
    """Handles messages and steps, in turns, until the parent is gone (ChannelClosed)."""
    charge = unlogged if log is None else log.charge
    while True:
        idle = not core.busy
        messages = channel.receive(wait=idle and not core.use_idle_time())
        if idle:
            charge("idle")
        for message in messages:
            _handle(core, channel, message)
        charge("messages")
        if core.busy:
            outputs = core.step(time.monotonic_ns())
            channel.send(Stepped(outputs, core.stats()))
            charge("messages")
            if log is not None and not core.last_step.plan.empty:
                log.write(core.last_step)
        elif messages:
            channel.send(Stepped([], core.stats()))  # an abort or an adapter may have changed them
        _report_settled(core, channel)
        if not core.busy:
            core.check()
            if log is not None:
                log.flush()
        charge("other")


def _handle(core: EngineCore, channel: Channel, message: ToEngine) -> None:
    now = time.monotonic_ns()
    match message:
        case Submit(request):
            try:
                core.add(request, now)
            except ManyloraError as error:
                channel.send(Refused(request.id, Fault.of(error)))
        case Abort(id):
            core.abort(id)
        case Attach(image):
            try:
                core.attach(image, now, ATTACH_TIMEOUT_NS)
            except ManyloraError as error:
                channel.send(Attached(image.version.hash, Fault.of(error)))
        case Detach(version):
            try:
                core.retire(version)
            except ManyloraError as error:
                channel.send(Detached(version, 0, Fault.of(error)))
        case _:
            raise AssertionError(f"unexpected message {message!r}")


def _report_settled(core: EngineCore, channel: Channel) -> None:
    for settled in core.take_settled():
        match settled:
            case Arrived(version, error):
                channel.send(Attached(version, None if error is None else Fault.of(error)))
            case Freed(version, bytes):
                channel.send(Detached(version, bytes))
