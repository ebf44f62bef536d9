"""The engine without its process: requests in, steps, outputs out. Three verbs a step: schedule, run, commit."""

from __future__ import annotations

from collections.abc import Iterable

from manylora.engine.image import AdapterImage
from manylora.engine.residency import COPY_BYTES_PER_STEP, Arrived, Freed, Residency, Settled
from manylora.engine.runner import Runner, Sample
from manylora.engine.step_log import Charge, StepFigures, unlogged
from manylora.engine.track import Track
from manylora.engine.validation import check_request
from manylora.errors import Overloaded
from manylora.policy.scheduler import Scheduler, Sequence
from manylora.types.engine import EngineStats
from manylora.types.request import FinishReason, Request, RequestOutput
from manylora.types.step import StepPlan


class EngineCore:
    """Every request that `add` accepts gets outputs from `step`, the last with a finish reason, unless it is aborted.

    Time is an argument, in nanoseconds; nothing here looks at a clock. `charge` is told what each part of a step was."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        residency: Residency,
        *,
        vocab: int,
        max_waiting: int,
        prefix_cache: bool = True,
        charge: Charge = unlogged,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._residency = residency
        self._vocab = vocab
        self._max_waiting = max_waiting
        self._prefix_cache = prefix_cache
        self._charge = charge
        self._tracks: dict[str, Track] = {}
        self._plan = StepPlan()
        self._settled: list[Settled] = []
        self._steps = self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0
        self._steps_adapters = self._last_rows = 0

    # -- requests ---------------------------------------------------------------------------------------------------------------

    def add(self, request: Request, now: int) -> None:
        """Queues a request. Raises RequestError, AdapterNotFound or Overloaded, and then holds nothing of it."""
        limit = self._scheduler.config.max_model_len
        check_request(request, self._vocab, limit)
        if self._scheduler.waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests are waiting; try again later")
        handle = None if request.adapter is None else self._residency.acquire(request.adapter)
        wanted = request.sampling.max_tokens
        final = min(limit, len(request.prompt) + wanted) if wanted is not None else limit
        track = Track(request, handle, final)
        reuse = self._prefix_cache and request.sampling.prompt_logprobs is None
        keys = track.new_keys() if self._prefix_cache else []
        self._tracks[request.id] = track
        self._scheduler.add(Sequence(request.id, request.tenant, track.prompt_length, wanted, keys, reuse), now)

    def abort(self, id: str) -> None:
        """Ends a request without an output; unknown ids are of requests that have just ended."""
        if id in self._tracks:
            self._finish(self._tracks[id])

    # -- adapters ---------------------------------------------------------------------------------------------------------------

    def attach(self, image: AdapterImage, now: int, timeout: int) -> None:
        """Begins to make an adapter resident, which an idle engine does at once; `take_settled` tells when it is.

        Raises AdapterUnavailable when the memory can never suffice; settles with it when running requests do not free enough
        within `timeout` nanoseconds."""
        version = image.version.hash
        if self._residency.resume(version):
            self._settled.append(Freed(version, 0))  # the retirement ends here: nothing was freed
        if self._residency.attach(image, timeout):
            self._settled.append(Arrived(version))
        elif not self._tracks:
            self._settled += self._residency.progress(now, None)

    def retire(self, version: str) -> None:
        """Closes a version to new requests; `take_settled` tells when it is freed. Raises AdapterNotFound."""
        settled = self._residency.retire(version)
        if settled is not None:
            self._settled.append(settled)

    def take_settled(self) -> list[Settled]:
        """Arrivals and departures that came to their end since the last call."""
        settled, self._settled = self._settled, []
        return settled

    # -- the step ---------------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return bool(self._tracks) or self._residency.arriving

    def use_idle_time(self) -> bool:
        """A few milliseconds of work that later requests are spared; False when there is none left."""
        return self._residency.populate()

    def step(self, now: int) -> list[RequestOutput]:
        """One step: what it added to each request."""
        self._settled += self._residency.progress(now, COPY_BYTES_PER_STEP)
        self._charge("other")
        self._plan = self._scheduler.schedule(now)
        samples = self._runner.run(self._plan, self._tracks)
        outputs = list(self._commit(self._plan, samples))
        self._charge("scheduling")
        return outputs

    @property
    def last_step(self) -> StepFigures:
        """What the last step did."""
        return StepFigures(self._plan, self._runner.adapters_in_step, self._runner.context_in_step)

    def _commit(self, plan: StepPlan, samples: list[Sample]) -> Iterable[RequestOutput]:
        self._scheduler.advance(plan)
        if not plan.empty:
            self._steps += 1
            self._last_rows = plan.rows
            self._steps_adapters += self._runner.adapters_in_step
        for admission in plan.admitted:
            self._count_prompt(self._tracks[admission.id], admission.cached)
        for sample in samples:
            yield self._extend(self._tracks[sample.id], sample)

    def _count_prompt(self, track: Track, cached: int) -> None:
        """Once for each request: what a preemption makes it compute again is no prompt."""
        if track.cached_tokens is None:
            track.cached_tokens = min(cached, track.prompt_length)
            self._cached_tokens += track.cached_tokens
            self._prompt_tokens += track.prompt_length

    def _extend(self, track: Track, sample: Sample) -> RequestOutput:
        first = track.generated == 0
        track.append(sample.token)
        self._generated_tokens += 1
        if self._prefix_cache:
            self._scheduler[sample.id].keys += track.new_keys()
        stopped = sample.token in track.stops
        reason: FinishReason | None = "stop" if stopped else "length" if track.length >= track.final else None
        if reason is not None:
            self._finish(track)
        return RequestOutput(
            id=sample.id,
            tokens=[sample.token],
            logprobs=None if sample.logprob is None else [sample.logprob],
            prompt_logprobs=track.prompt_logprobs if first else None,
            finish_reason=reason,
            stop_token=sample.token if stopped else None,
            cached_tokens=track.cached_tokens or 0,
        )

    def _finish(self, track: Track) -> None:
        id = track.request.id
        del self._tracks[id]
        self._scheduler.remove(id)
        self._runner.forget(track)
        if track.request.adapter is not None:
            settled = self._residency.release(track.request.adapter)
            if settled is not None:
                self._settled.append(settled)

    # -- what it says of itself -------------------------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """A snapshot."""
        scheduler, blocks = self._scheduler, self._scheduler.blocks
        return EngineStats(
            running=scheduler.running,
            waiting=scheduler.waiting,
            kv_blocks_total=blocks.total,
            kv_blocks_used=blocks.referenced,
            kv_blocks_cached=blocks.idle,
            adapter_bytes=self._residency.resident_bytes,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=scheduler.preemptions,
            step_adapters=self._runner.adapters_in_step,
            steps_adapters=self._steps_adapters,
            step_rows=self._last_rows,
        )

    def check(self) -> None:
        """The conservation laws. Raises AssertionError when a block, an extent, a slot or a reference is lost."""
        self._scheduler.check()
        self._residency.check()
        if not self._tracks:
            self._runner.check_idle()
            assert self._scheduler.blocks.referenced == 0, "idle, but blocks are referenced"
            assert self._residency.references == 0, "idle, but adapters are referenced"
            assert self._scheduler.running == self._scheduler.waiting == 0, "idle, but the scheduler holds requests"
