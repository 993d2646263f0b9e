"""One side of `cast_bench.compare`: loads once, then answers each "concurrency round" line.

An answer is one line of JSON with the tokens generated and the seconds taken, prompt included.
All sides decode greedily, ignore the end token and generate exactly `--output-len` tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from cast_bench.prompts import PROMPTS, chat_ids


class Generate(Protocol):
    """Answers all prompts at once; returns the number of tokens generated."""

    def __call__(self, prompts: list[str]) -> int: ...


def castserve(policy: str, drafter: str, args: argparse.Namespace) -> Generate:
    """Our engine in this process, without HTTP."""
    import torch

    from cast_server.build import build_core, prepare
    from cast_server.config import EngineConfig
    from cast_server.engine.request import Request, SamplingParams, SpeculationParams
    from cast_server.model_files import load_model, resolve_model

    torch.set_num_threads(args.threads)
    config = EngineConfig(
        dtype=args.dtype, drafter=drafter, max_num_seqs=args.slots, kv_cache_tokens=16384
    )
    model, tokenizer = load_model(resolve_model(config.model), getattr(torch, args.dtype))
    core = build_core(config, model, tokenizer)
    prepare(core, config)
    params = SamplingParams(max_tokens=args.output_len, temperature=0.0, ignore_eos=True)

    def generate(prompts: list[str]) -> int:
        for index, prompt in enumerate(prompts):
            ids = tuple(chat_ids(tokenizer, prompt))
            core.add(Request(f"{index}", ids, params, index, SpeculationParams(policy)))
        tokens = 0
        while core.has_work:
            tokens += sum(len(output.new_token_ids) for output in core.step())
        return tokens

    return generate


def transformers(args: argparse.Namespace, lookup: int | None = None) -> Generate:
    """`generate`, all prompts in one left-padded batch; with `lookup`, one after the other, as it
    then looks up so many tokens in the text so far (prompt lookup) and takes no batches."""
    import torch

    from cast_server.model_files import load_model, resolve_model

    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(
        resolve_model("smollm2-135m-instruct"), getattr(torch, args.dtype)
    )
    tokenizer.padding_side = "left"

    def generate(prompts: list[str]) -> int:
        if lookup is None:
            return batch(prompts)
        return sum(batch([prompt], prompt_lookup_num_tokens=lookup) for prompt in prompts)

    def batch(prompts: list[str], **options: int) -> int:
        ids = [chat_ids(tokenizer, prompt) for prompt in prompts]
        inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        length = args.output_len
        with torch.inference_mode():
            out = model.generate(
                **inputs, do_sample=False, max_new_tokens=length, min_new_tokens=length, **options
            )
        return int((out.shape[1] - inputs["input_ids"].shape[1]) * len(prompts))

    return generate


def llama_cpp(args: argparse.Namespace, has_ngrams: bool = False) -> Generate:
    """llama.cpp's server, in this process, on the GGUF file itself; with its own n-gram drafts of
    the text so far, if wished."""
    import xllamacpp

    from cast_server.model_files import resolve_model

    files = resolve_model("smollm2-135m-instruct")
    params = xllamacpp.CommonParams()
    params.model.path = str(files.directory / (files.gguf_file or ""))
    params.n_parallel = args.slots
    params.n_ctx = 2048 * args.slots
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    if has_ngrams:
        kinds = xllamacpp.common_speculative_type
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    server = xllamacpp.Server(params)
    pool = ThreadPoolExecutor(args.slots)

    def ask(prompt: str) -> int:
        answer = server.handle_chat_completions(
            {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": args.output_len,
                "temperature": 0.0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        return int(answer["usage"]["completion_tokens"])

    return lambda prompts: sum(pool.map(ask, prompts))


_SIDES: Final[dict[str, Callable[[argparse.Namespace], Generate]]] = {
    "castserve-off": lambda args: castserve("off", "ngram", args),
    "castserve-ngram": lambda args: castserve("cast", "ngram", args),
    "castserve-eagle": lambda args: castserve("cast", "eagle", args),
    "transformers": transformers,
    "transformers-lookup": partial(transformers, lookup=10),
    "llama.cpp": llama_cpp,
    "llama.cpp-ngram": partial(llama_cpp, has_ngrams=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=tuple(_SIDES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--output-len", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8)
    args = parser.parse_args()
    generate = _SIDES[args.side](args)
    print("{}", flush=True)
    for line in sys.stdin:
        concurrency, round_index = map(int, line.split())
        first = (round_index + 1) * concurrency
        prompts = [PROMPTS[(first + i) % len(PROMPTS)] for i in range(concurrency)]
        begin = time.perf_counter()
        tokens = generate(prompts)
        answer = {"tokens": tokens, "seconds": time.perf_counter() - begin}
        print(f"\n{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
