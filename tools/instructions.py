"""Counts the instructions of a fixed step and compares them with the committed figures.

    python tools/instructions.py build/native/step [--update]

The step (native/bench/step.cpp) runs on one thread with the avx2 kernels under valgrind's callgrind, which counts what the step
executes and nothing of its set-up. Counts do not depend on how busy or how fast a machine is, so they can be held to 3 %: more is
work that somebody added, less is an improvement to write down (--update). They do depend on the compiler, whose version stands
beside them; another major version needs figures of its own. An operation that waits for memory costs no more here than one that
does not: this is a guard, not a measurement of speed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Counts = dict[str, dict[str, int]]
"""Instructions by step and family."""

FIGURES = Path(__file__).resolve().parent.parent / "native" / "bench" / "instructions.json"
TOLERANCE = 0.03
FAMILIES = {
    "embed": "embedding",
    "gather": "embedding",
    "rms_norm": "norm",
    "linear": "linear",
    "gated_linear": "linear",
    "rotary": "rotary",
    "attention": "attention",
    "logprobs": "sampling",
    "sample": "sampling",
}
"""The operations that a step calls."""
_CALL = re.compile(r"cfn=manylora::(\w+)\(.*\)\ncalls=.*\n\S+ (\d+)")


def families(profile: str) -> dict[str, int]:
    """The instructions of each family of operations and "total", from a callgrind profile with uncompressed names."""
    step = re.search(r"^fn=measured_step.*?(?=^fn=|\Z)", profile, re.MULTILINE | re.DOTALL)
    total = re.search(r"^summary: (\d+)", profile, re.MULTILINE)
    if step is None or total is None:
        raise ValueError("the profile holds no measured_step: was it inlined?")
    counts = dict.fromkeys(FAMILIES.values(), 0)
    for operation, instructions in _CALL.findall(step[0]):
        if operation in FAMILIES:
            counts[FAMILIES[operation]] += int(instructions)
    return {**counts, "total": int(total[1])}


def count(binary: Path, step: str) -> dict[str, int]:
    """Runs one step under callgrind. Raises subprocess.CalledProcessError, its output on stderr, when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile"
        callgrind = ["valgrind", "-q", "--tool=callgrind", "--toggle-collect=measured_step*", f"--callgrind-out-file={profile}"]
        names = ["--compress-strings=no", "--compress-pos=no"]
        subprocess.run([*callgrind, *names, str(binary), "avx2", step], check=True, stdout=subprocess.DEVNULL)
        return families(profile.read_text(encoding="utf-8"))


def measure(binary: Path) -> Counts:
    """The figures: what a token alone takes, what a mixed batch takes, what its adapters add, and its products in int8."""
    with ThreadPoolExecutor() as pool:
        alone, base, mixed, int8 = pool.map(lambda step: count(binary, step), ("alone", "base", "mixed", "int8"))
    lora = {"lora": mixed["linear"] - base["linear"], "total": mixed["total"]}
    return {"alone": alone, "base": base, "mixed": lora, "int8": {"linear": int8["linear"], "total": int8["total"]}}


def compiler(binary: Path) -> str:
    """Name and version of the compiler that built it, as in "gcc 12.2.0"."""
    return subprocess.run([str(binary), "compiler"], check=True, capture_output=True, text=True).stdout.strip()


def major(version: str) -> str:
    """ "gcc 12" of "gcc 12.2.0"."""
    return version.split(".")[0]


def rows(measured: Counts, committed: Counts) -> list[tuple[str, str, int, int, bool]]:
    """(step, family, committed, measured, within the tolerance) of every figure of either."""
    found = []
    for step in {**committed, **measured}:
        old, new = committed.get(step, {}), measured.get(step, {})
        for family in {**old, **new}:
            before, now = old.get(family, 0), new.get(family, 0)
            found.append((step, family, before, now, abs(now - before) <= TOLERANCE * before))
    return found


def table(compared: list[tuple[str, str, int, int, bool]]) -> str:
    """The comparison as text, a line for each figure."""
    lines = [f"{'step':6} {'family':10} {'committed':>13} {'now':>13} {'change':>8}"]
    for step, family, before, now, within in compared:
        change = f"{100 * (now / before - 1):+7.2f}%" if before else "     new"
        lines.append(f"{step:6} {family:10} {before:13,} {now:13,} {change}{'  <-- beyond 3 %' if before and not within else ''}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Prints the comparison; returns 1 when a figure is out of its tolerance, 2 when none can be had."""
    if arguments[1:] not in ([], ["--update"]):
        print(__doc__, file=sys.stderr)
        return 2
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: apt-get install valgrind", file=sys.stderr)
        return 2
    binary = Path(arguments[0]).resolve()
    version, measured = compiler(binary), measure(binary)
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {"compiler": version, "instructions": {}}
    compared = rows(measured, figures["instructions"])
    print(f"committed with {figures['compiler']}, built with {version}\n{table(compared)}")
    if "--update" in arguments:
        text = json.dumps({"compiler": version, "capability": "avx2", "instructions": measured}, indent=2)
        FIGURES.write_text(text + "\n", encoding="utf-8")
        return 0
    return 0 if all(within for *_, within in compared) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [""]))
