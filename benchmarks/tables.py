"""Pages in Markdown from results."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.cases import Case
from benchmarks.results import Figure, Results
from benchmarks.targets import AGAINST_OURSELVES, AGAINST_PEERS, LIMIT, Target

LEGEND = """\
`N adapters rR all` are requests that go round N adapters of rank R on all seven projections (`qv`: on q and v), each with a
random prompt of its own (`S+P in`: after S tokens that its adapter's prompts share), all greedy and of exactly the length
asked for. Figures are medians over measurements; times are, in each, the median over requests.
"""
MEMORY = """\
The most that all processes of a server were seen to hold after a measurement: peaks within one are not in it (`startup.md` has
those). What is beside weights and `--memory` is negative if not all was used.
"""
HEADINGS: dict[Figure, str] = {
    "throughput": "Output tokens per second",
    "ttft": "Time to the first token, ms",
    "tpot": "Time per output token after the first, ms",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; every column but the first is for numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, marks, *rows)) + "\n"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "—"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def verdict(reached: bool) -> str:
    """Whether a bound is kept."""
    return "yes" if reached else "**no**"


def peers_page(results: Results) -> str:
    """Every engine's figures side by side, with how many times better ours are."""
    notes: list[str] = []
    manners = "".join(f"* {name}: {manner}\n" for name, manner in results.manners.items())
    parts = [_head("Against other engines", results), LEGEND, manners, _targets(AGAINST_PEERS, results)]
    for figure, heading in HEADINGS.items():
        head = ["load", *(f"{name} {version}" for name, version in results.engines.items())]
        rows = [[case.name, *(_cell(results, case, name, figure, notes) for name in results.engines)] for case in results.cases()]
        parts.append(f"## {heading}\n\nIn brackets how many times better ours is.\n\n{table(head, rows)}")
    parts.append("".join(f"{place}. {note}\n" for place, note in enumerate(notes, 1)))
    return "\n".join(part for part in parts if part)


def speed_page(results: Results) -> str:
    """Our own figures beside their limits."""
    head = ["load", "tokens/s", "limit", "of it", "TTFT ms", "limit", "TPOT ms", "limit"]
    rows = [[case.name, *_figures(results, case)] for case in results.cases()]
    skipped = [f"* {row.case.name}: {row.reason}\n" for row in results.rows.values() if row.reason and not row.samples]
    parts = [
        _head("Our own speed", results),
        LEGEND,
        _targets(AGAINST_OURSELVES, results),
        f"## Every load\n\n{table(head, rows)}",
    ]
    parts.append(_probed(results))
    parts += ["Not measured:\n\n" + "".join(skipped)] if skipped else []
    return "\n".join(part for part in [*parts, _memory(results)] if part)


def _probed(results: Results) -> str:
    """What the limits are made of, for each instruction set."""
    rows = []
    for isa in dict.fromkeys(case.isa for case in results.cases()):
        probes = [probes for row in results.rows.values() if row.case.isa == isa for probes in row.probes]
        rates = [[getattr(each, name) / 1e9 for each in probes] for name in ("bandwidth", "bf16_peak", "int8_peak")]
        if probes:
            spans = [f"{number(median(rate))} ({number(min(rate))} to {number(max(rate))})" for rate in rates]
            rows.append([isa or results.machine["isa"], *spans])
    head = ["instruction set", "memory, GB/s", "bf16, GFLOP/s", "int8, Gop/s"]
    return f"## The machine beside each figure: median (least to most)\n\n{table(head, rows)}" if rows else ""


def _head(title: str, results: Results) -> str:
    machine = results.machine
    engines = ", ".join(f"{name} {version}" for name, version in results.engines.items())
    return (
        f"# {title}\n\n{machine['date']}, {machine['cpu']}, {machine['cpus']} CPUs, {machine['isa']}; {engines}; "
        f"commit {machine['commit']}; {results.rounds} rounds.\n"
    )


def _cell(results: Results, case: Case, engine: str, figure: Figure, notes: list[str]) -> str:
    value = results.figure(case, engine, figure)
    if value is None:
        row = results.rows.get((case, engine))
        reason = f"{engine}: {row.reason if row and row.reason else 'not measured'}"
        if reason not in notes:
            notes.append(reason)
        return f"— ({notes.index(reason) + 1})"
    shown = number(value if figure == "throughput" else value * 1e3)
    gain = advantage(results.figure(case, results.ours, figure), value, figure)
    return shown if engine == results.ours or gain is None else f"{shown} ({number(gain)}x)"


def advantage(ours: float | None, theirs: float | None, figure: Figure) -> float | None:
    """How many times better ours is: more tokens a second, or less time."""
    if not ours or not theirs:
        return None
    return ours / theirs if figure == "throughput" else theirs / ours


def _figures(results: Results, case: Case) -> list[str]:
    cells = []
    for figure in HEADINGS:
        value, limit = (results.figure(case, name, figure) for name in (results.ours, LIMIT))
        scale = 1.0 if figure == "throughput" else 1e3
        cells += [number(None if each is None else each * scale) for each in (value, limit)]
        if figure == "throughput":
            cells.append(f"{value / limit:.0%}" if value and limit else "—")
    return cells


def _targets(targets: Sequence[Target], results: Results) -> str:
    rows = []
    for target in targets:
        ratio = target.ratio(results)
        if ratio is not None:
            bound = (
                f"at least {target.at_least:g}" if target.at_least else f"at most {target.at_most:g}" if target.at_most else ""
            )
            rows.append([target.name, number(ratio), bound, verdict(target.holds(ratio)) if bound else ""])
    return f"## Ratios\n\n{table(['what', 'ratio', 'wanted', 'reached'], rows)}" if rows else ""


def _memory(results: Results) -> str:
    rows = [
        [
            item.started_for,
            *(f"{size / 2**20:.0f}" for size in (item.peak, item.weights, item.budget, item.peak - item.weights - item.budget)),
        ]
        for item in results.memory.values()
    ]
    return (
        f"## Memory, MiB\n\n{MEMORY}\n{table(['server', 'seen', 'weights', '`--memory`', 'beside them'], rows)}" if rows else ""
    )
