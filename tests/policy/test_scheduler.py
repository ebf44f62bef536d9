"""Continuous batching, as decisions alone: no model, no clock."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from manylora.policy.extents import Extents
from manylora.policy.kv_blocks import BLOCK_TOKENS, KvBlocks
from manylora.policy.scheduler import Scheduler, SchedulerConfig, Sequence
from manylora.types.step import StepPlan

MS = 1_000_000


def scheduler(extents: int = 16, **limits: int) -> Scheduler:
    defaults = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "max_model_len": 128, "reserve_tokens": 16}
    return Scheduler(SchedulerConfig(**(defaults | limits)), KvBlocks(Extents(extents, 4)))


def request(id: str, prompt: int = 8, tokens: int | None = 4, tenant: str = "t", keys: list[bytes] | None = None) -> Sequence:
    return Sequence(id, tenant, prompt, tokens, list(keys or []))


@dataclass
class Driver:
    """Plays the engine: ends a request after its `lengths` new tokens, and checks each plan against the laws of a step."""

    scheduler: Scheduler
    lengths: dict[str, int] = field(default_factory=dict)
    sampled: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    plans: list[StepPlan] = field(default_factory=list)
    now: int = 0

    def add(self, sequence: Sequence, length: int) -> None:
        self.lengths[sequence.id] = length
        self.sampled[sequence.id] = 0
        self.scheduler.add(sequence, self.now)

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule(self.now)
        config = self.scheduler.config
        assert plan.rows <= config.max_num_batched_tokens
        assert self.scheduler.running <= config.max_num_seqs
        assert len({*plan.decodes, *(chunk.id for chunk in plan.prefills)}) == len(plan.decodes) + len(plan.prefills)
        for id in plan.decodes:
            assert self.scheduler[id].known - self.scheduler[id].computed == 1
        for id in (*plan.decodes, *(chunk.id for chunk in plan.prefills)):
            assert len(self.scheduler[id].blocks) * BLOCK_TOKENS >= self.scheduler[id].computed + 1
        self.scheduler.advance(plan)
        for id in (*plan.decodes, *(chunk.id for chunk in plan.prefills if chunk.samples)):
            self.sampled[id] += 1
            if self.sampled[id] == self.lengths[id]:
                self.scheduler.remove(id)
                self.finished.append(id)
        self.scheduler.check()
        self.now += MS
        self.plans.append(plan)
        return plan

    def drain(self, limit: int = 3000) -> None:
        for _ in range(limit):
            if not list(self.scheduler.ids):
                return
            self.step()
        raise AssertionError(f"still waiting or running after {limit} steps: {list(self.scheduler.ids)}")


requests = st.tuples(
    st.integers(1, 60),  # prompt
    st.integers(1, 40),  # tokens it will have
    st.booleans(),  # says so by max_tokens
    st.sampled_from("xyz"),  # tenant
    st.integers(0, 3),  # shared prefix family
)


@settings(deadline=None)
@given(arrivals=st.lists(st.tuples(requests, st.integers(0, 6)), min_size=1, max_size=20), extents=st.integers(3, 8))
def test_every_request_ends_and_every_block_comes_back(
    arrivals: list[tuple[tuple[int, int, bool, str, int], int]], extents: int
) -> None:
    """No deadlock, no starvation, no leak: with any arrivals and memory for at least one request of the greatest length."""
    driver = Driver(scheduler(extents))
    for number, ((prompt, length, bounded, tenant, family), pause) in enumerate(arrivals):
        keys = [f"{family}/{block}".encode() for block in range(prompt // BLOCK_TOKENS)]
        driver.add(Sequence(f"r{number}", tenant, prompt, length if bounded else None, keys), length)
        for _ in range(pause):
            driver.step()
    driver.drain()
    assert sorted(driver.finished) == sorted(f"r{number}" for number in range(len(arrivals)))
    assert driver.scheduler.blocks.referenced == 0


@settings(deadline=None)
@given(st.lists(st.tuples(requests, st.integers(0, 3), st.booleans()), min_size=1, max_size=15))
def test_aborts_at_any_moment_leave_nothing_behind(script: list[tuple[tuple[int, int, bool, str, int], int, bool]]) -> None:
    """A request that ends early, waiting or running, gives everything back at once."""
    driver = Driver(scheduler(4))
    for number, ((prompt, length, bounded, tenant, _), pause, abort) in enumerate(script):
        driver.add(request(f"r{number}", prompt, length if bounded else None, tenant), length)
        for _ in range(pause):
            driver.step()
        if abort and (ids := list(driver.scheduler.ids)):
            driver.scheduler.remove(ids[number % len(ids)])
            driver.scheduler.check()
    driver.drain()
    assert driver.scheduler.blocks.referenced == 0


@settings(deadline=None)
@given(st.lists(st.tuples(requests, st.integers(0, 4)), min_size=1, max_size=10))
def test_the_same_events_give_the_same_plans(arrivals: list[tuple[tuple[int, int, bool, str, int], int]]) -> None:
    """Decisions are a function of their arguments: the twin can replay the engine."""

    def play() -> list[StepPlan]:
        driver = Driver(scheduler(5))
        for number, ((prompt, length, bounded, tenant, _), pause) in enumerate(arrivals):
            driver.add(request(f"r{number}", prompt, length if bounded else None, tenant), length)
            for _ in range(pause):
                driver.step()
        driver.drain()
        return driver.plans

    assert play() == play()


@given(prompts=st.lists(st.integers(1, 20), min_size=1, max_size=4), bounded=st.booleans())
def test_advance_by_n_equals_n_advances(prompts: list[int], bounded: bool) -> None:
    """The twin may jump along a steady run: one advance of n equals n single ones, and the plans in between repeat."""
    driver = Driver(scheduler())
    for number, prompt in enumerate(prompts):
        driver.add(request(f"r{number}", prompt, 60 if bounded else None), 60)
    for _ in range(4):
        driver.step()
    jumped = copy.deepcopy(driver.scheduler)
    plan = jumped.schedule(driver.now)
    steps = jumped.steady()
    assert steps >= 1
    jumped.advance(plan, steps)
    walked = driver.scheduler
    for _ in range(steps):
        assert walked.schedule(driver.now) == plan
        walked.advance(plan)
    assert [(walked[id].known, walked[id].computed) for id in walked.ids] == [
        (jumped[id].known, jumped[id].computed) for id in jumped.ids
    ]
    assert walked.schedule(driver.now) == jumped.schedule(driver.now)


def test_a_long_prompt_is_computed_in_chunks_beside_running_decodes() -> None:
    """Chunked prefill: a step's budget goes to decodes first, so running streams never wait for a prompt."""
    driver = Driver(scheduler())
    driver.add(request("short", 4, 40), 40)
    driver.step()
    driver.add(request("long", 100, 4), 4)
    plans = [driver.step() for _ in range(4)]
    assert [plan.decodes for plan in plans] == [("short",)] * 4
    assert [plan.prefills[0].count for plan in plans] == [31, 31, 31, 7]
    assert [plan.prefills[0].samples for plan in plans] == [False, False, False, True]


def test_cached_prefixes_are_not_computed_again_but_the_last_token_is() -> None:
    """The logits of the last prompt token are needed even when all of its blocks are cached."""
    driver = Driver(scheduler())
    keys = [b"a", b"b"]
    driver.add(request("first", 32, 1, keys=keys), 1)
    driver.drain()
    driver.add(request("again", 32, 1, keys=keys), 1)
    plan = driver.step()
    assert plan.admitted[0].cached == 16
    assert plan.prefills[0].start == 16


def test_prompt_scoring_bypasses_the_cache() -> None:
    """A request that wants log-probabilities of its prompt needs every row computed."""
    driver = Driver(scheduler())
    for id in ("first", "again"):
        driver.add(Sequence(id, "t", 32, 1, [b"a", b"b"], reuse=False), 1)
        assert driver.step().admitted[0].cached == 0


def test_a_bounded_request_takes_all_its_memory_at_admission_or_waits() -> None:
    """Running work never runs out of memory: no growth, no preemption while every request names max_tokens."""
    driver = Driver(scheduler(extents=2, max_num_batched_tokens=128))  # 128 tokens
    driver.add(request("a", 60, 40), 40)  # 99 stored tokens: 7 of 8 blocks
    driver.add(request("b", 20, 20), 20)
    driver.drain()
    assert all(not plan.grown and not plan.preempted for plan in driver.plans)
    assert driver.finished == ["a", "b"]


def test_growth_preempts_the_newest_unbounded_request_never_the_oldest() -> None:
    """Overflow recomputes the newest; the oldest goes on to its end."""
    driver = Driver(scheduler(extents=2, max_num_batched_tokens=128, reserve_tokens=8))
    driver.add(request("old", 30, None), 90)
    driver.add(request("new", 30, None), 60)
    driver.drain()
    assert {id for plan in driver.plans for id in plan.preempted} == {"new"}
    assert driver.finished == ["old", "new"]
    assert driver.scheduler.preemptions >= 1


def test_a_waiter_past_its_bound_is_promised_all_freed_memory() -> None:
    """Small requests may pass a big one only until it has waited max_wait: then nobody may, and it runs next."""
    driver = Driver(scheduler(extents=2, max_num_batched_tokens=128, max_wait_ns=5 * MS))
    driver.add(request("hog", 60, 40, "h"), 40)
    driver.step()
    driver.add(request("big", 100, 20, "b"), 20)
    for number in range(60):
        driver.add(request(f"small{number}", 4, 4, "s"), 4)
    driver.drain()
    order = [admission.id for plan in driver.plans for admission in plan.admitted]
    passed = [id for id in order[: order.index("big")] if id.startswith("small")]
    assert 0 < len(passed) <= 12  # 8 ms at the most, one or two each
    assert order.index("big") < order.index("small59")


def test_a_flood_of_one_tenant_does_not_starve_another() -> None:
    """Virtual token counters: the newcomer is served after at most one round, not behind the whole flood, however old the flood
    is: a bound on waiting for memory must not turn fairness off under overload."""
    driver = Driver(scheduler(max_num_seqs=2, max_wait_ns=5 * MS))
    for number in range(60):
        driver.add(request(f"flood{number}", 8, 4, "loud"), 4)
    for _ in range(40):
        driver.step()
    driver.finished.clear()
    driver.add(request("quiet", 8, 4, "quiet"), 4)
    driver.drain()
    assert driver.finished.index("quiet") <= 4


def test_idleness_saves_no_credit() -> None:
    """A tenant that comes back from idling takes turns with the others; it does not first get all that they had meanwhile."""
    driver = Driver(scheduler(max_num_seqs=1))
    driver.add(request("early", 8, 1, "idler"), 1)
    for number in range(12):
        driver.add(request(f"busy{number}", 8, 4, "busy"), 4)
    for _ in range(30):
        driver.step()
    for number in range(6):
        driver.add(request(f"idler{number}", 8, 4, "idler"), 4)
    driver.drain()
    order = [id for id in driver.finished if id.startswith("idler")][:3]
    between = driver.finished.index(order[-1]) - driver.finished.index(order[0])
    assert between >= 4, "the idler's requests ran in a row"


def test_a_stalled_oldest_request_goes_before_new_work() -> None:
    """Nothing is admitted while a running request waits for a block to grow into."""
    driver = Driver(scheduler(extents=2, max_num_batched_tokens=128, reserve_tokens=8))
    driver.add(request("grows", 16, None), 100)
    driver.add(request("bounded", 60, 30), 30)
    stalled = 0
    for number in range(120):
        driver.add(request(f"new{number}", 4, 2, "other"), 2)
        plan = driver.step()
        if "grows" in driver.scheduler and driver.scheduler["grows"].admitted >= 0 and "grows" not in plan.decodes:
            stalled += not plan.prefills or plan.prefills[0].id != "grows"
            assert not plan.admitted or plan.admitted[0].id == "grows"
    assert "grows" in driver.finished
    assert stalled > 0, "the scenario does not stall"


def test_service_is_shared_in_equal_tokens_between_backlogged_tenants() -> None:
    """Fairness is in tokens, not in requests: a tenant with requests five times as long gets a fifth as many through."""
    driver = Driver(scheduler(max_num_seqs=4, max_wait_ns=10**18))
    for number in range(60):
        driver.add(request(f"long{number}", 8, 50, "long"), 50)
        driver.add(request(f"short{number}", 8, 10, "short"), 10)
    tokens = {"long": 0, "short": 0}
    while driver.scheduler.waiting > 60 and len([id for id in driver.finished if id.startswith("short")]) < 50:
        driver.step()
    for id, count in driver.sampled.items():
        tokens["long" if id.startswith("long") else "short"] += 2 * count + (8 if count else 0)
    assert 0.6 < tokens["long"] / tokens["short"] < 1.7
