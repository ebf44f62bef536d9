"""Draws how cost grows: docs/plots/*.svg from benchmarks/results/*.json.

    python -m benchmarks.plots [RESULTS_FOLDER [PLOTS_FOLDER]]

Backgrounds are transparent and every colour is of middle brightness, so that plots can be read on light and on dark pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

from benchmarks.cases import ADAPTERS, BASE, CONCURRENCY, MIXED, PROMPTS, QUICK, RANKS, Case
from benchmarks.results import RESULTS, Figure, Results, read_results
from benchmarks.targets import LIMIT

mpl.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

PLOTS = Path(__file__).resolve().parent.parent / "docs" / "plots"
INK = "#808080"
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7")
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "manylora",  # equal results draw equal files
    "font.family": "sans-serif",
    "font.size": 10,
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
CLOSEST_TICKS = 0.03
"""Of the axis: the labels of closer ones would overlap."""
Point = tuple[float, Case]


def line(axes: Axes, results: Results, points: Sequence[Point], figure: Figure, label: str, colour: str) -> None:
    """What was measured, and dashed the limit beside it. Cases that were not measured leave a gap."""
    scale = 1.0 if figure == "throughput" else 1e3
    for engine, style in ((results.ours, "o-"), (LIMIT, "--")):
        known = [(x, value * scale) for x, case in points if (value := results.figure(case, engine, figure)) is not None]
        if known:
            name = label if engine == results.ours else f"{label}, limit"
            axes.plot(*zip(*known, strict=True), style, color=colour, label=name, linewidth=1.5, markersize=4)


def draw(path: Path, title: str, x: str, y: str, lines: Sequence[tuple[Results, Sequence[Point], Figure, str]]) -> None:
    """One plot with a line for each entry; nothing if nothing of it was measured."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for place, (results, points, what, label) in enumerate(lines):
        line(axes, results, points, what, label, COLOURS[place])
    if axes.lines:
        places = sorted({value for _, points, _, _ in lines for value, _ in points})
        gap = places[-1] * CLOSEST_TICKS
        ticks = [place for before, place in zip([-gap, *places], places, strict=False) if place - before >= gap]
        axes.set(title=title, xlabel=x, ylabel=y, xticks=ticks)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def bars(path: Path, title: str, results: Results, cases: Sequence[Case]) -> None:
    """Output tokens per second of every engine on some cases."""
    figure, axes = pyplot.subplots(figsize=(6.4, 0.5 + 0.8 * len(cases)), layout="constrained")
    width = 0.8 / len(results.engines)
    for place, engine in enumerate(results.engines):
        values = [results.figure(case, engine, "throughput") for case in cases]
        known = [(row + place * width, value) for row, value in enumerate(values) if value is not None]
        if known:
            drawn = axes.barh(*zip(*known, strict=True), height=width, color=COLOURS[place], label=engine)
            axes.bar_label(drawn, fmt="%.0f", padding=2, color=INK, fontsize=8)
    axes.set(title=title, xlabel="output tokens per second")
    axes.set_yticks([row + 0.4 - width / 2 for row in range(len(cases))], [case.name.replace(", ", "\n", 1) for case in cases])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=len(results.engines), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def speed_plots(folder: Path, results: Results) -> None:
    """How throughput and time grow with adapters, ranks, concurrency, context and the size of the model."""
    rate = "output tokens per second"

    def with_(cases: Sequence[Case], attribute: str, **fixed: str) -> list[Point]:
        return [(float(getattr(case, attribute)), replace(case, **fixed)) for case in cases]  # type: ignore[arg-type]

    uniform = [(float(case.ranks[0]), case) for case in sorted(RANKS, key=lambda case: case.ranks) if len(case.ranks) == 1]
    both = {
        label: [case for case in CONCURRENCY if case.adapters == count] for label, count in (("base", 0), ("16 adapters", 16))
    }
    long = {label: [case for case in PROMPTS if case.adapters == count] for label, count in (("base", 0), ("16 adapters", 16))}
    speed: Figure = "throughput"
    adapters = [(results, with_(ADAPTERS, "adapters"), speed, "bf16")]
    draw(folder / "adapters.svg", "32 requests in flight over N adapters of rank 16", "adapters (0: the base)", rate, adapters)
    draw(folder / "ranks.svg", "32 requests in flight over 16 adapters", "rank", rate, [(results, uniform, speed, "bf16")])
    lines = [(results, with_(cases, "concurrency"), speed, label) for label, cases in both.items()]
    draw(folder / "concurrency.svg", "Requests in flight", "requests in flight", rate, lines)
    times = [(results, with_(cases, "prompt"), "tpot", label) for label, cases in long.items()]
    draw(folder / "context.svg", "8 requests in flight after prompts of N tokens", "prompt tokens", "ms per output token", times)
    sizes = {
        label: [(0.135, case), (1.236, replace(case, model="1b"))] for label, case in (("base", BASE), ("16 adapters", MIXED))
    }
    models = [(results, points, "tpot", label) for label, points in sizes.items()]
    draw(folder / "models.svg", "32 requests in flight", "billion parameters", "ms per output token", models)


def main(results: Path = RESULTS, plots: Path = PLOTS) -> None:
    """Draws what there are results for."""
    plots.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        if (results / "speed.json").is_file():
            speed_plots(plots, read_results(results / "speed.json"))
        if (results / "peers.json").is_file():
            bars(plots / "peers.svg", "Against other engines", read_results(results / "peers.json"), QUICK)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
