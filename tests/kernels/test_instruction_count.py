"""A step executes as many instructions as it did: what a timed test cannot say on a busy machine."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manylora.kernels import capabilities

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "native"
INSTRUCTIONS: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "instructions.py"))


@pytest.fixture(scope="module")
def step() -> Path:
    """The program that runs the steps, brought up to date with the sources."""
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: apt-get install valgrind")
    if "avx2" not in capabilities():
        pytest.skip("the figures are of the avx2 kernels, which this machine cannot run")
    if cmake is None or not (BUILD / "CMakeCache.txt").exists():
        pytest.skip("build/native is not there: make native-tests")
    built = subprocess.run([cmake, "--build", str(BUILD), "--target", "step"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:]
    return BUILD / "step"


def test_a_step_takes_the_instructions_that_are_written_down(step: Path) -> None:
    """No family of kernels, and no step as a whole, grows or shrinks by more than 3 % unnoticed."""
    figures = json.loads(INSTRUCTIONS["FIGURES"].read_text(encoding="utf-8"))
    compiler = INSTRUCTIONS["compiler"](step)
    if INSTRUCTIONS["major"](compiler) != INSTRUCTIONS["major"](figures["compiler"]):
        pytest.skip(f"the figures are of {figures['compiler']}, and this is {compiler}")
    compared = INSTRUCTIONS["rows"](INSTRUCTIONS["measure"](step), figures["instructions"])
    assert all(within for *_, within in compared), (
        f"\n{INSTRUCTIONS['table'](compared)}\nIf that is meant: make instructions-update"
    )


def test_a_family_that_grew_is_named_even_if_the_total_hides_it() -> None:
    """Every figure is held to the tolerance by itself, in both directions, and one without a counterpart never passes."""
    committed = {"base": {"norm": 1000, "linear": 100_000, "rotary": 500, "total": 101_500}}
    measured = {"base": {"norm": 1031, "linear": 96_999, "total": 98_030, "sampling": 7}}
    compared = {family: within for _, family, *_, within in INSTRUCTIONS["rows"](measured, committed)}
    assert compared == {"norm": False, "linear": False, "rotary": False, "total": False, "sampling": False}
    near = {"base": {"norm": 1030, "linear": 97_000, "rotary": 500, "total": 98_530}}
    assert all(within for *_, within in INSTRUCTIONS["rows"](near, committed))
