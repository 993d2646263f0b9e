"""What a server keeps of its own traffic: right, bounded, each owner's apart, and only if asked."""

from __future__ import annotations

import tempfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path

import plain_head
import pytest
import tiny_models
from engine.driving import request, run
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.eagle.checkpoint import write_head
from cast_drafters.ngram_store import NgramStore, build_store
from cast_drafters.pool import NOTHING
from cast_drafters.sources import StoreSource
from cast_drafters.traffic import _REST, TrafficSource, TrafficStore
from cast_server.config import EngineConfig
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import ConfigError

calm = settings(deadline=None)
tokens = st.lists(st.integers(0, 3), max_size=20)
lives = st.lists(st.tuples(st.sampled_from(["", "a", "b"]), tokens, tokens), max_size=6)


def counted(prompt: Sequence[int], output: Sequence[int], order: int):
    """(context, successor) for each output token and length of context."""
    text = [*prompt, *output]
    for place in range(len(prompt), len(text)):
        for length in range(1, min(order, place) + 1):
            yield tuple(text[place - length : place]), text[place]


@calm
@given(lives, tokens, st.integers(1, 5))
def test_counts_are_those_of_each_owner_alone(lives, tail, order) -> None:
    store = TrafficStore(max_order=order)
    right = {owner: defaultdict(Counter) for owner in ("", "a", "b", "nobody")}
    for owner, prompt, output in lives:
        store.learn(owner, prompt, output)
        for context, token in counted(prompt, output, order):
            right[owner][context][token] += 1
    for owner, contexts in right.items():
        assert store.size(owner) == len(contexts)
        suffixes = [tuple(tail[-n:]) for n in range(1, min(order, len(tail)) + 1)]
        known = [contexts[suffix] for suffix in suffixes if suffix in contexts]
        assert list(store.lookup(owner, tail)) == known
        assert store.predict(owner, tail, 4).order == len(known)


@calm
@given(tokens, tokens, tokens, st.integers(1, 3), st.integers(1, 4))
def test_predictions_are_probabilities_likeliest_first(prompt, output, tail, top, width) -> None:
    store = TrafficStore(top=top)
    store.learn("a", prompt, output)
    _, guesses = store.predict("a", tail, width)
    shares = [share for _, share in guesses]
    assert len(guesses) <= width
    assert len({token for token, _ in guesses}) == len(guesses)
    assert all(token >= 0 and 0 < share <= 1 for token, share in guesses)
    assert sum(shares) <= 1 + 1e-9
    assert shares == sorted(shares, reverse=True)


@calm
@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 4))
def test_rare_successors_make_room_and_none_is_overrated(output, top) -> None:
    store = TrafficStore(max_order=1, top=top)
    text = [token for one in output for token in (99, one)]  # all follow 99
    store.learn("", [], text)
    exact = Counter(output)
    for followers in store.lookup("", [99]):
        assert sum(followers.values()) == len(output)
        named = {token: count for token, count in followers.items() if token != _REST}
        assert len(named) <= top
        assert all(count <= exact[token] for token, count in named.items())
        assert output[-1] in named


class Recency:
    """The same rule in plain steps: whoever is used goes to the end, its suffixes after it."""

    def __init__(self, order: int, limit: int) -> None:
        self.order, self.limit = order, limit
        self.contexts: OrderedDict[tuple[int, ...], None] = OrderedDict()

    def learn(self, prompt, output) -> None:
        text = [*prompt[-self.order :], *output]
        for place in range(len(text) - len(output), len(text)):
            for length in range(min(self.order, place), 0, -1):
                self.contexts.pop(tuple(text[place - length : place]), None)
                self.contexts[tuple(text[place - length : place])] = None
                if len(self.contexts) > self.limit:
                    self.contexts.popitem(last=False)

    def look(self, tail) -> int:
        suffixes = [tuple(tail[-n:]) for n in range(1, min(self.order, len(tail)) + 1)]
        found = [one for one in suffixes if one in self.contexts]
        for one in reversed(found):
            self.contexts.move_to_end(one)
        return len(found)


@calm
@given(st.lists(st.tuples(st.booleans(), tokens, tokens), max_size=8), st.integers(1, 25))
def test_contexts_not_used_for_longest_are_forgotten(steps, limit) -> None:
    store, right = TrafficStore(max_order=3, max_contexts_per_owner=limit), Recency(3, limit)
    for is_learned, prompt, more in steps:
        if is_learned:
            store.learn("a", prompt, more)
            right.learn(prompt, more)
        else:
            assert len(store.lookup("a", more)) == right.look(more)
        assert store.size("a") == len(right.contexts) <= limit
        assert list(store._owners["a"]._followers if store.size("a") else ()) == [*right.contexts]


def test_owners_not_seen_for_longest_are_forgotten() -> None:
    store = TrafficStore(max_owners=2)
    store.learn("a", [1], [2])
    store.learn("b", [1], [2])
    assert store.predict("a", [1], 4).order == 1  # seen again
    store.predict("stranger", [1], 4)  # asking leaves nothing
    store.learn("empty", [1], [])  # neither does saying nothing
    store.learn("c", [1], [2])
    assert [store.size(owner) for owner in ("a", "b", "c", "empty", "stranger")] == [1, 0, 1, 0, 0]


def test_what_is_dropped_is_gone() -> None:
    store = TrafficStore()
    for owner in ("a", "b", ""):
        store.learn(owner, [1], [2, 3])
    store.drop("a")
    store.drop("never seen")
    assert (store.size("a"), store.size("b")) == (0, 3)
    assert store.predict("a", [1], 4) == NOTHING
    store.drop_all()
    assert [store.size(owner) for owner in ("a", "b", "")] == [0, 0, 0]


@pytest.mark.parametrize("name", ["max_order", "top", "max_contexts_per_owner", "max_owners"])
def test_bounds_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        TrafficStore(**{name: 0})


def shipped(*sequences: list[int]) -> NgramStore:
    with tempfile.TemporaryDirectory() as directory:  # a mapped file outlives its name
        build_store(sequences, Path(directory) / "store")
        return NgramStore.open(Path(directory) / "store")


def live(source: TrafficSource, name: str, owner: str | None, prompt, output) -> None:
    """A sequence from its beginning to its end, as the drafter tells of it."""
    text = list(prompt)
    source.begin(name, text)
    for token in output:
        if owner is not None:
            source.extend(name, text)
            source.own(name, owner)
        text.append(token)
    source.release(name)


def test_a_source_learns_output_when_it_has_ended() -> None:
    source = TrafficSource(TrafficStore())
    text = [1, 2, 3]
    source.begin("r", text)
    source.own("r", "a")
    text += [4, 5]
    assert source.traffic.size("a") == 0
    source.release("r")
    source.release("r")
    assert source.traffic.predict("a", [2, 3], 4).guesses[0][0] == 4
    assert source.traffic.predict("a", [4], 4).guesses[0][0] == 5
    assert source.traffic.predict("a", [1, 2], 4) == NOTHING  # 3 followed, but in the prompt


@calm
@given(tokens, tokens)
def test_prompts_are_not_learned(prompt, output) -> None:
    source = TrafficSource(TrafficStore())
    prompt = [token + 100 for token in prompt]
    live(source, "r", "a", prompt, output)
    for contexts in source.traffic._owners.values():
        assert all(token < 100 for row in contexts._followers.values() for token in row)
        assert all(context[-5:] == context for context in contexts._followers)


def test_sequences_without_drafts_are_not_learned() -> None:
    source = TrafficSource(TrafficStore())
    live(source, "r", None, [1, 2], [3, 4])
    assert not source.traffic._owners
    assert not source._lives


def test_owners_are_told_only_what_is_theirs() -> None:
    source = TrafficSource(TrafficStore(), shipped([7, 8]))
    live(source, "r", "a", [1], [2, 3, 4])
    for name, owner in (("mine", "a"), ("yours", "b"), ("nameless", "")):
        source.begin(name, [1])
        source.own(name, owner)
    source.begin("unknown", [1])
    assert source.predict("mine", [1, 2], 4).order == 2
    for name in ("yours", "nameless", "unknown", "never begun"):
        assert source.predict(name, [1, 2], 4) == NOTHING
        assert source.predict(name, [7], 4).guesses


@calm
@given(tokens, tokens)
def test_without_traffic_the_shipped_store_speaks_alone(text, tail) -> None:
    store = shipped(text)
    alone = StoreSource(store).predict("r", tail, 4)
    both = TrafficSource(TrafficStore(), store).predict("r", tail, 4)
    assert (both.order, dict(both.guesses)) == (alone.order, pytest.approx(dict(alone.guesses)))


@calm
@given(tokens, tokens, tokens, tokens)
def test_counts_of_both_add_up(text, prompt, output, tail) -> None:
    source = TrafficSource(TrafficStore(), shipped(text))
    live(source, "r", "a", prompt, output)
    source.begin("s", tail)
    source.own("s", "a")
    order, guesses = source.predict("s", tail, 4)
    parts = [
        source.traffic.predict("a", tail, 4),
        StoreSource(source._shipped).predict("", tail, 4),
    ]
    assert order == max(part.order for part in parts)
    assert {token for token, _ in guesses} == {t for part in parts for t, _ in part.guesses}
    assert sum(share for _, share in guesses) <= 1 + 1e-9


# In the engine


PROMPT = [5, 6, 7, 8, 9]
EAGLE = {"drafter": "eagle", "draft_sources": "", "policy": "tree:8"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that knows nothing."""
    sizes = {"vocab_size": tiny_models.VOCAB_SIZE, "target_hidden_size": 64}
    config = plain_head.config(**sizes, layer_ids=(1, 2, 3))
    directory = tmp_path_factory.mktemp("head")
    write_head(directory, config, plain_head.weights(config))
    return str(directory)


def make_core(head: str, **changes):
    model = tiny_models.randomised(lambda: tiny_models.llama(num_hidden_layers=4), seed=2)
    return tiny_models.tiny_core(model, head=head, **EAGLE | changes)


def answer(core, name: str, owner: str = "", policy: str | None = None) -> tuple[list[int], int]:
    """The tokens, and how many of them were drafts."""
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    wish = SpeculationParams(policy)
    [done] = run(core, [Request(name, tuple(PROMPT), params, 0, wish, owner=owner)]).values()
    return done.tokens, done.last.speculation.num_accepted_draft_tokens


def test_what_was_answered_once_is_drafted_the_next_time(head: str) -> None:
    core = make_core(head, learn_from_traffic=True)
    plain, _ = answer(core, "plain", "a", policy="off")
    assert core.drafter.traffic.size("a") == 0
    first, few = answer(core, "first", "a")
    second, many = answer(core, "second", "a")
    other, none = answer(core, "other", "b")
    assert plain == first == second == other
    assert many > few + 10
    assert none == few
    core.drafter.traffic.drop("a")
    assert answer(core, "third", "a") == (plain, few)


def test_nothing_is_kept_unless_asked_for(head: str) -> None:
    assert EngineConfig().learn_from_traffic is False
    core = make_core(head, draft_sources="text,store")
    assert core.drafter.traffic is None
    first = answer(core, "first", "a")
    assert answer(core, "second", "a") == first
    assert not any(
        isinstance(source, TrafficSource) for source in core.drafter.free_guesses.sources
    )
    assert not core.drafter.free_guesses.text._texts


def test_aborted_requests_leave_what_was_written(head: str) -> None:
    core = make_core(head, learn_from_traffic=True)
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    core.add(request("r", PROMPT, params, "tree:8"))
    for _ in range(3):
        core.step()
    core.abort("r")
    assert core.drafter.traffic.size("")
    assert not core.drafter.free_guesses.store._lives


def test_other_drafters_cannot_learn() -> None:
    model = tiny_models.randomised(tiny_models.llama)
    with pytest.raises(ConfigError, match="--drafter eagle only"):
        tiny_models.tiny_core(model, drafter="ngram", learn_from_traffic=True)
