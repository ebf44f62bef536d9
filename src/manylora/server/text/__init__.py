"""Between tokens and text: incremental decoding and stop strings. Pure; no I/O, no event loop."""
