"""What manylora is about, in under 20 seconds: `make demo`.

    python examples/demo.py MODEL_FOLDER [RECORDING.svg]

Starts a server with the demo's adapters, then shows: one prompt answered by the base and every adapter in one batch; each answer
bit-identical alone and in a mix of 32; a broken adapter refused; an adapter loaded while others stream; what it all cost.
Exits 1 if anything that it shows turns out untrue."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from manylora.loadgen.client import LoadRequest, LoadResult, ignore, stream_answer
from manylora.loadgen.server_process import free_port, serving

ADAPTERS = Path(__file__).resolve().parent.parent / "demo" / "adapters"
BASE = "base"
LATECOMER = "pirate"
"""The adapter that is loaded while the others stream."""
PROMPT = "Please move 12 crates of apples from Oslo to Bergen on 14 March."
OTHERS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How do I boil an egg?",
    "Name three fruits.",
    "Please move 7 pallets of bricks from Turin to Lyon on 2 May.",
)
MIX = 32
TOKENS = 64


@dataclass
class Demo:
    """One running server, and what the demo says of it."""

    url: str
    session: aiohttp.ClientSession
    console: Console
    scratch: Path
    adapters: list[str]
    failures: int = 0

    @property
    def models(self) -> list[str]:
        """The base, then every adapter."""
        return [BASE, *self.adapters]

    def ask(self, model: str, prompt: str = PROMPT, **body: object) -> LoadRequest:
        """A greedy chat request."""
        messages = [{"role": "user", "content": prompt}]
        fixed = {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
        return LoadRequest(fixed | body, "/v1/chat/completions")

    async def answer(self, request: LoadRequest, on_text: Callable[[LoadResult], None] = ignore) -> LoadResult:
        """Streams one answer; a failure ends the demo."""
        result = await stream_answer(self.session, self.url, request, on_text)
        if result.error:
            raise SystemExit(f"the server failed: {result.error}")
        return result

    async def load(self, name: str, folder: Path) -> tuple[int, str]:
        """Loads an adapter at run time: (HTTP status, the server's words)."""
        body = {"lora_name": name, "lora_path": str(folder)}
        async with self.session.post(f"{self.url}/v1/load_lora_adapter", json=body) as response:
            text = await response.text()
            return response.status, text if response.status == 200 else json.loads(text)["error"]["message"]

    def check(self, truth: bool) -> str:
        """A tick or a cross, and the exit code."""
        self.failures += not truth
        return "[green]✓[/]" if truth else "[bold red]✗[/]"

    def title(self, text: str) -> None:
        """The heading of a part."""
        self.console.print(f"\n[bold]{text}[/]")

    def engine_metrics(self) -> dict[str, float]:
        """The engine's own counters, from /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if not line.startswith("#"))}


async def side_by_side(demo: Demo) -> None:
    """One prompt, every model, one batch, streamed."""
    demo.title(f"One prompt, {len(demo.models)} answers, one batch")
    demo.console.print(f"[dim]{PROMPT}[/]")
    texts = dict.fromkeys(demo.models, "")

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        for model, text in texts.items():
            grid.add_row(f"[cyan]{model}[/]", " ⏎ ".join(text.split("\n")))
        return grid

    with Live(table(), console=demo.console, refresh_per_second=12, transient=False) as live:

        async def show(model: str) -> None:
            def update(result: LoadResult) -> None:
                texts[model] = result.text
                live.update(table())

            await demo.answer(demo.ask(model), update)

        await asyncio.gather(*(show(model) for model in demo.models))


async def invariance(demo: Demo) -> tuple[list[LoadResult], dict[str, float]]:
    """Every answer's hash, alone and inside a mix; the results of the mix and what the engine counted during it."""
    demo.title(f"The same bits alone and inside a mix of {MIX}")
    alone = {model: await demo.answer(demo.ask(model)) for model in demo.models}
    noise = [
        demo.ask(demo.models[number % len(demo.models)], OTHERS[number % len(OTHERS)], temperature=1, seed=number)
        for number in range(MIX - len(demo.models))
    ]
    before = demo.engine_metrics()
    mixed = await asyncio.gather(*(demo.answer(request) for request in [*map(demo.ask, demo.models), *noise]))
    after = demo.engine_metrics()
    table = Table("model", "version", "alone", "in the mix", "")
    for model, result in zip(demo.models, mixed, strict=False):
        first, second = (hashlib.sha256(each.text.encode()).hexdigest()[:16] for each in (alone[model], result))
        table.add_row(model, (result.served_by or "")[:24], first, second, demo.check(first == second))
    demo.console.print(table)
    return list(mixed), {name: after[name] - before[name] for name in after if name in before}


async def broken_adapter(demo: Demo) -> None:
    """A truncated copy of a good adapter."""
    demo.title("A broken adapter is refused, with its reason")
    folder = demo.scratch / "broken"
    shutil.copytree(ADAPTERS / demo.adapters[0], folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    status, reason = await demo.load("broken", folder)
    reason = reason.replace(f"{folder}", "broken")
    demo.console.print(f"{demo.check(status == 400)} HTTP {status}: {reason}", highlight=False)


async def load_while_streaming(demo: Demo) -> None:
    """A new adapter, loaded under load; the longest silence of the running streams, with and without it."""
    demo.title(f"[cyan]{LATECOMER}[/] is loaded while {len(demo.models)} others stream")
    streams = [asyncio.ensure_future(demo.answer(demo.ask(model, ignore_eos=True, max_tokens=160))) for model in demo.models]
    await asyncio.sleep(0.5)
    began = time.perf_counter()
    status, words = await demo.load(LATECOMER, ADAPTERS / LATECOMER)
    ended = time.perf_counter()
    results = await asyncio.gather(*streams)
    demo.adapters.append(LATECOMER)
    gaps = [(b, b - a) for r in results for a, b in zip(r.arrivals, r.arrivals[1:], strict=False)]
    during = max((gap for end, gap in gaps if began <= end <= ended + gap), default=0.0)
    usual = median(gap for _, gap in gaps)
    demo.console.print(
        f"{demo.check(status == 200)} {words.strip() if status != 200 else 'loaded'} in {(ended - began) * 1e3:.0f} ms; "
        f"between two tokens of a stream: {usual * 1e3:.0f} ms in the median, {during * 1e3:.0f} ms at most while it loaded"
    )
    sentence = (await demo.answer(demo.ask(LATECOMER))).text
    demo.console.print(f"  [cyan]{LATECOMER}[/]  {sentence}")


def cost(results: list[LoadResult], counted: dict[str, float]) -> Table:
    """TTFT, time per token, throughput, adapters per step."""
    seconds = max(result.ended for result in results) - min(result.sent for result in results)
    tokens = sum(result.output_tokens for result in results)
    steps = counted["manylora:engine_steps_total"]
    table = Table("in flight", "TTFT p50", "time per token p50", "throughput", "adapters per step", "steps")
    table.add_row(
        str(len(results)),
        f"{median(result.ttft for result in results) * 1e3:.0f} ms",
        f"{median(result.tpot for result in results) * 1e3:.1f} ms",
        f"{tokens / seconds:.0f} tokens/s",
        f"{counted['manylora:engine_step_adapters_total'] / max(steps, 1):.1f}",
        f"{steps:.0f}",
    )
    return table


async def show(url: str, console: Console, scratch: Path, adapters: list[str]) -> int:
    """Every part, in order; how many of its claims failed."""
    async with aiohttp.ClientSession() as session:
        demo = Demo(url, session, console, scratch, adapters)
        await load_while_streaming(demo)
        await side_by_side(demo)
        mixed, counted = await invariance(demo)
        await broken_adapter(demo)
        demo.title("What it cost")
        console.print(cost(mixed, counted))
    return demo.failures


def main(model: Path, recording: Path | None) -> int:
    """Serves and shows; with `recording`, writes what was shown as a picture instead of to the terminal."""
    console = Console(record=True, file=io.StringIO(), width=110, highlight=False) if recording else Console(highlight=False)
    adapters = sorted(path.name for path in ADAPTERS.iterdir() if path.is_dir() and path.name != LATECOMER)
    with tempfile.TemporaryDirectory() as folder:
        scratch, port = Path(folder).resolve(), free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "manylora", "serve", str(model), "--port", str(port)]
        command += ["--served-model-name", BASE, "--allow-runtime-adapters"]
        command += ["--adapter-root", str(ADAPTERS), "--adapter-root", str(scratch)]
        for name in adapters:
            command += ["--adapter", f"{name}={ADAPTERS / name}"]
        began = time.perf_counter()
        with console.status("starting the server"), serving(command, url, scratch / "server.log"):
            took = time.perf_counter() - began
            console.print(f"[bold]manylora[/] serves {model.name} with {len(adapters)} adapters, ready after {took:.1f} s")
            failures = asyncio.run(show(url, console, scratch, adapters))
    if recording:
        svg = console.export_svg(title="make demo")
        # Without the fonts that rich links to: the picture must not fetch anything.
        recording.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
