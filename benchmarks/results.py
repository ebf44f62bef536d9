"""What was measured: one row for each engine and case, with a sample for each measurement. Kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.cases import Case
from benchmarks.loads import Sample, middle
from manylora.errors import ConfigError

RESULTS = Path(__file__).resolve().parent / "results"
"""Where the pages are kept."""

Figure = Literal["throughput", "ttft", "tpot"]


@dataclass(frozen=True, slots=True)
class Probes:
    """What the machine gave around a measurement: bytes read, and operations of products, per second."""

    bandwidth: float
    bf16_peak: float
    int8_peak: float


@dataclass(slots=True)
class Row:
    """One engine on one case. Without samples `reason` says why; `limits` follow from the `probes` beside the samples."""

    case: Case
    engine: str
    samples: list[Sample] = field(default_factory=list)
    limits: list[Sample] = field(default_factory=list)
    probes: list[Probes] = field(default_factory=list)
    reason: str = ""


@dataclass(slots=True)
class Memory:
    """The most that all processes of our server were seen to hold after a measurement, in bytes (shared pages divided among
    their holders)."""

    started_for: str
    peak: int
    budget: int
    weights: int
    """See `benchmarks.memory.weight_bytes`."""


@dataclass(slots=True)
class Results:
    """All rows of a run, in the order of their first measurement."""

    machine: dict[str, Any]
    engines: dict[str, str]
    """Name -> version, ours first."""
    rounds: int
    manners: dict[str, str] = field(default_factory=dict)
    """Name -> how the engine is run."""
    rows: dict[tuple[Case, str], Row] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)

    def row(self, case: Case, engine: str) -> Row:
        """The row of a case and an engine, made when first asked for."""
        return self.rows.setdefault((case, engine), Row(case, engine))

    def renew(self, case: Case, engine: str) -> None:
        """Makes the row empty, in its place if there is one."""
        self.rows[case, engine] = Row(case, engine)

    def cases(self) -> list[Case]:
        """Every case that a row is about."""
        return list(dict.fromkeys(case for case, _ in self.rows))

    def figure(self, case: Case, engine: str, figure: Figure) -> float | None:
        """The median of what an engine did; None if it was not measured. "limit" stands for the floor."""
        row = self.rows.get((case, self.ours if engine == "limit" else engine))
        samples = [] if row is None else row.limits if engine == "limit" else row.samples
        value: float | None = getattr(middle(samples), figure) if samples else None
        return value

    @property
    def ours(self) -> str:
        """The engine that the others are compared with."""
        return next(iter(self.engines))

    def save(self, path: Path) -> None:
        """Writes JSON, so that at no time half a file is seen."""
        values = {name: getattr(self, name) for name in ("machine", "engines", "rounds", "manners")}
        rows = [{"name": row.case.name, **asdict(row)} for row in self.rows.values()]
        memory = [asdict(item) for item in self.memory.values()]
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({**values, "rows": rows, "memory": memory}, indent=1) + "\n", encoding="utf-8")
        unfinished.rename(path)


def read_results(path: Path) -> Results:
    """What `Results.save` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    results = Results(stored["machine"], stored["engines"], stored["rounds"], stored["manners"])
    for item in stored["rows"]:
        row = results.row(Case(**{**item["case"], "ranks": tuple(item["case"]["ranks"])}), item["engine"])
        row.samples, row.limits = ([Sample(**sample) for sample in item[kind]] for kind in ("samples", "limits"))
        row.probes = [Probes(**probes) for probes in item["probes"]]
        row.reason = item["reason"]
    results.memory = {item["started_for"]: Memory(**item) for item in stored["memory"]}
    return results


def continued(fresh: Results, path: Path) -> Results:
    """What a partial run adds to: the results in `path`, or `fresh` if there are none.

    Raises ConfigError if they are of another commit or machine, since rows of one table are compared."""
    if not path.is_file():
        return fresh
    stored = read_results(path)
    same = all(stored.machine[name] == fresh.machine[name] for name in ("commit", "cpu", "cpus", "isa"))
    if not same or not fresh.machine["commit"] or fresh.machine["commit"].endswith("+"):
        raise ConfigError(
            f"{path} was measured on another commit, machine or with files changed ({stored.machine['commit']}, now "
            f"{fresh.machine['commit']}): name another folder with --out, or measure everything"
        )
    engines, manners = stored.engines | fresh.engines, stored.manners | fresh.manners
    return Results(fresh.machine, engines, min(stored.rounds, fresh.rounds), manners, stored.rows, stored.memory)
