"""The server's configuration: one field, one flag, one line of help."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cast_server.edge_config import EdgeConfig


class EngineConfig(BaseModel):
    """What the engine needs. Sizes are in tokens unless they say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(
        "smollm2-135m-instruct",
        description="name of the built-in model, or a directory in Hugging Face format, "
        "or a .gguf file",
    )
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        "auto", description="weights and KV cache; auto is bfloat16"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1 …; auto takes a GPU if there is one")
    kernels: Literal["auto", "torch", "triton"] = Field(
        "auto", description="what attention and the like run on; auto is triton on a GPU"
    )
    cuda_graphs: int = Field(
        12,
        ge=0,
        description="on a GPU, how many numbers of rows steps are padded to, each with a recorded "
        "CUDA graph; 0 records none",
    )
    drafter: str = Field(
        "auto",
        description="where draft tokens come from: eagle (a trained head and n-grams), ngram (the "
        "text itself), draft-model (a smaller model); auto takes eagle where a head ships",
    )
    head: str | None = Field(
        None,
        description="directory of a draft head for --drafter eagle; default: the one that ships "
        "for the model",
    )
    draft_sources: str = Field(
        "text,store",
        description="what --drafter eagle uses beside the head, separated by commas: text (earlier "
        "in the same sequence), store (n-grams of the model's own writing)",
    )
    learn_from_traffic: bool = Field(
        False,
        description="let --drafter eagle count which tokens followed which in the answers to "
        "requests that were drafted for, for all clients together; prompts are not counted. The "
        "counts stay in memory, at most 200,000 contexts, the least recently used go first, and "
        "all go when the server stops",
    )
    policy: str = Field(
        "cast",
        description="how far to draft: cast (as far as it pays, at every step anew), off, chain:K "
        "(K tokens in a row), tree:N (N nodes), eagle2, chain-cost, cast-paper",
    )
    profile: str = Field(
        "auto",
        description="what steps cost on this machine: auto (measured in seconds at the first "
        "start, then kept in the user's cache), guess (not measured), or a file of cast-profile",
    )
    max_model_len: int | None = Field(
        None, ge=16, description="longest prompt and answer together; default: the model's own"
    )
    kv_cache_tokens: int | None = Field(
        None, ge=64, description="KV cache size; default: a share of free memory"
    )
    max_num_seqs: int = Field(32, ge=1, description="sequences decoded side by side")
    max_batched_tokens: int = Field(
        512, ge=16, description="most rows in one step: prefill chunks, drafts and all"
    )
    max_draft_rows: int = Field(
        64,
        ge=0,
        description="decoding requests and their drafts together get at most this many rows of a "
        "step",
    )
    max_waiting: int = Field(1024, ge=1, description="requests that may queue before a 503")
    block_size: int = Field(16, ge=1, description="tokens in a block of the KV cache")
    prefix_caching: bool = Field(True, description="reuse the KV cache of equal prompt beginnings")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: torch's choice")


class HttpConfig(EdgeConfig):
    """Where and how to listen."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every one")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    served_model_name: str | None = Field(
        None, description="the name that clients use; default: the model's"
    )
    tool_parser: str = Field(
        "auto",
        description="how the model writes tool calls: hermes, llama3_json, mistral, or what its "
        "chat template tells (auto)",
    )
    max_body_bytes: int = Field(8 * 2**20, ge=1024, description="largest request body accepted")
    evaluation_models: str = Field(
        "",
        description="models beside the served one that evaluations may name, loaded at the start: "
        "name=directory (or .gguf file), separated by commas",
    )
    evaluations_dir: str | None = Field(
        None,
        description="where evaluations are kept, so that a restart goes on with them; empty for "
        "none; default: the user's cache",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="lines of the log, on stderr: for people, or a JSON object each"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is worth a line; info has one for each request"
    )
    log_texts: bool = Field(
        False, description="prompts and answers in the log, of all clients; for debugging only"
    )
    otlp_endpoint: str | None = Field(
        None,
        description="URL of an OpenTelemetry collector (OTLP over HTTP) that gets a span for each "
        "request, such as http://127.0.0.1:4318; needs the extra castserve[otel]; default: none",
    )
