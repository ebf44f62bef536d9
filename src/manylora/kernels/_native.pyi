"""
Native kernels of manylora. Use manylora.kernels, which picks the capability.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy
import numpy.typing
from numpy.typing import NDArray


def capabilities() -> list[str]:
    """
    Instruction sets that this build and this CPU both have, slowest first.
    """

class Runtime:
    """
    Threads, kernels and scratch: the first argument of every operation. One operation at a time.
    """

    def __init__(self, threads: int, capability: str) -> None: ...

    @property
    def threads(self) -> int: ...

    @property
    def capability(self) -> str: ...

class Matrix:
    """Activations, rows by columns, of 'float32' or 'bfloat16'."""

    def __init__(self, rows: int, columns: int, dtype: str) -> None: ...

    @property
    def array(self) -> numpy.typing.NDArray[Any]:
        """A writable numpy view [rows, columns]; bfloat16 as uint16."""

class Arena:
    """Zeroed memory in huge pages where the system grants them."""

    def __init__(self, bytes: int) -> None: ...

    @property
    def bytes(self) -> int: ...

    @property
    def array(self) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,))]:
        """A writable numpy view of the bytes."""

def panel_width(part_columns: Sequence[int]) -> int:
    """
    Columns of one panel of a weight with these parts: a constant of the shape.
    """

def lora_a_bytes(rank: int, depth: int) -> int:
    """Bytes of a packed A."""

def lora_b_bytes(rank: int, columns: int, width: int) -> int:
    """
    Bytes of a packed B for one part of a linear layer with that panel width.
    """

def pack_lora_a(a: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """Packs A [rank, depth], bfloat16 as uint16, into `lora_a_bytes` bytes."""

def pack_lora_b(b: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], width: int, out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Packs B [columns, rank], bfloat16 as uint16, into `lora_b_bytes` bytes.
    """

class Adapter:
    """Where the packed pieces of one resident adapter lie in an arena."""

    def __init__(self, arena: Arena) -> None: ...

    def set(self, site: int, part: int, rank: int, scale: float, a_offset: int, b_offset: int, column_scale_offset: int = -1, bias_offset: int = -1) -> None:
        """
        Sets the pieces of one part of one linear layer, once. Offsets are in bytes, multiples of 64, -1 for none; column scale and
        bias are float32, one per column of the part. The bias takes the place of the layer's.
        """

class Segments:
    """
    The rows of a step grouped by adapter, ascending. Rows in no segment are base rows.
    """

    def __init__(self, max_segments: int) -> None: ...

    def reset(self, rows: int) -> None:
        """Forgets all segments; the step has `rows` rows."""

    def add(self, start: int, stop: int, adapter: Adapter) -> None:
        """
        Rows [start, stop), after those of the last segment, answer with `adapter`.
        """

    def __len__(self) -> int: ...

    @property
    def rows(self) -> int: ...

class Linear:
    """A base weight packed for the kernels, its parts fused."""

    def __init__(self, runtime: Runtime, parts: Sequence[Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)]], biases: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None]) -> None:
        """
        Packs parts [columns, depth], bfloat16 as uint16, each with a float32 bias [columns] or None.
        """

    @property
    def columns(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def part_columns(self) -> list[int]: ...

def linear(runtime: Runtime, rows: int, segments: Segments, x: Matrix, weight: Linear, site: int, y: Matrix, accumulate: bool) -> None:
    """
    y = (accumulate ? y : 0) + [column scale *] (x W^T + lora) + bias for the first `rows` rows: x bfloat16 [rows, depth],
    y float32 [rows, columns]. `site` is layer * 4 + {qkv 0, o 1, gate_up 2, down 3}; -1: no adapter takes part.
    """
