"""Other engines on the same loads, each in a virtual environment of its own below `.peers/`.

environments.py   made once, by pip
vllm.py           vLLM's CPU build
llama_cpp.py      llama.cpp's server
peft.py           transformers and PEFT in static batches, in the project's own test environment
workers/          scripts that run under those Pythons; beside them is no module that could be mistaken for one of theirs
"""
