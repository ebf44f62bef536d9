"""Request bodies. Unknown fields are refused; fields of the OpenAI API that are not supported are refused by name unless they
ask for nothing; types are strict (a number in quotes is not a number); null means the default."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from manylora.server.api.fields import LogitBias, Prompt, Stop, StopTokens

MAX_LOGPROBS = 20
MAX_MESSAGES = 4096
"""Messages, and text parts of all of them together."""


class Body(BaseModel):
    """Strict, closed, and honest about what it does not do."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Known fields that are not supported -> the values that ask for nothing and are accepted."""

    @model_validator(mode="before")
    @classmethod
    def refuse_unsupported(cls, value: object) -> object:
        """Drops neutral values of unsupported fields; refuses others, naming the field, and ends at the first unknown one:
        complaining of each of very many would take seconds."""
        if not isinstance(value, dict):
            raise PydanticCustomError("no_object", "must be a JSON object")
        kept = {}
        for name, given in value.items():
            neutral = cls.unsupported.get(name)
            if neutral is None:
                if name not in cls.model_fields:
                    raise PydanticCustomError("extra_forbidden", "unknown", {"param": name})
                kept[name] = given
            elif given is not None and not any(given == item and type(given) is type(item) for item in neutral):
                raise PydanticCustomError("unsupported_parameter", "{param} is not supported by this server", {"param": name})
        return kept


def fault(param: str, message: str) -> PydanticCustomError:
    """A complaint about one field from a check that sees several."""
    return PydanticCustomError("invalid_value", "{reason}", {"reason": message, "param": param})


_ENGINE_EXTRAS: dict[str, tuple[Any, ...]] = {
    "prompt_logprobs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "truncate_prompt_tokens": (),
    "priority": (0,),
    "detokenize": (True,),
    "spaces_between_special_tokens": (True,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "allowed_token_ids": (),
    "bad_words": ([],),
}
"""What other engines offer beyond the OpenAI API and this server does not (yet)."""


class StreamOptions(Body):
    """Options of a streamed answer."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {"include_obfuscation": (False,), "continuous_usage_stats": (False,)}
    include_usage: bool | None = Field(None, description="Send a last chunk with the usage of the whole request.")


class SamplingBody(Body):
    """What completions and chat completions share."""

    model: str = Field(description="A name from GET /v1/models: the base model's or an adapter's.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(None, description="Answers per prompt; 1 by default.")
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="No stop token or stop string before so many tokens."
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="0 is greedy; 1 by default.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="Candidates at most; 0 or -1 keeps all.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    logit_bias: LogitBias = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop = ()
    stop_token_ids: StopTokens = ()
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = Field(None, description="Leave special tokens out of the text; true by default.")
    add_special_tokens: bool | None = Field(None, description="Let the tokenizer add its own special tokens to the prompt.")
    user: str | None = Field(None, description="Accepted for compatibility; it changes nothing.")

    @model_validator(mode="after")
    def agree(self) -> Self:
        """Fields that only make sense together."""
        if self.stream_options is not None and not self.stream:
            raise fault("stream_options", "stream_options is only allowed with stream: true")
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise fault("min_tokens", f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}")
        return self


class CompletionRequest(SamplingBody):
    """POST /v1/completions."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        **_ENGINE_EXTRAS,
        "suffix": ("",),
        "response_format": ({"type": "text"},),
        "prompt_embeds": (),
    }
    prompt: Prompt
    echo: bool | None = Field(None, description="Begin the answer with the prompt; with logprobs, also score its tokens.")
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def accept_trivial_best_of(cls, value: object) -> object:
        """`best_of` equal to `n` asks for nothing more than `n` does."""
        if not isinstance(value, dict) or "best_of" not in value:
            return value
        best, n = value["best_of"], value.get("n")
        if best is None or (type(best) is int and best == (1 if n is None else n)):
            return {name: given for name, given in value.items() if name != "best_of"}
        raise fault("best_of", "best_of is not supported unless it equals n")

    @model_validator(mode="after")
    def something_to_do(self) -> Self:
        """No new tokens make sense only to score or repeat the prompt."""
        if self.max_tokens == 0 and not self.echo:
            raise fault("max_tokens", "max_tokens must be at least 1 unless echo is true")
        return self


class TextPart(Body):
    """A part of a message's content. Only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message. `role` is what the model's chat template knows: usually system, user and assistant."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
        "refusal": (),
        "audio": (),
        "annotations": ([],),
        "reasoning": (),
        "reasoning_content": (),
    }
    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[TextPart]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def plain_content(cls, value: object) -> object:
        """One complaint about content, where pydantic's union would give one per alternative."""
        if isinstance(value, dict) and "content" in value:
            content = value["content"]
            if not isinstance(content, str | list):
                raise fault("content", "the content of a message must be a string or a list of text parts")
            for part in content if isinstance(content, list) else ():
                if not isinstance(part, dict) or part.get("type") != "text":
                    kind = part.get("type") if isinstance(part, dict) else part
                    raise fault("content", f"content parts of type 'text' are supported, not {kind!r:.40}")
                if set(part) != {"type", "text"} or not isinstance(part["text"], str):
                    raise fault("content", "a content part of type 'text' has a string 'text' and nothing else")
        return value

    @property
    def characters(self) -> int:
        """Of its content."""
        return len(self.content) if isinstance(self.content, str) else sum(len(part.text) for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template sees it: the fields that were given, nothing else."""
        return self.model_dump(exclude_none=True)


class ChatCompletionRequest(SamplingBody):
    """POST /v1/chat/completions."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        **_ENGINE_EXTRAS,
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "audio": (),
        "modalities": (["text"],),
        "prediction": (),
        "web_search_options": (),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "metadata": ({},),
        "moderation": (),
        "prompt_cache_key": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "safety_identifier": (),
        "echo": (False,),
        "best_of": (1,),
        "chat_template": (),
        "documents": ([],),
    }
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: bool | None = Field(None, description="Let the template open the assistant's turn; true by default.")
    continue_final_message: bool | None = Field(None, description="Continue the last message in place of answering it.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="More variables for the chat template.")

    @model_validator(mode="before")
    @classmethod
    def bounded(cls, value: object) -> object:
        """Counts before anything looks at each: the checks of one request must not hold up the others."""
        messages = value.get("messages") if isinstance(value, dict) else None
        if isinstance(messages, list):
            count = len(messages)
            if count <= MAX_MESSAGES:
                contents = (message.get("content") for message in messages if isinstance(message, dict))
                count = max(count, sum(len(content) for content in contents if isinstance(content, list)))
            if count > MAX_MESSAGES:
                raise fault("messages", f"messages has {count} messages or content parts; at most {MAX_MESSAGES} are allowed")
        return value

    @property
    def characters(self) -> int:
        """Of all messages' contents, before a template adds its own."""
        return sum(message.characters for message in self.messages)

    @model_validator(mode="after")
    def chat_fields_agree(self) -> Self:
        """Fields that only make sense together."""
        if self.max_tokens == 0:
            raise fault("max_tokens", "max_tokens must be at least 1")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise fault("max_completion_tokens", "max_tokens and max_completion_tokens differ; give one of them")
        if self.max_completion_tokens is not None and (self.min_tokens or 0) > self.max_completion_tokens:
            raise fault(
                "min_tokens", f"min_tokens {self.min_tokens} is more than max_completion_tokens {self.max_completion_tokens}"
            )
        if self.top_logprobs and not self.logprobs:
            raise fault("top_logprobs", "top_logprobs needs logprobs: true")
        if self.continue_final_message and self.add_generation_prompt:
            raise fault("continue_final_message", "continue_final_message and add_generation_prompt exclude each other")
        return self


class LoadAdapterRequest(Body):
    """POST /v1/load_lora_adapter, as vLLM has it."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "is_3d_lora_weight": (False,),
        "base_model_name": (),
        "lora_int_id": (),
    }
    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool | None = None


class UnloadAdapterRequest(Body):
    """POST /v1/unload_lora_adapter, as vLLM has it."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {"lora_int_id": ()}
    lora_name: Annotated[str, Field(min_length=1)]
