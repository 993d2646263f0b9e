"""EAGLE heads from their published files, in a real engine around tiny targets.

That no token changes says little about a head that is seldom right, so its drafts are compared too:
with what transformers' own hidden states and formulas in float64 make of the same tokens.
"""

from __future__ import annotations

import copy
import functools
import itertools
import random

import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run

from cast_drafters.eagle.checkpoint import write_head
from cast_server.engine.request import SamplingParams
from cast_server.errors import ConfigError

FAMILIES = ("llama", "qwen3", "gemma3", "gpt2")
VERSIONS = (1, 3)
VOCAB, WIDTH = tiny_models.VOCAB_SIZE, tiny_models.SIZES["hidden_size"]
SHARED = 24  # tokens that some prompts begin with
MIXES = (
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.0, "repetition_penalty": 1.2},
    {"temperature": 1.2, "top_k": 40},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5},
)
POLICIES = ("tree:8", "off", "chain:3", "tree:14", "chain:1", "tree:8")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@functools.cache
def prompts() -> list[list[int]]:
    """One of two tokens, three that begin alike, some of several chunks."""
    chosen = random.Random(0)
    shared = [chosen.randrange(VOCAB) for _ in range(SHARED)]
    tails = [[chosen.randrange(VOCAB) for _ in range(n)] for n in (7, 2, 19, 41, 30, 8)]
    return [shared + tail if i % 2 == 0 else tail for i, tail in enumerate(tails)]


@functools.cache
def model_of(family):
    return tiny_models.randomised(getattr(tiny_models, family))


def requests(policies, lengths=(36,) * 6):
    """The same six, but for how they are drafted for."""
    return [
        request(
            str(i),
            prompts()[i],
            SamplingParams(max_tokens=length, ignore_eos=True, **mix),
            policy,
            seed=100 + i,
        )
        for i, (mix, policy, length) in enumerate(zip(MIXES, policies, lengths, strict=True))
    ]


@functools.cache
def expected_of(family) -> list[list[int]]:
    """Plain decoding, one by one, in an engine that knows of no head."""
    core = tiny_models.tiny_core(copy.deepcopy(model_of(family)))
    answers = run(core, requests(["off"] * 6), concurrency=1)
    return [answers[str(i)].tokens for i in range(6)]


def write_random(directory, version, num_layers):
    """EAGLE-3: narrower than the target, with embeddings of its own and part of the tokens."""
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 64}
    if version == 1:
        config = plain.config_v1(hidden_size=WIDTH, head_dim=16, has_qkv_bias=True, **sizes)
        tensors = plain.weights_v1(config)
        plain.write_v1(directory, config, tensors)
    else:
        taps = tuple(min(i, num_layers - 1) for i in range(3))
        config = plain.config(
            target_hidden_size=WIDTH, draft_vocab_size=200, layer_ids=taps, **sizes
        )
        tensors = plain.weights(config)
        write_head(directory, config, tensors)
    return config, tensors


def make_core(model, directory, **changes):
    settings = {"drafter": "eagle", "head": str(directory), "draft_sources": ""} | changes
    return tiny_models.tiny_core(copy.deepcopy(model), **settings)


def assert_same(answers, expected) -> None:
    assert [answers[str(i)].tokens for i in range(6)] == expected


class Witness:
    """Keeps what an engine's drafter was shown and what it answered, for greedy text.

    The engine gets the trees of `instead`, if any.
    """

    def __init__(self, core, instead=None) -> None:
        self._propose, self._instead, self.seen = core.drafter.propose, instead, []
        core.drafter.propose = self.propose

    def propose(self, contexts, gate=None):
        trees = self._propose(contexts, gate)
        for one, tree in zip(contexts, trees, strict=True):
            if len(tree) and one.temperature == 0.0:
                self.seen.append((one.request_id, list(one.token_ids), tree))
        return trees if self._instead is None else self._instead.propose(contexts)


class Reference:
    """The head in formulas, over the hidden states that transformers itself tells."""

    def __init__(self, model, config, tensors) -> None:
        self._model, self._config = model, config
        embedding = model.get_input_embeddings().weight.detach()
        if config.version == 1:
            lm_head = model.get_output_embeddings().weight.detach()
            self._head = plain.PlainV1(config, tensors, embedding, lm_head)
        else:
            self._head = plain.Plain(config, {"embed_tokens.weight": embedding} | tensors)
        self._ids = tensors["draft_token_ids"]

    def log_probs(self, token_ids) -> dict[int, float]:
        """What may follow `token_ids`, as the head sees it."""
        ids = torch.tensor(token_ids)
        with torch.inference_mode():
            out = self._model(input_ids=ids[None], use_cache=False, output_hidden_states=True)
            layers = self._config.layer_ids or (-1,)
            hidden = self._head.fuse([out.hidden_states[i][0, :-1] for i in layers])
            count = len(ids) - 1
            sees = torch.ones(count, count, dtype=torch.bool).tril()
            states = self._head.forward(ids[1:], hidden, torch.arange(count), sees)
            log_probs = self._head.log_probs(states[-1:])[0]
        return dict(zip(self._ids.tolist(), log_probs.tolist(), strict=True))


def assert_drafts(witness, reference, count) -> None:
    """The likeliest tokens are drafted first, with the head's own confidence."""
    assert len(witness.seen) >= count
    for _, token_ids, tree in random.Random(1).sample(witness.seen, count):
        right = reference.log_probs(token_ids)
        children = {
            int(token): float(log_prob)
            for token, parent, log_prob in zip(
                tree.token_ids_T, tree.parents_T, tree.confidences_T, strict=True
            )
            if parent < 0
        }
        assert max(children.values()) == pytest.approx(max(right.values()), abs=1e-3)
        for token, log_prob in children.items():
            assert log_prob == pytest.approx(right[token], abs=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_alone_and_together_with_chunks_and_prefix_hits(tmp_path, family, version) -> None:
    model = model_of(family)
    config, tensors = write_random(tmp_path, version, model.config.num_hidden_layers)
    core = make_core(model, tmp_path, max_batched_tokens=32)
    witness = Witness(core)
    together = run(core, requests(POLICIES))
    assert_same(together, expected_of(family))
    alone = run(core, requests(["tree:8"] * 6), concurrency=1)
    assert_same(alone, expected_of(family))
    assert sum(a.last.speculation.num_draft_tokens for a in together.values()) > 100
    assert together["1"].last.speculation.num_draft_tokens == 0
    assert sum(answer.last.num_cached_tokens >= SHARED for answer in alone.values()) >= 3
    assert_drafts(witness, Reference(model, config, tensors), 8)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sources", ["", "text"])
def test_preemption(tmp_path, version, sources) -> None:
    model = model_of("llama")
    config, tensors = write_random(tmp_path, version, 2)
    core = make_core(model, tmp_path, kv_cache_tokens=160, max_model_len=96, draft_sources=sources)
    witness = Witness(core)
    answers = run(core, requests(POLICIES))
    assert_same(answers, expected_of("llama"))
    assert core.scheduler.num_preemptions > 2
    if not sources:
        assert_drafts(witness, Reference(model, config, tensors), 8)


@pytest.mark.parametrize("version", VERSIONS)
def test_stretches_without_drafting(tmp_path, version) -> None:
    """While all six run there are no rows for drafts; then the head has much to catch up with."""
    model = model_of("llama")
    config, tensors = write_random(tmp_path, version, 2)
    core = make_core(model, tmp_path, max_draft_rows=11)
    witness = Witness(core)
    lengths = (36, 16, 16, 16, 36, 16)
    first, *others, second, last = requests(["tree:8"] * 6, lengths)
    tokens: dict[str, list[int]] = {}
    arrivals = {0: [first, second], 6: [*others, last]}
    for step in range(60):
        for one in arrivals.get(step, []):
            core.add(one)
        for output in core.step():
            tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
    for i, length in enumerate(lengths):
        assert tokens[str(i)] == expected_of("llama")[i][:length]
    drafted = [len(ids) - len(prompts()[0]) for name, ids, _ in witness.seen if name == "0"]
    gaps = [after - before for before, after in itertools.pairwise(drafted)]
    assert (drafted[0], gaps[-1]) == (1, 1)
    assert max(gaps) > 10
    assert_drafts(witness, Reference(model, config, tensors), 8)


@pytest.mark.parametrize("version", VERSIONS)
def test_after_accepted_branches(tmp_path, version) -> None:
    """Accepted rows move within the cache, and the head's view of them with them."""
    model = model_of("llama")
    config, tensors = write_random(tmp_path, version, 2)
    core = make_core(model, tmp_path, max_draft_rows=128)
    truth = {str(i): prompts()[i] + answer for i, answer in enumerate(expected_of("llama"))}
    witness = Witness(core, Adversary(VOCAB, 12, False, truth))
    answers = run(core, requests(["tree:12"] * 6))
    assert_same(answers, expected_of("llama"))
    stats = [answer.last.speculation for answer in answers.values()]
    assert sum(one.num_accepted_draft_tokens for one in stats) > 80
    assert_drafts(witness, Reference(model, config, tensors), 8)


def markov() -> torch.nn.Module:
    """A target whose next token depends on the last one only, and is hardly of the first 20."""
    model = tiny_models.randomised(tiny_models.llama)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight.mul_(3.0)[:20] = 0.0
    return model


def write_knowing(directory, version, model) -> None:
    """A head that passes the last token's embedding on, which is all that `markov` reads."""
    eye, nothing = torch.eye(WIDTH), torch.zeros(WIDTH, WIDTH)
    sizes = {"hidden_size": WIDTH, "head_dim": WIDTH, "vocab_size": VOCAB}
    sizes |= {"num_heads": 1, "num_key_heads": 1, "rms_norm_eps": 1e-6}
    if version == 1:
        config = plain.config_v1(**sizes, has_fc_bias=False)
        tensors = {name: torch.zeros_like(t) for name, t in plain.weights_v1(config).items()}
        tensors["fc.weight"] = torch.cat([eye, nothing], 1)
        plain.write_v1(directory, config, tensors)
        return
    sizes |= {"target_hidden_size": WIDTH, "draft_vocab_size": VOCAB - 20, "layer_ids": (0, 1, 1)}
    config = plain.config(**sizes, norm_before_residual=True)  # of weight 0: it forgets the past
    tensors = {name: torch.zeros_like(t) for name, t in plain.weights(config).items()}
    del tensors["embed_tokens.weight"]
    # Equal vectors are the most alike: a row finds itself, or one of the same token.
    for part, scale in (("q", 10.0), ("k", 10.0), ("v", 1.0)):
        tensors[f"layer.self_attn.{part}_proj.weight"] = torch.cat([scale * eye, nothing], 1)
    tensors["layer.self_attn.o_proj.weight"] = eye
    for name in ("layer.input_layernorm", "norm"):
        tensors[f"{name}.weight"] = torch.ones(WIDTH)
    tensors["lm_head.weight"] = model.lm_head.weight.detach()[20:]
    tensors["draft_token_ids"] = torch.arange(20, VOCAB)
    write_head(directory, config, tensors)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_head_that_knows_is_believed(tmp_path, version) -> None:
    model = markov()
    write_knowing(tmp_path, version, model)
    plainly = run(tiny_models.tiny_core(copy.deepcopy(model)), requests(["off"] * 6))
    core = make_core(model, tmp_path, max_batched_tokens=64)
    answers = run(core, requests(["chain:3"] * 6))
    assert_same(answers, [plainly[str(i)].tokens for i in range(6)])
    for name in ("0", "4"):  # greedy, without penalties: every draft is right
        stats = answers[name].last.speculation
        assert stats.num_accepted_draft_tokens == stats.num_draft_tokens >= 25
    if version == 3:  # it knows the probabilities too, so that the noise picks the same tokens
        for name in ("1", "3"):
            assert answers[name].last.speculation.num_accepted_draft_tokens > 20


def test_a_head_that_does_not_fit_is_a_sentence(tmp_path) -> None:
    config = plain.config_v1(hidden_size=WIDTH, head_dim=16, vocab_size=VOCAB)
    tensors = plain.weights_v1(config)
    plain.write_v1(tmp_path, config, tensors, rope_scaling={"type": "linear"})
    with pytest.raises(ConfigError, match="needs a positive number as factor") as refusal:
        make_core(model_of("llama"), tmp_path)
    assert str(refusal.value).endswith(".")
