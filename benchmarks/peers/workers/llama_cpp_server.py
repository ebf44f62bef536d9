"""Serves a GGUF file with llama.cpp; runs in its environment, under its Python.

    llama_cpp_server.py MODEL.gguf PORT SLOTS TOKENS_PER_SLOT THREADS [ADAPTER.gguf ...]

Adapters are off until a request names them by number."""

import signal
import sys

import xllamacpp

model, port, slots, tokens, threads, *adapters = sys.argv[1:]
settings = xllamacpp.CommonParams()
settings.model.path = model
settings.hostnames = ["127.0.0.1"]
settings.port = int(port)
settings.n_parallel = int(slots)
settings.n_ctx = int(slots) * int(tokens)
settings.n_batch, settings.n_ubatch = 2048, 512
settings.cont_batching = True
settings.special = True
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(threads)
settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 0.0) for adapter in adapters]
settings.lora_init_without_apply = True
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
signal.sigwait({signal.SIGINT, signal.SIGTERM})
