"""The wire format: requests and responses as pydantic models, with OpenAI's and vLLM's names."""
