"""How each demo adapter is shaped and trained. Shapes differ on purpose: ranks 2 to 32, all seven projections or some, all layers
or two thirds of them, rsLoRA, rank and alpha patterns, so that the demo meets what an engine for many adapters must get right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD: Final = ("gate_proj", "up_proj", "down_proj")
BASE_MODEL: Final = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One adapter: `lora` are the arguments of `peft.LoraConfig`; it trains `steps` steps of `batch` examples, drawn in
    shuffled passes over its first `examples` training examples. The learning rate is warmed up over a tenth of the steps, then a
    cosine."""

    lora: dict[str, Any]
    examples: int
    steps: int
    learning_rate: float = 2e-3
    batch: int = 8
    seed: int = 0


RECIPES: Final[dict[str, Recipe]] = {
    # all seven projections
    "acme": Recipe(
        {"r": 8, "lora_alpha": 16, "target_modules": [*ATTENTION, *FEED_FORWARD]},
        examples=480,
        steps=60,
    ),
    # a high rank on two projections
    "birch": Recipe(
        {"r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]},
        examples=640,
        steps=80,
    ),
    # rsLoRA, the upper two thirds of the layers
    "cobalt": Recipe(
        {
            "r": 16,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": [*ATTENTION],
            "layers_to_transform": list(range(10, 30)),
        },
        examples=640,
        steps=80,
    ),
    # rank_pattern and alpha_pattern
    "dune": Recipe(
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": [*ATTENTION, *FEED_FORWARD],
            "rank_pattern": {"v_proj": 8, "gate_proj": 2},
            "alpha_pattern": {"v_proj": 24},
        },
        examples=640,
        steps=80,
    ),
    # two feed-forward projections
    "pirate": Recipe(
        {"r": 4, "lora_alpha": 8, "target_modules": ["up_proj", "down_proj"]},
        examples=120,
        steps=40,
    ),
    # the two projections that write to the residual stream
    "letter": Recipe(
        {"r": 6, "lora_alpha": 12, "target_modules": ["o_proj", "down_proj"]},
        examples=120,
        steps=40,
    ),
}
