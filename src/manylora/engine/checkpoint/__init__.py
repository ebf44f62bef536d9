"""Base-model checkpoints: Hugging Face folders and GGUF files behind one contract."""
