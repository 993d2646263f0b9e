from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from engine.driving import request, run

from cast_drafters.base import DraftContext, DraftLimits, TargetParts
from cast_drafters.draft_model import MAX_PADDING, DraftModelDrafter
from cast_drafters.registry import create_drafter
from cast_drafters.tree import DraftTree, tree_from_arrays
from cast_server.engine.request import SamplingParams
from cast_server.errors import ConfigError

VOCAB = tiny_models.VOCAB_SIZE
PROMPT = np.random.default_rng(0).integers(0, VOCAB, 40).tolist()
PROMPTS = [PROMPT[begin : begin + length] for begin, length in [(0, 9), (5, 1), (9, 31), (2, 17)]]
ROOMY = DraftLimits(64, 8, 4)


@pytest.fixture(autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


def own_model() -> Any:
    return tiny_models.randomised(tiny_models.llama, std=0.3)


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[str, Path]:
    """The target's own weights, and those of a smaller stranger."""
    root = tmp_path_factory.mktemp("drafts")
    stranger = tiny_models.randomised(lambda: tiny_models.llama(num_hidden_layers=1), seed=9)
    for name, model in {"self": own_model(), "stranger": stranger}.items():
        model.save_pretrained(root / name)
    return {name: root / name for name in ("self", "stranger")}


def target(vocab_size: int = VOCAB, dtype: torch.dtype = torch.float32) -> TargetParts:
    embedding_VE = torch.zeros(vocab_size, 2)
    return TargetParts("tiny", None, embedding_VE, 2, 0, dtype, torch.device("cpu"))


def context(token_ids: list[int], limits: DraftLimits = ROOMY, name: str = "a") -> DraftContext:
    return DraftContext(name, token_ids, limits, 0.0, 0)


def draft(drafter: DraftModelDrafter, token_ids: list[int], limits=ROOMY, name="a") -> DraftTree:
    (tree,) = drafter.propose([context(token_ids, limits, name)])
    return tree_from_arrays(tree.token_ids_T, tree.parents_T, tree.log_probs_T)


def log_probs(model: Any, token_ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([token_ids]), use_cache=False).logits[0, -1].log_softmax(-1)


def greedy(model: Any, token_ids: list[int], count: int) -> list[int]:
    token_ids = list(token_ids)
    for _ in range(count):
        token_ids.append(int(log_probs(model, token_ids).argmax()))
    return token_ids[-count:]


def same(one: DraftTree, other: DraftTree) -> bool:
    return (
        one.token_ids_T.tolist() == other.token_ids_T.tolist()
        and one.parents_T.tolist() == other.parents_T.tolist()
        and np.allclose(one.log_probs_T, other.log_probs_T, atol=1e-4)
    )


# The tree


@pytest.mark.parametrize(
    "make", [tiny_models.llama, tiny_models.mistral, tiny_models.gemma3, tiny_models.gpt2]
)
def test_the_spine_is_the_models_greedy_continuation(make) -> None:
    """Beyond the sliding window too, where there is one."""
    model = tiny_models.randomised(make, std=0.3)
    tree = draft(DraftModelDrafter(model, VOCAB, chunk=7), PROMPT)
    assert tree.as_chain(9).token_ids_T.tolist() == greedy(model, PROMPT, 5)


def test_a_spine_with_the_likeliest_alternatives_at_every_level() -> None:
    model = own_model()
    tree = draft(DraftModelDrafter(model, VOCAB, levels=3, width=3), PROMPT)
    path, above, expected = list(PROMPT), 0.0, []
    for _ in range(3):
        top = log_probs(model, path).topk(3)
        expected += [(int(i), above + float(p)) for i, p in zip(*top[::-1], strict=True)]
        path.append(int(top.indices[0]))
        above += float(top.values[0])
    got = sorted(zip(tree.token_ids_T.tolist(), tree.log_probs_T.tolist(), strict=True))
    assert [token for token, _ in got] == [token for token, _ in sorted(expected)]
    assert [p for _, p in got] == pytest.approx([p for _, p in sorted(expected)], abs=1e-4)
    assert len(set(tree.parents_T.tolist())) == 3  # the root and two nodes of the spine


@pytest.mark.parametrize(
    "sizes", [(0, 8, 4), (8, 0, 4), (8, 8, 0), (1, 8, 4), (3, 2, 4), (9, 9, 1)]
)
def test_limits_hold(sizes) -> None:
    limits = DraftLimits(*sizes)
    tree = draft(DraftModelDrafter(own_model(), VOCAB), PROMPT, limits)
    assert len(tree) <= limits.max_nodes
    assert bool(len(tree)) == (0 not in sizes)
    assert max(tree.depths_T, default=0) <= min(limits.max_depth, 5)
    assert np.bincount(tree.parents_T + 1, minlength=1).max() <= limits.max_width


def test_no_pass_for_what_could_not_stay() -> None:
    model = own_model()
    drafter = DraftModelDrafter(model, VOCAB)
    torch.nn.init.zeros_(model.lm_head.weight)  # all tokens alike
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    assert len(draft(drafter, PROMPT, DraftLimits(4, 8, 4))) == 4
    assert len(passes) == 1
    assert len(draft(drafter, PROMPT, DraftLimits(5, 8, 4))) == 5
    assert len(passes) == 3


def test_nothing_beyond_the_models_positions() -> None:
    def short() -> Any:
        sizes = {"vocab_size": VOCAB, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 4}
        config = transformers.GPT2Config(**sizes, **tiny_models.NO_SPECIAL_TOKENS)
        return transformers.GPT2LMHeadModel(config)

    drafter = DraftModelDrafter(tiny_models.randomised(short), VOCAB)
    depths = [max(draft(drafter, PROMPT[:n]).depths_T, default=0) for n in range(11, 19)]
    assert depths == [5, 5, 4, 3, 2, 1, 0, 0]


# The cache


@pytest.mark.parametrize("chunk", [3, 512])
@pytest.mark.parametrize("make", [own_model, lambda: tiny_models.randomised(tiny_models.mistral)])
def test_catching_up_by_any_pieces(make, chunk) -> None:
    model = make()
    drafter = DraftModelDrafter(model, VOCAB, chunk=chunk)
    live = PROMPT[:1]
    drafter.begin("a", live)
    for length in (1, 2, 2, 3, 10, 11, 24, 24, 40):
        live.extend(PROMPT[len(live) : length])
        scratch = DraftModelDrafter(model, VOCAB)
        assert same(draft(drafter, live), draft(scratch, live))
        assert drafter.cached("a") == length


def test_sequences_do_not_mix() -> None:
    drafter = DraftModelDrafter(own_model(), VOCAB)
    names = [str(index) for index in range(len(PROMPTS))]
    contexts = [context(p, name=n) for p, n in zip(PROMPTS, names, strict=True)]
    together = drafter.propose(contexts)
    again = drafter.propose(contexts[::-1])[::-1]
    alone = [draft(DraftModelDrafter(own_model(), VOCAB), prompt) for prompt in PROMPTS]
    assert all(map(same, together, alone))
    assert all(map(same, again, alone))
    assert [drafter.cached(name) for name in names] == [len(prompt) for prompt in PROMPTS]


def test_begin_and_release_forget() -> None:
    drafter = DraftModelDrafter(own_model(), VOCAB)
    fresh = draft(drafter, PROMPT[7:])
    drafter.release("a")
    drafter.release("a")
    assert drafter.cached("a") == 0
    draft(drafter, PROMPT)
    drafter.begin("a", PROMPT[7:])
    assert same(draft(drafter, PROMPT[7:]), fresh)


def test_a_failed_pass_leaves_no_trace() -> None:
    model = own_model()
    drafter = DraftModelDrafter(model, VOCAB)
    right = draft(drafter, PROMPT)
    calls: list[int] = []

    def fail_second(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    hook = model.model.layers[1].register_forward_pre_hook(fail_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        draft(drafter, PROMPT)
    hook.remove()
    assert drafter.cached("a") == 0
    assert same(draft(drafter, PROMPT), right)


# In an engine


def engine(directories, which: str, **changes: Any) -> Any:
    return tiny_models.tiny_core(
        own_model(), drafter="draft-model", head=str(directories[which]), **changes
    )


def answers(core: Any, policy: str, concurrency: int = 8, **params: Any) -> dict[str, Any]:
    params = {"max_tokens": 32, "ignore_eos": True, "temperature": 0.0} | params
    requests = [
        request(str(i), prompt, SamplingParams(**params), policy, seed=100 + i)
        for i, prompt in enumerate(PROMPTS)
    ]
    return run(core, requests, concurrency)


def assert_same_tokens(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert {n: a.tokens for n, a in one.items()} == {n: a.tokens for n, a in other.items()}


@pytest.mark.parametrize("policy", ["chain:5", "tree:20"])
def test_the_target_accepts_all_that_it_says_itself(directories, policy) -> None:
    core = engine(directories, "self", max_draft_rows=128)
    length = 1 + 6 * 6  # prefill gives one, then six full steps: five drafts and the bonus token
    off, drafted = (answers(core, one, max_tokens=length) for one in ("off", policy))
    assert_same_tokens(off, drafted)
    for answer in drafted.values():
        assert answer.last.speculation.mean_acceptance_length == 6.0
    assert core.drafter._caches == {}


@pytest.mark.parametrize("which", ["self", "stranger"])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_no_draft_model_changes_a_token(directories, which, temperature) -> None:
    core = engine(directories, which)
    off = answers(core, "off", temperature=temperature)
    for policy, concurrency in (("chain:4", 1), ("tree:12", 3)):
        drafted = answers(core, policy, concurrency, temperature=temperature)
        assert_same_tokens(off, drafted)
        assert all(a.last.speculation.num_draft_tokens for a in drafted.values())


def test_preemption_changes_nothing(directories) -> None:
    core = engine(directories, "self", kv_cache_tokens=128, max_model_len=128)
    off = answers(core, "off")
    before = core.scheduler.num_preemptions
    drafted = answers(core, "tree:8")
    assert core.scheduler.num_preemptions > before
    assert_same_tokens(off, drafted)


# Loading


@pytest.mark.parametrize("extra", [-64, 64])
def test_a_vocabulary_that_is_padded_otherwise(tmp_path, extra) -> None:
    make = lambda: tiny_models.llama(vocab_size=VOCAB + extra)  # noqa: E731
    tiny_models.randomised(make).save_pretrained(tmp_path)
    drafter = DraftModelDrafter.for_target(target(), tmp_path, width=VOCAB)
    tree = draft(drafter, [*PROMPT, VOCAB - 1], DraftLimits(2000, 5, 2000))
    assert len(tree) == 5 * min(VOCAB, VOCAB + extra)
    assert tree.token_ids_T.max() == min(VOCAB, VOCAB + extra) - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_targets_dtype(directories, dtype) -> None:
    drafter = create_drafter("draft-model", target(dtype=dtype), head=directories["self"])
    assert isinstance(drafter, DraftModelDrafter)
    assert drafter._model.dtype == dtype
    assert len(draft(drafter, PROMPT)) == 20


def refusal(head: Path | None) -> str:
    with pytest.raises(ValueError, match=r"^[A-Z].*\.$") as caught:
        DraftModelDrafter.for_target(target(), head)
    return str(caught.value)


def test_no_directory() -> None:
    assert refusal(None) == (
        "The drafter draft-model needs --head, the directory of a small model that has the "
        "target's tokenizer."
    )
    with pytest.raises(ConfigError, match="needs --head"):
        tiny_models.tiny_core(own_model(), drafter="draft-model")


def test_no_model_in_the_directory(tmp_path) -> None:
    expected = f"There is no draft model in {tmp_path}: it holds no config.json."
    assert refusal(tmp_path) == expected


def test_unreadable_directory(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert refusal(tmp_path).startswith(f"The draft model in {tmp_path} cannot be loaded: ")
    (tmp_path / "config.json").write_text(tiny_models.llama().config.to_json_string())
    assert refusal(tmp_path).startswith(f"The draft model in {tmp_path} cannot be loaded: ")


def test_missing_weights(tmp_path) -> None:
    model = tiny_models.llama()
    weights = {n: w for n, w in model.state_dict().items() if "layers.1.mlp.up" not in n}
    model.save_pretrained(tmp_path, state_dict=weights)
    expected = f"The draft model in {tmp_path} lacks model.layers.1.mlp.up_proj.weight."
    assert refusal(tmp_path) == expected


@pytest.mark.parametrize("size", [VOCAB + MAX_PADDING + 1, 2 * VOCAB + 2 * MAX_PADDING])
def test_another_vocabulary(tmp_path, size) -> None:
    tiny_models.llama(vocab_size=size).config.save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        f"The draft model in {tmp_path} has a vocabulary of {size} tokens, the target one of 320: "
        "they do not share a tokenizer."
    )


def test_encoder_decoder(tmp_path) -> None:
    transformers.T5Config(vocab_size=VOCAB).save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        f"The model in {tmp_path} is an encoder-decoder model; only a decoder-only model can draft."
    )


def mamba() -> Any:
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    config = transformers.MambaConfig(**sizes, **tiny_models.NO_SPECIAL_TOKENS)
    return transformers.MambaForCausalLM(config)


def lfm2() -> Any:
    """Convolutions beside attention."""
    sizes = tiny_models.SIZES | {
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
    }
    config = transformers.Lfm2Config(**sizes, **tiny_models.NO_SPECIAL_TOKENS)
    return transformers.Lfm2ForCausalLM(config)


def bert() -> Any:
    """Every token sees every other one."""
    return transformers.BertLMHeadModel(transformers.BertConfig(**tiny_models.SIZES))


@pytest.mark.parametrize("make", [mamba, lfm2, bert])
def test_states_that_cannot_be_taken_back(make) -> None:
    model = tiny_models.randomised(make)
    with pytest.raises(ValueError, match=r"^(Mamba|Lfm2|Bert)\w+ cannot draft[,:] .* cache"):
        DraftModelDrafter(model, VOCAB)
