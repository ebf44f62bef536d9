"""Converts PEFT adapters for llama.cpp; runs in its environment, under its Python.

    llama_cpp_convert.py SCRIPTS MODEL_FOLDER ADAPTER_FOLDER OUT.gguf [ADAPTER_FOLDER OUT.gguf ...]

Runs llama.cpp's own script once for each pair, in one process: most of its time is imports."""

import runpy
import sys

scripts, model, *pairs = sys.argv[1:]
sys.path.insert(0, scripts)
for source, out in zip(pairs[::2], pairs[1::2], strict=True):
    sys.argv = ["convert_lora_to_gguf.py", source, "--base", model, "--outtype", "f16", "--outfile", out]
    runpy.run_path(f"{scripts}/convert_lora_to_gguf.py", run_name="__main__")
