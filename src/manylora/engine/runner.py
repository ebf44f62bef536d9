"""Carries out a StepPlan: lays the rows out by adapter, runs the model, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from manylora import kernels
from manylora.engine.models.llama import Llama
from manylora.engine.sampling import Sampler
from manylora.engine.step_log import Charge, unlogged
from manylora.engine.track import Track
from manylora.policy.kv_blocks import blocks_for
from manylora.types.request import TokenLogprob
from manylora.types.step import Prefill, StepPlan


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Sizes of every buffer. A step with more does not exist."""

    rows: int
    sequences: int
    model_len: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The token a step chose for one request."""

    id: str
    token: int
    logprob: TokenLogprob | None


@dataclass(slots=True)
class _Span:
    """Consecutive rows of one request: tokens [start, start + count)."""

    track: Track
    start: int
    count: int
    samples: bool


class Runner:
    """Owns the batch buffers and the block tables. One step at a time."""

    def __init__(
        self, model: Llama, runtime: kernels.Runtime, kv: kernels.KvCache, limits: RunnerLimits, charge: Charge = unlogged
    ) -> None:
        self._model = model
        self._charge = charge
        self._kv = kv
        self._limits = limits
        self._batch = kernels.Batch(limits.rows, limits.sequences, limits.sequences, blocks_for(limits.model_len))
        self._segments = kernels.Segments(limits.sequences)
        self._sampler = Sampler(runtime, limits.sequences)
        self._free_slots = list(range(limits.sequences))
        self.adapters_in_step = 0
        """Distinct adapters in the last step."""
        self.context_in_step = 0
        """Positions that the last step's rows attended to, summed over the rows."""

    def run(self, plan: StepPlan, tracks: Mapping[str, Track]) -> list[Sample]:
        """Computes the plan's rows; one sample per request whose last known token was among them, in no promised order."""
        self._apply(plan, tracks)
        if plan.empty:
            return []
        spans = self._lay_out(plan, tracks)
        self._charge("scheduling")
        self._model.forward(self._batch, self._segments, self._kv, plan.rows)
        self._charge("python")
        self._score_prompts(spans)
        return list(self._sample(spans))

    def forget(self, track: Track) -> None:
        """The request left the batch; its slot is free."""
        if track.slot >= 0:
            self._free_slots.append(track.slot)
            track.slot = -1

    def check_idle(self) -> None:
        """Raises AssertionError unless every slot is free."""
        assert sorted(self._free_slots) == list(range(self._limits.sequences)), f"idle, but slots are lost: {self._free_slots}"

    def _apply(self, plan: StepPlan, tracks: Mapping[str, Track]) -> None:
        tables = self._batch.block_tables
        for id in plan.preempted:
            self.forget(tracks[id])
        for growth in plan.grown:
            track = tracks[growth.id]
            tables[track.slot, track.held_blocks : track.held_blocks + len(growth.blocks)] = growth.blocks
            track.held_blocks += len(growth.blocks)
        for admission in plan.admitted:
            track = tracks[admission.id]
            track.slot = self._free_slots.pop()
            track.held_blocks = len(admission.blocks)
            tables[track.slot, : track.held_blocks] = admission.blocks

    def _lay_out(self, plan: StepPlan, tracks: Mapping[str, Track]) -> list[_Span]:
        spans = [_Span(track, track.length - 1, 1, True) for track in map(tracks.__getitem__, plan.decodes)]
        spans += [_span(tracks[chunk.id], chunk) for chunk in plan.prefills]
        spans.sort(key=_by_adapter)
        batch, row = self._batch, 0
        for place, span in enumerate(spans):
            end = row + span.count
            batch.sequence_starts[place] = row
            batch.sequence_slots[place] = span.track.slot
            batch.token_ids[row:end] = span.track.tokens[span.start : span.start + span.count]
            batch.positions[row:end] = range(span.start, span.start + span.count)
            row = end
        batch.sequence_starts[len(spans)] = row
        self.context_in_step = sum(span.count * span.start + span.count * (span.count + 1) // 2 for span in spans)
        batch.begin(row, len(spans))
        self._group(spans, row)
        return spans

    def _group(self, spans: list[_Span], rows: int) -> None:
        segments = self._segments
        segments.reset(rows)
        self.adapters_in_step = 0
        start = row = 0
        for place, span in enumerate(spans):
            row += span.count
            following = spans[place + 1].track.handle if place + 1 < len(spans) else None
            if span.track.handle is None:
                start = row
            elif following is not span.track.handle:
                segments.add(start, row, span.track.handle)
                self.adapters_in_step += 1
                start = row

    def _score_prompts(self, spans: list[_Span]) -> None:
        row = 0
        for span in spans:
            scores = span.track.prompt_logprobs
            if scores is not None:
                # Row i of the prompt predicts token i + 1; after a preemption some are known already.
                first = max(span.start, len(scores) - 1)
                last = min(span.start + span.count, span.track.prompt_length - 1)
                for begin in range(first, last, self._limits.sequences):
                    end = min(begin + self._limits.sequences, last)
                    scores += self._score(span.track, row - span.start + begin, begin, end)
            row += span.count

    def _score(self, track: Track, row: int, begin: int, end: int) -> list[TokenLogprob]:
        count = end - begin
        self._batch.gather_rows[:count] = range(row, row + count)
        logits = self._model.logits(self._batch, count)
        self._charge("python")
        top = [track.params.prompt_logprobs or 0] * count
        scores = self._sampler.score(logits, track.tokens[begin + 1 : end + 1].tolist(), top)
        self._charge("sampling")
        return scores

    def _sample(self, spans: list[_Span]) -> Iterator[Sample]:
        chosen: list[Track] = []
        row = 0
        for span in spans:
            row += span.count
            if span.samples:
                self._batch.gather_rows[len(chosen)] = row - 1
                chosen.append(span.track)
        if not chosen:
            return
        logits = self._model.logits(self._batch, len(chosen))
        self._charge("python")
        sampled = self._sampler.sample(logits, chosen)
        self._charge("sampling")
        for track, (token, logprob) in zip(chosen, sampled, strict=True):
            yield Sample(track.request.id, token, logprob)


def _span(track: Track, chunk: Prefill) -> _Span:
    return _Span(track, chunk.start, chunk.count, chunk.samples)


def _by_adapter(span: _Span) -> int:
    return 0 if span.track.handle is None else id(span.track.handle)
