"""The step log: one JSON object a line for every engine step, with what it did and where its time went.

The records of one engine process tile its time without a gap: each ends `idle_ns + wall_ns` nanoseconds after the one before it,
the first after the engine has loaded its model. `wall_ns` is the exact sum of the parts that follow it. Within a record idle time
comes first, unless messages that led to no step, such as the arrival of an adapter, came in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from manylora.errors import ConfigError

Part = Literal["idle", "messages", "scheduling", "base", "lora", "attention", "elementwise", "python", "sampling", "other"]
"""What the engine's time is charged to. Each is a field of StepRecord, with `_ns`."""


class StepRecord(msgspec.Struct, frozen=True):
    """One engine step. Times are nanoseconds of the engine's main thread; counts are of this step alone."""

    end_ns: int
    """When its outputs had been sent, on the system's monotonic clock."""
    rows: int
    """Token rows of the forward pass: `prefill_tokens + decodes`."""
    prefill_tokens: int
    """Prompt tokens computed, those of requests computed anew after a preemption included."""
    decodes: int
    """Requests that computed their one newest token."""
    samples: int
    """Rows whose next token was chosen: the decodes, and the prompts that this step completed."""
    context_tokens: int
    """Positions attended to, summed over the rows: a decode after k known tokens adds k, itself included."""
    sequences: int
    """Requests with rows in the step."""
    adapters: int
    """Distinct adapters in the step."""
    idle_ns: int
    """Nothing to compute, since the end of the record before: waiting for a message, or readying memory for later."""
    wall_ns: int
    """All other time since then: the sum of the parts below."""
    messages_ns: int
    """Reading requests, sending outputs."""
    scheduling_ns: int
    """Deciding on the step, laying out its rows, and taking in its tokens."""
    base_ns: int
    """Products with the base model's weights, lm_head included, with what is part of them: the activation after gate and up, the
    quantisation of rows to int8, fetching adapters' factors ahead."""
    lora_ns: int
    """The adapters' low-rank products. Where they share a kernel with the base's, by the share of the threads' time they took."""
    attention_ns: int
    elementwise_ns: int
    """Norms, rotary embedding (with the writing of keys and values), embedding lookup."""
    python_ns: int
    """What the forward pass took beyond its operations: calling them."""
    sampling_ns: int
    """From logits to tokens: penalties and biases, choosing, log-probabilities."""
    other_ns: int
    """The rest: moving adapters into memory, checking the books, writing this log."""


def read_step_log(path: Path) -> Iterator[StepRecord]:
    """The records of a file. Raises ConfigError, with the number of the line, for what is no record."""
    decoder = msgspec.json.Decoder(StepRecord)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise ConfigError(f"{path}: line {number} is no step record: {error}") from error
