"""Pure decisions. No clock, no I/O, no tensors, no randomness: time, sizes and content keys are arguments.

The engine, the twin and the router import this same code, so a prediction can differ from the engine only in its cost model.
Nothing here knows a token: requests are counts, block contents are opaque keys.

    extents.py     one byte budget in equal extents, each owned by KV or by one adapter
    kv_blocks.py   reference-counted KV blocks and the prefix cache over them
    fairness.py    whose turn it is: weighted virtual token counters
    scheduler.py   schedule(now) -> StepPlan, advance(plan): admission, chunked prefill, growth, preemption
"""
