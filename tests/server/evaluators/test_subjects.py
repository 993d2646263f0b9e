"""Real subjects against transformers itself, on tiny models."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import request, run

from cast_server.build import build_guests
from cast_server.config import EngineConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.reading import Read
from cast_server.engine.request import SamplingParams
from cast_server.errors import ConfigError, ContextLengthError, RequestError
from cast_server.evaluators.subject import Capability, Generation, Initialisation
from cast_server.evaluators.subjects.drafting import DraftHead
from cast_server.evaluators.subjects.served import ServedSubject
from cast_server.evaluators.subjects.untrained import make_untrained

IDS = [(11 * i) % 300 for i in range(70)]
SAYS = [{"role": "user", "content": "a stop"}]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


def make_engine(seed: int = 0, host: AsyncEngine | None = None) -> AsyncEngine:
    model = tiny_models.randomised(tiny_models.llama, seed)
    core = tiny_models.tiny_core(model, tiny_models.byte_level_tokenizer())
    engine = AsyncEngine(core, f"tiny-{seed}", host=host)
    engine.start()
    return engine


@pytest.fixture
def engine():
    engine = make_engine()
    yield engine
    engine.stop()


@pytest.fixture
def subject(engine) -> ServedSubject:
    return ServedSubject(engine, {"weights": "0"})


def plainly(model, ids) -> tuple[list[torch.Tensor], torch.Tensor]:
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    next_P = out.logits[0, :-1].float().log_softmax(-1)
    return [h[0].float() for h in out.hidden_states], next_P.gather(
        1, torch.tensor(ids[1:])[:, None]
    )[:, 0]


def test_reads(subject) -> None:
    hidden, logprobs_P = plainly(tiny_models.randomised(tiny_models.llama), IDS)
    got = asyncio.run(subject.read(IDS, ["last_normed", 1]))
    torch.testing.assert_close(got.hidden["last_normed"], hidden[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.hidden[1], hidden[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.logprobs_P, logprobs_P, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_read(subject) -> None:
    with pytest.raises(RequestError, match="no layer 9: 0 to 2"):
        asyncio.run(subject.read(IDS, [9]))
    with pytest.raises(ContextLengthError, match="300 tokens, but tiny-0 reads at most 256"):
        asyncio.run(subject.read([1] * 300))
    with pytest.raises(RequestError, match="no token"):
        asyncio.run(subject.read([]))


def test_writes_what_the_engine_answers(subject, engine) -> None:
    async def side_by_side():
        return await asyncio.gather(
            *(subject.write(SAYS, Generation(max_tokens=n)) for n in (5, 9))
        )

    written = asyncio.run(side_by_side())
    ids = engine.tokenizer("a stop\n\n")["input_ids"]
    params = SamplingParams(max_tokens=9, temperature=0.0)
    core = tiny_models.tiny_core(
        tiny_models.randomised(tiny_models.llama), tiny_models.byte_level_tokenizer()
    )
    answer = run(core, [request("a", ids, params)])["a"]
    assert written[1].text == answer.text
    assert written[1].num_tokens == 9
    assert answer.text.startswith(written[0].text)
    assert written[0].finish_reason == "length"


def test_output_rows(subject) -> None:
    weight = tiny_models.randomised(tiny_models.llama).get_output_embeddings().weight
    rows = asyncio.run(subject.unembedding([5, 0, 319]))
    torch.testing.assert_close(rows, weight[[5, 0, 319]].detach())


def test_without_a_head_there_are_no_overlaps(subject) -> None:
    assert Capability.DRAFT_HEAD not in subject.capabilities
    with pytest.raises(RequestError, match="without an EAGLE-3 head"):
        asyncio.run(subject.overlaps(IDS, 2))


def test_overlaps_against_plain_formulas() -> None:
    """Sums of min(p, q), q by drafting from every position in turn in float64."""
    config = plain.config(hidden_size=plain.WIDTH, head_dim=6)
    tensors = plain.weights(config)
    right = plain.Plain(config, tensors)
    head = DraftHead(config, tensors, tensors["embed_tokens.weight"])
    torch.manual_seed(0)
    size = 9
    ids = torch.randint(plain.VOCAB, (size,))
    layers = [torch.randn(size, plain.WIDTH) for _ in range(3)]
    p_NI = torch.randn(size, plain.VOCAB).softmax(-1)[:, : config.draft_vocab_size]
    got = head.overlaps(ids.tolist(), Read(layers, among_NI=p_NI), 3)
    rows = size - 2
    hidden = right.fuse([layer[:rows] for layer in layers])
    causal = torch.ones(rows, rows, dtype=torch.bool).tril()
    chain = right.forward(ids[1 : rows + 1], hidden, torch.arange(rows), causal)
    expected = torch.full((3, size), torch.nan, dtype=torch.float64)
    for i in range(rows):
        states, out = [], chain[i]
        for step in range(min(3, rows - i)):
            if step:
                states.append(out)
                at = torch.arange(i + 1 + step)
                sees = torch.ones(len(at), len(at), dtype=torch.bool).tril()
                inputs = torch.cat([hidden[: i + 1], torch.stack(states)])
                out = right.forward(ids[at + 1], inputs, at, sees)[-1]
            q_I = right.log_probs(out).exp()
            expected[step, i] = torch.minimum(q_I, p_NI[i + 1 + step].double()).sum()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, equal_nan=True)


# Untrained twins


@pytest.mark.parametrize("layers", [["last_normed"], [0, 2, "last_normed"]])
def test_a_twin_reads_as_transformers_does(subject, engine, layers) -> None:
    how = Initialisation(seed=3, std=0.3)

    async def reading():
        async with subject.untrained(how) as twin:
            assert twin.name == "tiny-0-untrained-3"
            return await twin.read(IDS, layers)

    got = asyncio.run(reading())
    hidden, logprobs_P = plainly(make_untrained(engine.model, how, engine.seeding), IDS)
    torch.testing.assert_close(got.hidden["last_normed"], hidden[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.logprobs_P, logprobs_P, atol=1e-4, rtol=1e-4)
    if 0 in layers:
        torch.testing.assert_close(got.hidden[0], hidden[0])


def test_a_twin_is_its_seed_and_its_range(engine) -> None:
    first, again, other, wide = (
        make_untrained(
            engine.model, Initialisation(seed, std), engine.seeding
        ).lm_head.weight.detach()
        for seed, std in ((0, 0.1), (0, 0.1), (1, 0.1), (0, 0.2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(wide, 2 * first)
    assert float(first.std()) == pytest.approx(0.1, rel=0.05)


def test_a_twin_in_training_has_dropout_that_its_seed_fixes(subject, engine) -> None:
    engine.model.config.attention_dropout = 0.5
    both = [Initialisation(0, 0.3, is_training) for is_training in (False, True)]

    async def reading(how):
        async with subject.untrained(how) as twin:
            got = [(await twin.read(IDS, ["last_normed"])).hidden["last_normed"] for _ in "ab"]
            return got[0], torch.equal(*got)

    (still, still_again), (noisy, noisy_again) = (asyncio.run(reading(how)) for how in both)
    assert still_again
    assert noisy_again
    assert not torch.allclose(still, noisy, atol=1e-3)


def test_a_twin_is_made_once_and_others_wait(subject, monkeypatch) -> None:
    made = []

    def counted(model, how, seeding):
        made.append(how)
        return make_untrained(model, how, seeding)

    monkeypatch.setattr("cast_server.evaluators.subjects.untrained.make_untrained", counted)

    async def one(seed):
        async with subject.untrained(Initialisation(seed, 0.1)) as twin:
            await asyncio.sleep(0.01)
            return twin.name

    async def many():
        return await asyncio.gather(*(one(seed) for seed in (0, 0, 0, 1, 1)))

    names = asyncio.run(many())
    assert names == [f"tiny-0-untrained-{seed}" for seed in (0, 0, 0, 1, 1)]
    assert [how.seed for how in made] == [0, 1]


def test_twins_made_side_by_side_are_the_same(engine) -> None:
    """torch has one random state for all threads."""
    guest = make_engine(host=engine)
    subjects = [ServedSubject(one, {}) for one in (engine, guest)]

    async def reading(subject, how):
        async with subject.untrained(how) as twin:
            return (await twin.read(IDS, ["last_normed"])).hidden["last_normed"]

    async def both(how):
        return await asyncio.gather(*(reading(subject, how) for subject in subjects))

    for seed in range(12):
        ones, others = asyncio.run(both(Initialisation(seed, 0.3, is_training=seed % 2 == 0)))
        assert torch.equal(ones, others)
    guest.stop()


def test_a_twin_reads_no_longer_texts_than_its_parent(subject) -> None:
    async def reading():
        async with subject.untrained(Initialisation(0, 0.1)) as twin:
            await twin.read([1] * 300)

    with pytest.raises(ContextLengthError, match="reads at most 256"):
        asyncio.run(reading())


# A second model


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("mine", "'mine': name=directory is needed"),
        ("=./mine", "name=directory is needed"),
        ("mine=", "name=directory is needed"),
        ("tiny-0=./mine", "another model is called 'tiny-0'"),
    ],
)
def test_guests_that_cannot_be(engine, models, said) -> None:
    with pytest.raises(ConfigError, match=said):
        build_guests(models, EngineConfig(), engine)


def test_a_guest_works_in_its_hosts_time(engine) -> None:
    guest_engine = make_engine(seed=1, host=engine)
    guest = ServedSubject(guest_engine, {"weights": "1"})
    hidden, _ = plainly(tiny_models.randomised(tiny_models.llama, 1), IDS)

    async def both():
        live = request("live", IDS, replace(LONG, max_tokens=120))
        tokens: list[int] = []

        async def answer():
            async for output in engine.generate(live):
                tokens.extend(output.new_token_ids)

        reading, written, _ = await asyncio.gather(
            guest.read(IDS, ["last_normed"]), guest.write(SAYS, Generation(max_tokens=8)), answer()
        )
        return reading, written, tokens

    reading, written, tokens = asyncio.run(both())
    torch.testing.assert_close(reading.hidden["last_normed"], hidden[-1], atol=1e-4, rtol=1e-4)
    assert written.num_tokens == 8
    assert len(tokens) == 120
    guest_engine.stop()


LONG = SamplingParams(temperature=0.0, ignore_eos=True)
