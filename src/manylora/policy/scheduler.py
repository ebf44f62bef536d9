"""Continuous batching: schedule(now) -> StepPlan, advance(plan). Time is integer nanoseconds.

There is no prefill phase and no decode phase: every running request has known tokens and computed tokens, and a step lets the
computed ones catch up. A request whose one newest token is left to compute decodes; one that has more prefills, in chunks.

Admission takes all KV that a bounded request can ever need, or nothing, so running work never runs out of memory. A request
without `max_tokens` takes a reserve and grows; when growth finds no block, the newest such request is preempted and recomputed
later, never the oldest. Whose turn it is, fairness says; a request whose turn came but whose memory did not may be passed by
smaller ones for `max_wait_ns`, and is then promised everything that comes free.

The engine walks step by step. A caller that knows when requests end, as a simulator does, may jump along a steady run instead:
`steady` says how far, `advance(plan, steps)` goes there, `deadline` is the next decision that time alone brings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from manylora.policy.fairness import TokenCounters
from manylora.policy.kv_blocks import BLOCK_TOKENS, KvBlocks, blocks_for
from manylora.types.step import Admission, Growth, Prefill, StepPlan


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of a step and of waiting."""

    max_num_seqs: int = 64
    """Requests running at once."""
    max_num_batched_tokens: int = 512
    """Token rows of one step; at least `max_num_seqs`, so that every decode fits."""
    max_model_len: int = 2048
    reserve_tokens: int = 256
    """New tokens for which a request without a bound takes memory at a time."""
    max_wait_ns: int = 2_000_000_000
    """How long a request whose memory is not free may be passed by smaller ones before all freed memory is promised to it."""

    def __post_init__(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")


@dataclass(slots=True, eq=False)
class Sequence:
    """One request as the policy sees it."""

    id: str
    tenant: str
    known: int
    """Tokens whose ids are decided: the prompt, then one more per sampled token."""
    max_tokens: int | None
    """New tokens at most, or None."""
    keys: list[bytes] = field(default_factory=list)
    """Content keys of its full known blocks, in order. The owner appends as blocks fill."""
    reuse: bool = True
    """Whether the prefix cache may serve its prompt."""
    arrived: int = 0
    """Nanoseconds."""
    blocked: int | None = None
    """Since when it could run but for memory, in nanoseconds."""
    computed: int = 0
    final: int = 0
    """Most tokens it can ever know, set by `add`."""
    admitted: int = -1
    """Order of admission; later is newer."""
    blocks: list[int] = field(default_factory=list)


class Scheduler:
    """The state of one engine's queue and batch."""

    def __init__(self, config: SchedulerConfig, blocks: KvBlocks) -> None:
        self.config = config
        self.blocks = blocks
        self.preemptions = 0
        self._sequences: dict[str, Sequence] = {}
        self._waiting: dict[str, deque[Sequence]] = {}  # tenant -> its queue; empty queues are removed
        self._prefilling: dict[str, Sequence] = {}  # in order of admission
        self._decoding: dict[str, Sequence] = {}
        self._decodes: tuple[str, ...] | None = ()  # the keys of _decoding, rebuilt when they change
        self._unbounded: dict[str, Sequence] = {}  # running without max_tokens, in order of admission
        self._load: dict[str, int] = {}  # tenant -> running sequences
        self._counters = TokenCounters()
        self._admissions = 0

    # -- what the owner tells it ------------------------------------------------------------------------------------------------

    def add(self, sequence: Sequence, now: int) -> None:
        """Queues a request. Its prompt must be non-empty and shorter than max_model_len."""
        assert sequence.id not in self._sequences, f"request {sequence.id} is already here"
        room = self.config.max_model_len - sequence.known
        assert sequence.known > 0, "the owner refuses empty prompts"
        assert room > 0, "the owner refuses what can never fit"
        sequence.arrived = now
        sequence.final = sequence.known + min(room, room if sequence.max_tokens is None else sequence.max_tokens)
        self._sequences[sequence.id] = sequence
        self._enqueue(sequence, front=False)

    def remove(self, id: str) -> None:
        """The request ended or was aborted, wherever it is. Its blocks are free, or cached, at once."""
        sequence = self._sequences.pop(id)
        if sequence.admitted < 0:
            self._waiting[sequence.tenant].remove(sequence)
            if not self._waiting[sequence.tenant]:
                del self._waiting[sequence.tenant]
        else:
            self._leave_batch(sequence)
        if not self._sequences:
            self._counters.reset()

    def schedule(self, now: int) -> StepPlan:
        """The next step. Changes who holds blocks and who runs; nothing has been computed until `advance`."""
        grown, preempted = self._grow()  # first: a running request that waits for a block leaves none to admit with
        admitted = self._admit(now) if not preempted else []
        if self._decodes is None:
            self._decodes = tuple(self._decoding)
        stalled = self._stalled()
        decodes = self._decodes if not stalled else tuple(id for id in self._decodes if id not in stalled)
        return StepPlan(
            preempted=tuple(preempted),
            grown=tuple(grown),
            admitted=tuple(admitted),
            prefills=tuple(self._chunks(self.config.max_num_batched_tokens - len(decodes))),
            decodes=decodes,
        )

    def advance(self, plan: StepPlan, steps: int = 1) -> None:
        """The plan's rows are computed and its samples are known. With steps > 1 the plan must be steady for that many."""
        for id in plan.decodes:
            self._compute(self._decoding[id], steps)
            self._decoding[id].known += steps
        for tenant, running in self._served_by(plan.decodes):
            self._counters.charge(tenant, output=running * steps)
        for chunk in plan.prefills:
            sequence = self._prefilling[chunk.id]
            self._compute(sequence, chunk.count)
            if chunk.samples:
                sequence.known += 1
                del self._prefilling[chunk.id]
                self._decoding[chunk.id] = sequence
                self._decodes = None

    def steady(self) -> int:
        """For how many steps `schedule` would repeat the last plan with its decodes advancing, if nothing is added or removed and
        no waiter's promise falls due. 0 while anything prefills, waits or stalls."""
        if self._prefilling or self._waiting or self._stalled():
            return 0
        return min((self._capacity(sequence) - sequence.computed for sequence in self._decoding.values()), default=0)

    def deadline(self) -> int | None:
        """When the next waiter is promised all freed memory, in nanoseconds, or None."""
        blocked = [queue[0].blocked for queue in self._waiting.values() if queue[0].blocked is not None]
        return min(blocked) + self.config.max_wait_ns if blocked else None

    # -- what it tells ----------------------------------------------------------------------------------------------------------

    def __getitem__(self, id: str) -> Sequence:
        return self._sequences[id]

    def __contains__(self, id: str) -> bool:
        return id in self._sequences

    @property
    def ids(self) -> Iterable[str]:
        """Every request that is waiting or running."""
        return self._sequences.keys()

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return len(self._sequences) - self.running

    def check(self) -> None:
        """Raises AssertionError unless blocks are conserved and held by exactly the running requests."""
        self.blocks.check()
        held = {block for sequence in (*self._prefilling.values(), *self._decoding.values()) for block in sequence.blocks}
        assert len(held) == self.blocks.referenced, f"{self.blocks.referenced} blocks referenced, {len(held)} held"

    # -- admission --------------------------------------------------------------------------------------------------------------

    def _admit(self, now: int) -> list[Admission]:
        admitted: list[Admission] = []
        promised = self._promised(now)
        blocked: set[str] = set()
        while self.running < self.config.max_num_seqs:
            tenant = promised.tenant if promised else self._next_tenant(blocked)
            if tenant is None:
                break
            sequence = promised or self._waiting[tenant][0]
            admission = self._try_admit(sequence)
            if admission is not None:
                admitted.append(admission)
                promised = self._promised(now)
                continue
            if sequence.blocked is None:
                sequence.blocked = now
            if promised is not None:
                break  # nobody may pass
            blocked.add(tenant)
        return admitted

    def _promised(self, now: int) -> Sequence | None:
        heads = [queue[0] for queue in self._waiting.values() if queue[0].blocked is not None]
        longest = min(heads, key=lambda head: head.blocked or 0, default=None)
        due = longest is not None and now - (longest.blocked or 0) >= self.config.max_wait_ns
        return longest if due else None

    def _next_tenant(self, blocked: set[str]) -> str | None:
        candidates = (tenant for tenant in self._waiting if tenant not in blocked)
        return min(candidates, key=lambda tenant: (self._counters.served(tenant), self._waiting[tenant][0].arrived), default=None)

    def _try_admit(self, sequence: Sequence) -> Admission | None:
        # The last known token must be computed even when all of the prompt is cached: its output is the next token.
        usable = (sequence.known - 1) // BLOCK_TOKENS if sequence.reuse else 0
        cached = self.blocks.match(sequence.keys[:usable])
        blocks = self.blocks.acquire(sequence.keys[:cached], blocks_for(self._wanted(sequence)))
        if blocks is None:
            return None
        queue = self._waiting[sequence.tenant]
        queue.remove(sequence)
        if not queue:
            del self._waiting[sequence.tenant]
        sequence.blocks = blocks
        sequence.computed = cached * BLOCK_TOKENS
        sequence.blocked = None
        sequence.admitted = self._admissions
        self._admissions += 1
        # Charged here, not as it is computed: one tenant's burst must not fill the batch before it counts.
        self._counters.charge(sequence.tenant, prompt=sequence.known - sequence.computed)
        self._prefilling[sequence.id] = sequence
        self._load[sequence.tenant] = self._load.get(sequence.tenant, 0) + 1
        if sequence.max_tokens is None:
            self._unbounded[sequence.id] = sequence
        return Admission(sequence.id, tuple(blocks), sequence.computed)

    def _wanted(self, sequence: Sequence) -> int:
        # The last token of an answer is never an input, so its keys and values are never stored.
        final = sequence.final - 1
        if sequence.max_tokens is None:
            final = min(final, sequence.known + self.config.reserve_tokens)
        return max(final, sequence.known)

    def _enqueue(self, sequence: Sequence, *, front: bool) -> None:
        tenant = sequence.tenant
        if tenant not in self._waiting and tenant not in self._load:
            self._counters.activate(tenant, {*self._waiting, *self._load})
        queue = self._waiting.setdefault(tenant, deque())
        queue.appendleft(sequence) if front else queue.append(sequence)

    # -- the batch --------------------------------------------------------------------------------------------------------------

    def _chunks(self, budget: int) -> Iterable[Prefill]:
        for sequence in self._prefilling.values():
            if budget <= 0:
                return
            count = min(sequence.known - sequence.computed, budget)
            budget -= count
            yield Prefill(sequence.id, sequence.computed, count, sequence.computed + count == sequence.known)

    def _compute(self, sequence: Sequence, count: int) -> None:
        first = sequence.computed // BLOCK_TOKENS
        sequence.computed += count
        for index in range(first, min(sequence.computed // BLOCK_TOKENS, len(sequence.keys))):
            self.blocks.seal(sequence.blocks[index], sequence.keys[index])

    def _served_by(self, decodes: tuple[str, ...]) -> Iterable[tuple[str, int]]:
        counts: dict[str, int] = {}
        for id in decodes:
            tenant = self._decoding[id].tenant
            counts[tenant] = counts.get(tenant, 0) + 1
        return counts.items()

    def _leave_batch(self, sequence: Sequence) -> None:
        self._prefilling.pop(sequence.id, None)
        if self._decoding.pop(sequence.id, None) is not None:
            self._decodes = None
        self._unbounded.pop(sequence.id, None)
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.admitted = -1
        self._load[sequence.tenant] -= 1
        if not self._load[sequence.tenant]:
            del self._load[sequence.tenant]

    # -- growth of requests without a bound -------------------------------------------------------------------------------------

    @staticmethod
    def _capacity(sequence: Sequence) -> int:
        return len(sequence.blocks) * BLOCK_TOKENS

    def _full(self, sequence: Sequence) -> bool:
        return sequence.known > self._capacity(sequence)

    def _stalled(self) -> set[str]:
        return {id for id, sequence in self._unbounded.items() if self._full(sequence)}

    def _grow(self) -> tuple[list[Growth], list[str]]:
        grown: list[Growth] = []
        preempted: list[str] = []
        for sequence in list(self._unbounded.values()):
            while sequence.admitted >= 0 and self._full(sequence):
                more = blocks_for(self._wanted(sequence)) - len(sequence.blocks)
                blocks = self.blocks.acquire((), more) or self.blocks.acquire((), 1)
                if blocks is not None:
                    sequence.blocks += blocks
                    grown.append(Growth(sequence.id, tuple(blocks)))
                    continue
                newest = next(reversed(self._unbounded.values()))
                if newest is sequence and len(self._unbounded) == 1:
                    break  # the oldest waits for others to end; bounded work always does
                self._preempt(newest)
                preempted.append(newest.id)
        return [growth for growth in grown if growth.id not in preempted], preempted

    def _preempt(self, sequence: Sequence) -> None:
        self._leave_batch(sequence)
        sequence.computed = 0
        self.preemptions += 1
        self._enqueue(sequence, front=True)
