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

    def measure(self) -> None:
        """Begins to measure what operations take."""

    def take_times(self) -> dict[str, int]:
        """
        Nanoseconds since the last call, by part: base, lora, attention, elementwise. All zero before `measure`.
        """

class Matrix:
    """Activations, rows by columns, of 'float32' or 'bfloat16'."""

    def __init__(self, rows: int, columns: int, dtype: str) -> None: ...

    @property
    def array(self) -> numpy.typing.NDArray[Any]:
        """A writable numpy view [rows, columns]; bfloat16 as uint16."""

def release_freed_memory() -> None:
    """
    Gives freed memory that the C library keeps back to the system: worth it after much that was short-lived.
    """

class Arena:
    """Zeroed memory in huge pages where the system grants them."""

    def __init__(self, bytes: int) -> None: ...

    @property
    def bytes(self) -> int: ...

    def populate(self, offset: int, bytes: int) -> None:
        """
        Makes a range real now, so that its first use does not wait for the system's pages.
        """

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

    def __init__(self, runtime: Runtime, parts: Sequence[Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)]], biases: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None], quantization: str = 'none') -> None:
        """
        Packs parts [columns, depth], bfloat16 as uint16, each with a float32 bias [columns] or None. `quantization` is
        'none', or 'int8': rotated and rounded to int8, one scale per column.
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

def gated_linear(runtime: Runtime, rows: int, segments: Segments, x: Matrix, weight: Linear, site: int, y: Matrix) -> None:
    """
    y = silu(gate) * up of a weight whose parts are gate and up; y bfloat16 [rows, columns / 2]. The bits of `linear` and
    then `silu_multiply`.
    """

class Batch:
    """
    What one step computes. Write the arrays (make the views once), then begin().
    """

    def __init__(self, max_rows: int, max_sequences: int, max_slots: int, max_blocks: int) -> None: ...

    @property
    def token_ids(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_rows]"""

    @property
    def positions(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_rows]"""

    @property
    def sequence_starts(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_sequences + 1], row offsets"""

    @property
    def sequence_slots(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_sequences], rows of block_tables"""

    @property
    def block_tables(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None, None))]:
        """int32 [max_slots, max_blocks]"""

    @property
    def gather_rows(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_rows]"""

    def begin(self, rows: int, sequences: int) -> None:
        """
        Declares how much of the arrays is valid; ValueError names what is wrong with them.
        """

def kv_block_bytes(layers: int, kv_heads: int, head_dim: int) -> int:
    """Bytes of 16 tokens of K and V, all layers."""

class KvCache:
    """
    K and V in blocks of 16 tokens; block b lies at byte b * block_bytes of the arena.
    """

    def __init__(self, arena: Arena, layers: int, kv_heads: int, head_dim: int) -> None: ...

    @property
    def blocks(self) -> int:
        """Whole blocks that the arena holds."""

    @property
    def block_bytes(self) -> int: ...

def rotary(runtime: Runtime, batch: Batch, qkv: Matrix, cos: Matrix, sin: Matrix, kv: KvCache, layer: int, q: Matrix, heads: int, q_norm: Matrix | None, k_norm: Matrix | None, eps: float) -> None:
    """
    Rotates (after the optional norm of each head) q into `q`, bfloat16 [rows, heads * head_dim], and k into the cache, with v.
    """

def attention(runtime: Runtime, batch: Batch, q: Matrix, kv: KvCache, layer: int, out: Matrix) -> None:
    """
    Causal attention over the cache, scaled by 1 / sqrt(head_dim); q and out bfloat16 [rows, heads * head_dim].
    """

def embed(runtime: Runtime, batch: Batch, table: Matrix, x: Matrix) -> None:
    """
    x[row] = table[token_ids[row]]; table bfloat16 [vocabulary, columns], x float32 [rows, columns].
    """

def rms_norm(runtime: Runtime, rows: int, x: Matrix, weight: Matrix, eps: float, y: Matrix) -> None:
    """
    y = x / sqrt(mean(x^2) + eps) * weight; x float32 [rows, columns], weight float32 [1, columns], y bfloat16.
    """

def silu_multiply(runtime: Runtime, rows: int, gate_up: Matrix, y: Matrix) -> None:
    """
    y = silu(gate) * up; gate_up float32 [rows, 2 * columns], the gate first, y bfloat16 [rows, columns].
    """

def gather(runtime: Runtime, batch: Batch, count: int, x: Matrix, y: Matrix) -> None:
    """y[i] = x[gather_rows[i]] for i < count, float32."""

class Sampler:
    """
    What is asked of each row of logits, and what was found. Make the views once.
    """

    def __init__(self, max_rows: int, max_top: int) -> None: ...

    @property
    def temperature(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
        """float32 [max_rows]; 0: the most likely token"""

    @property
    def top_k(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_rows]; 0 or less: off"""

    @property
    def top_p(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
        """float32 [max_rows], above 0; 1: off"""

    @property
    def min_p(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
        """float32 [max_rows], of the most likely token's probability; 0: off"""

    @property
    def uniform(self) -> Annotated[NDArray[numpy.float64], dict(shape=(None,))]:
        """float64 [max_rows], in [0, 1)"""

    @property
    def top_count(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_rows], at most max_top"""

    @property
    def token(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None,))]:
        """int32 [max_rows], written by sample"""

    @property
    def normalizer(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
        """float32 [max_rows], log of the sum of e^logit, by logprobs"""

    @property
    def top_tokens(self) -> Annotated[NDArray[numpy.int32], dict(shape=(None, None))]:
        """int32 [max_rows, max_top], most likely first, by logprobs"""

    @property
    def top_logprobs(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
        """float32 [max_rows, max_top], by logprobs"""

def logprobs(runtime: Runtime, rows: int, logits: Matrix, sampler: Sampler) -> None:
    """
    The normalizer of every row of raw logits, and its top_count most likely tokens.
    """

def sample(runtime: Runtime, rows: int, logits: Matrix, sampler: Sampler) -> None:
    """
    One token per row: temperature, then min_p, top_k, top_p, then `uniform` in the cumulative distribution by token id.
    """

def probe_read(runtime: Runtime, arena: Arena) -> float:
    """
    Bytes per second of one sequential read of the arena, which must have been written, by all threads.
    """

def probe_bf16_products(runtime: Runtime) -> float:
    """
    Operations per second of bfloat16 products in registers, all threads (float32 where there are none).
    """

def probe_int8_products(runtime: Runtime) -> float:
    """
    Operations per second of int8 products in registers, all threads (wider integers where there are none).
    """
