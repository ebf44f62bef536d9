"""What the server measures, as Prometheus metrics. Names follow vLLM's with our prefix, so its dashboards need one replacement.

Definitions (times in seconds, measured in the server, at the moment the engine's output reaches it):
  time to first token   arrival of the HTTP request -> its first token, for each answer
  inter-token latency   between consecutive outputs of an answer, divided by the tokens of the later one
  time per output token (last token - first token) / (tokens - 1), once per answer of two tokens or more
  end-to-end latency    arrival of the HTTP request -> last token, for each answer

The label `model_name` takes only names that are being served; a name that is removed takes its series with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from manylora.types.engine import EngineStats

PREFIX = "manylora:"
_FIRST = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_WHOLE = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)

_GAUGES: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("num_requests_running", "Requests in the running batch", lambda s: s.running),
    ("num_requests_waiting", "Requests waiting to be scheduled", lambda s: s.waiting),
    ("kv_cache_usage_perc", "Share of KV blocks referenced by running requests, 0 to 1", lambda s: _share(s)),
    ("kv_blocks_cached", "Unreferenced KV blocks kept for prefix reuse", lambda s: s.kv_blocks_cached),
    ("adapter_bytes", "Bytes of resident adapters", lambda s: s.adapter_bytes),
    ("step_adapters", "Distinct adapters in the last engine step", lambda s: s.step_adapters),
    ("step_rows", "Rows in the last engine step", lambda s: s.step_rows),
)
_COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("engine_steps", "Steps of the current engine process", lambda s: s.steps),
    ("engine_step_adapters", "Distinct adapters of each step, summed over the steps", lambda s: s.steps_adapters),
    ("engine_prompt_tokens", "Prompt tokens the current engine process took in", lambda s: s.prompt_tokens),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache", lambda s: s.cached_prompt_tokens),
    ("engine_generation_tokens", "Tokens the current engine process generated", lambda s: s.generated_tokens),
    ("num_preemptions", "Requests whose KV was dropped and recomputed", lambda s: s.preemptions),
    ("engine_restarts", "Times the engine process was started anew", lambda s: s.restarts),
)


def _share(stats: EngineStats) -> float:
    return stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0


class _EngineCollector(Collector):
    """Reads the engine's snapshot when scraped; costs nothing between."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, text, read in _GAUGES:
            yield GaugeMetricFamily(PREFIX + name, text, value=read(stats))
        for name, text, read in _COUNTERS:
            yield CounterMetricFamily(PREFIX + name, text, value=read(stats))


class ModelSeries:
    """The series of one model name, looked up once."""

    def __init__(self, metrics: ServerMetrics, name: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.generation_tokens = metrics.generation_tokens.labels(name)
        self.first = metrics.first.labels(name)
        self.between = metrics.between.labels(name)
        self.per_token = metrics.per_token.labels(name)
        self.whole = metrics.whole.labels(name)
        self.prompt_length = metrics.prompt_length.labels(name)
        self.generation_length = metrics.generation_length.labels(name)
        self.ends = {reason: metrics.success.labels(name, reason) for reason in ("stop", "length", "abort")}


class ServerMetrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[str, ModelSeries] = {}
        model = ("model_name",)
        self.success = self._counter("request_success", "Answers by how they ended", ("model_name", "finished_reason"))
        self.failed = self._counter("request_failure", "HTTP requests that were answered by an error", ("status",))
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens", model)
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens", model)
        self.first = self._histogram("time_to_first_token_seconds", "Arrival to first token", _FIRST)
        self.between = self._histogram("inter_token_latency_seconds", "Between consecutive tokens of an answer", _BETWEEN)
        self.per_token = self._histogram("time_per_output_token_seconds", "Mean time per token after the first", _BETWEEN)
        self.whole = self._histogram("e2e_request_latency_seconds", "Arrival to last token", _WHOLE)
        self.prompt_length = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _LENGTHS)
        self.generation_length = self._histogram("request_generation_tokens", "Tokens of an answer", _LENGTHS)
        self.registry.register(_EngineCollector(stats))

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, ("model_name",), registry=self.registry, buckets=buckets)

    def model(self, name: str, *, served: bool = True) -> ModelSeries:
        """The series of a name. Of one that is not served any more: series that are never shown, for what is still under way."""
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = ModelSeries(self, name)
        if not served:
            self.forget(name)
        return series

    def forget(self, name: str) -> None:
        """Drops the series of a name that is no longer served."""
        if self._series.pop(name, None) is None:
            return
        for histogram in (self.first, self.between, self.per_token, self.whole, self.prompt_length, self.generation_length):
            histogram.remove(name)
        self.prompt_tokens.remove(name)
        self.generation_tokens.remove(name)
        for reason in ("stop", "length", "abort"):
            self.success.remove(name, reason)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RequestTimer:
    """Times of one HTTP request, from `start` (time.perf_counter, seconds)."""

    def __init__(self, series: ModelSeries, start: float) -> None:
        self.series = series
        self.start = start

    def answer(self) -> AnswerClock:
        """The clock of one of its answers."""
        return AnswerClock(self)


class AnswerClock:
    """Observes one answer's tokens as they come."""

    __slots__ = ("_count", "_first", "_last", "_timer")

    def __init__(self, timer: RequestTimer) -> None:
        self._timer = timer
        self._first = 0.0
        self._last = 0.0
        self._count = 0

    def tokens(self, count: int) -> None:
        """`count` more tokens have come."""
        if not count:
            return
        now = time.perf_counter()
        series = self._timer.series
        if self._count:
            series.between.observe((now - self._last) / count)
        else:
            self._first = now
            series.first.observe(now - self._timer.start)
        self._last = now
        self._count += count

    def finished(self, reason: str) -> None:
        """The answer has ended."""
        series = self._timer.series
        series.whole.observe(time.perf_counter() - self._timer.start)
        if self._count > 1:
            series.per_token.observe((self._last - self._first) / (self._count - 1))
        series.generation_length.observe(self._count)
        series.generation_tokens.inc(self._count)
        series.ends[reason].inc()

    def aborted(self) -> None:
        """Nobody waits for the answer any more."""
        self._timer.series.ends["abort"].inc()
