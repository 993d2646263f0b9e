"""Growing and choosing on the device, beside a twin of nothing but lists."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.calibration import Calibration, Kind
from cast_drafters.calibration_lookup import Lookup
from cast_drafters.eagle.forest import Candidates, Forest, Ground
from cast_drafters.eagle.reading import Reading
from cast_kernels.backend import TORCH

VOCAB, WORDS, PAGES = 7, 1, 90  # so few tokens that guesses coincide
FREE, CAPACITY, CHILDREN, SCRATCH = 6, 400, 3, 120


def taught(seed: int) -> Calibration:
    calibration, chosen = Calibration(), random.Random(seed)
    for _ in range(300):
        kind = Kind.of(
            *(chosen.randrange(n) for n in (2, 3)), 1 + chosen.randrange(5), chosen.randrange(3)
        )
        calibration.learn(kind, -3 * chosen.random(), chosen.random() < 0.4)
    for depth in range(2, 8):
        for _ in range(20):
            calibration.learn_paths(True, depth, 0.5, chosen.random())
            calibration.learn_paths(False, depth, 0.5, 0.2)
    return calibration


def lookup_of(calibration: Calibration) -> Lookup:
    return Lookup(*(torch.from_numpy(table) for table in calibration.table()))


@given(
    st.integers(0, 50), st.floats(-25, 0), st.integers(0, 1), st.integers(1, 9), st.integers(0, 5)
)
@settings(max_examples=60)
def test_the_table_says_what_the_calibration_says(seed, confidence, mode, depth, rank) -> None:
    calibration = taught(seed)
    lookup = lookup_of(calibration)
    for source in range(3):
        [told] = lookup.log_probs(
            torch.tensor([mode]),
            source,
            *torch.tensor([[depth], [rank]]),
            torch.tensor([confidence]),
        ).tolist()
        kind = Kind.of(bool(mode), source, depth, rank)
        step = calibration.step_log_prob(bool(mode), depth)
        right = min(0.0, calibration.log_prob(kind, confidence) + step)
        assert told == pytest.approx(right, abs=2e-3, rel=1e-3)


@dataclass
class Twin:
    """Candidates as the device has them, closed ones too, so that their numbers are the same."""

    plots: list[dict]
    lookup: Lookup
    nodes: list[dict] = field(default_factory=list)
    run: dict[int, list[int]] = field(default_factory=dict)  # nodes of each sequence, as they run
    slots: int = 1000

    def worth(self, node) -> np.float32:
        return np.float32(node["log_prob"] + self.plots[node["sequence"]]["weight"])

    def ranked(self, nodes: list[int]) -> list[int]:
        return sorted(nodes, key=lambda i: (-self.worth(self.nodes[i]), i))

    def add_children(self, rows, log_q_NK, tokens_NK) -> None:
        """rows: (sequence, parent or -1) or None for padding."""
        news = []
        for row, log_q_K, tokens_K in zip(rows, log_q_NK, tokens_NK, strict=True):
            for rank, (log_q, token) in enumerate(zip(log_q_K, tokens_K, strict=True)):
                news.append(self.child(row, rank, log_q, int(token)))
        rivals: dict[int, dict] = {}
        for new in news:
            twin = self.free_twin(new)
            if twin is not None:
                best = rivals.get(twin)
                if best is None or new["log_prob"] > best["log_prob"]:
                    rivals[twin] = dict(new)
                new["log_prob"] = np.float32(-np.inf)
        for twin, rival in rivals.items():
            if rival["log_prob"] > self.nodes[twin]["log_prob"]:
                for name in ("source", "rank", "log_prob", "confidence"):
                    self.nodes[twin][name] = rival[name]
        self.nodes += news

    def child(self, row, rank, log_q, token) -> dict:
        closed = {"token": token, "parent": -1, "sequence": 0, "depth": 1, "source": 0}
        closed |= {"rank": rank, "log_prob": np.float32(-np.inf), "confidence": np.float32(0)}
        if row is None:
            return closed
        sequence, parent = row
        plot = self.plots[sequence]
        above = self.nodes[parent] if parent >= 0 else {"depth": 0, "log_prob": np.float32(0)}
        depth = above["depth"] + 1
        trust = plot["root_trust"] if parent < 0 else plot["trust"][min(depth, 3)]
        confidence = np.float32(np.float32(log_q) + np.float32(trust))
        [told] = self.lookup.log_probs(
            torch.tensor([plot["mode"]]),
            0,
            *torch.tensor([[depth], [rank]]),
            torch.tensor([confidence]),
        ).numpy()
        log_prob = np.float32(above["log_prob"] + told)
        is_run = parent >= 0 or plot["is_run"]
        if not is_run or rank >= plot["width"] or depth > plot["depth"] or log_prob < plot["least"]:
            log_prob = np.float32(-np.inf)
        return (
            closed
            | {"parent": parent, "sequence": sequence, "depth": depth}
            | {
                "log_prob": log_prob,
                "confidence": confidence,
            }
        )

    def free_twin(self, new) -> int | None:
        for index, free in enumerate(self.nodes[:FREE]):
            same = all(free[name] == new[name] for name in ("token", "parent", "sequence"))
            if same and free["log_prob"] > -np.inf:
                return index
        return None

    def next_level(self, count) -> list[tuple[int, int] | None]:
        """(sequence, node) of each row, by sequence; padding behind."""
        has_run = {node for nodes in self.run.values() for node in nodes}
        able = [
            i
            for i, node in enumerate(self.nodes)
            if node["log_prob"] > -np.inf
            and i not in has_run
            and (node["parent"] < 0 or node["parent"] in has_run)
            and self.plots[node["sequence"]]["is_run"]
            and node["depth"] < self.plots[node["sequence"]]["depth"]
        ]
        chosen = sorted(self.ranked(able)[:count])
        rows = []
        for node in chosen:
            mine = self.run.setdefault(self.nodes[node]["sequence"], [])
            if len(mine) < 64 * WORDS:
                mine.append(node)
                rows.append((self.nodes[node]["sequence"], node))
        rows.sort()
        return rows + [None] * (count - len(rows))

    def ancestors(self, node) -> set[int]:
        found = set()
        while node >= 0:
            found.add(node)
            node = self.nodes[node]["parent"]
        return found

    def harvest(self, num_nodes) -> list[list[int]]:
        able = [i for i, node in enumerate(self.nodes) if node["log_prob"] > -np.inf]
        allowed = []
        for sequence, plot in enumerate(self.plots):
            own = [i for i in self.ranked(able) if self.nodes[i]["sequence"] == sequence]
            allowed += own[: plot["size"]]
        chosen = self.ranked(allowed)[:num_nodes]
        return [
            sorted(i for i in chosen if self.nodes[i]["sequence"] == sequence)
            for sequence in range(len(self.plots))
        ]


def make_plots(chosen, count) -> list[dict]:
    return [
        {
            "is_run": chosen.random() < 0.8,
            "mode": chosen.randrange(2),
            "width": chosen.randint(1, CHILDREN),
            "depth": chosen.randint(1, 5),
            "size": chosen.randint(0, 9),
            "least": np.float32(chosen.choice([-np.inf, -4.0, -2.0])),
            "weight": np.float32(math.log(chosen.choice([1.0, 1.0, 2.0]))),
            "root_trust": -chosen.random(),
            "trust": [-0.1, -0.2, -0.3, -0.4],
            "context": chosen.randint(1, 20),
        }
        for _ in range(count)
    ]


def free_of(chosen, plots) -> list[dict]:
    """Trees of a few nodes, then nothing: as the host sends them."""
    nodes: list[dict] = []
    for sequence in range(len(plots)):
        first = len(nodes)
        for _ in range(chosen.randint(0, (FREE - first) // (len(plots) - sequence))):
            parent = chosen.randint(first, len(nodes)) - 1
            parent = parent if parent >= first else -1
            token = chosen.randrange(VOCAB)
            taken = any(
                n["token"] == token and n["parent"] == parent and n["sequence"] == sequence
                for n in nodes
            )
            above = nodes[parent] if parent >= 0 else {"depth": 0, "log_prob": np.float32(0)}
            log_prob = np.float32(above["log_prob"] - np.float32(chosen.choice([0.25, 0.5, 1.0])))
            if not taken:
                nodes.append(
                    {
                        "token": token,
                        "parent": parent,
                        "sequence": sequence,
                        "depth": above["depth"] + 1,
                    }
                    | {"source": 1, "rank": 0, "log_prob": log_prob, "confidence": np.float32(-1)}
                )
    nothing = {"token": 0, "parent": 0, "sequence": 0, "depth": 0, "source": 0, "rank": 0}
    nothing |= {"log_prob": np.float32(-np.inf), "confidence": np.float32(0)}
    return nodes + [dict(nothing) for _ in range(FREE - len(nodes))]


def ground_of(plots, free, num_nodes, lookup) -> Ground:
    def column(name, dtype):
        return torch.tensor([float(plot[name]) for plot in plots]).to(dtype)

    names = ("token", "parent", "sequence", "depth", "source", "rank")
    integers = [torch.tensor([node[name] for node in free]) for name in names]
    floats = [torch.tensor([float(n[name]) for n in free]) for name in ("log_prob", "confidence")]
    ones = torch.ones(len(plots))
    return Ground(
        position_B=column("context", torch.int64) - 1,
        context_B=column("context", torch.int32),
        root_slot_B=torch.arange(len(plots)) + 500,
        is_run_B=column("is_run", torch.bool),
        mode_B=column("mode", torch.int64),
        temperature_B=ones,
        width_B=column("width", torch.int64),
        depth_B=column("depth", torch.int64),
        size_B=column("size", torch.int64),
        least_B=column("least", torch.float32),
        weight_B=column("weight", torch.float32),
        root_trust_B=column("root_trust", torch.float32),
        trust_D=torch.tensor(plots[0]["trust"]),
        num_sequences=torch.tensor([len(plots)]),
        num_nodes=torch.tensor([num_nodes]),
        lookup=lookup,
        free_F=Candidates(*integers, *floats),
    )


def guesses(generator, rows):
    log_q = -torch.randint(1, 9, (rows, CHILDREN), generator=generator).float() / 4
    tokens = torch.stack(
        [torch.randperm(VOCAB, generator=generator)[:CHILDREN] for _ in range(rows)]
    )
    return log_q, tokens


def backends():
    from cast_kernels.backend import triton_backend

    return {"references": TORCH, "kernels": triton_backend()}


@pytest.mark.parametrize(("name", "examples"), [("references", 60), ("kernels", 4)])
def test_as_its_twin(name, examples) -> None:
    backend = backends()[name]

    @given(
        st.integers(0, 10_000), st.lists(st.sampled_from([1, 3, 8]), max_size=4), st.integers(0, 20)
    )
    @settings(max_examples=examples, deadline=None)
    def check(seed, levels, num_nodes) -> None:
        chosen, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        plots = make_plots(chosen, chosen.randint(1, 4))
        lookup = lookup_of(taught(seed % 3))
        free = free_of(chosen, plots)
        ground = ground_of(plots, free, num_nodes, lookup)
        pages = torch.full((len(plots), PAGES), -7, dtype=torch.int32)
        forest = Forest.empty(CAPACITY, WORDS, pages, 1000, SCRATCH)
        twin = Twin(plots, lookup, [dict(node) for node in free])
        forest.clear(ground)
        sequences = torch.arange(len(plots))
        log_q, tokens = guesses(generator, len(plots))
        forest.add_children(ground, torch.full_like(sequences, -1), sequences, (log_q, tokens))
        twin.add_children([(b, -1) for b in range(len(plots))], log_q.numpy(), tokens.numpy())
        for rows in levels:
            compare_level(forest, ground, twin, rows, backend, guesses(generator, rows))
        harvest = forest.harvest(ground, 24, backend)
        nodes, owners = (one.int().numpy() for one in (harvest.node_N, harvest.sequence_N))
        reading = Reading(forest.report().numpy(), nodes, owners)
        for sequence, right in enumerate(twin.harvest(num_nodes)):
            assert nodes[owners == sequence].tolist() == right
            assert_tree(reading.verified(sequence), twin, right)
            everything = [
                i
                for i, node in enumerate(twin.nodes)
                if node["sequence"] == sequence and node["log_prob"] > -np.inf
            ]
            assert_tree(reading.tree(reading.nodes_of(sequence)), twin, everything)

    check()


def compare_level(forest, ground, twin, rows, backend, top) -> None:
    used = int(forest.used)
    node_U, sequence_U, inputs = forest.next_level(ground, rows, backend)
    right = twin.next_level(rows)
    mine = [
        (sequence, node) if node < forest.nobody else None
        for sequence, node in zip(sequence_U.tolist(), node_U.tolist(), strict=True)
    ]
    assert mine == right
    heads, batch = inputs.rows, inputs.rows.plan
    for row, one in enumerate(right):
        slot = 1000 + used + row
        assert heads.slots_N[row] == inputs.keep_R[row] == (-1 if one is None else slot)
        if one is None:
            assert inputs.before_N[row] == -1
            continue
        sequence, node = one
        own, ran = twin.nodes[node], twin.run[sequence]
        number, context = ran.index(node), twin.plots[sequence]["context"]
        assert heads.tokens_N[row] == own["token"]
        assert heads.positions_N[row] == context - 1 + own["depth"]
        assert batch.page_BP[sequence, context + number] == slot
        above = 500 + sequence
        if own["parent"] >= 0:
            above = int(batch.page_BP[sequence, context + ran.index(own["parent"])])
        assert inputs.before_N[row] == above
        seen = {i for i in range(64) if int(batch.mask_NW[row, 0]) >> i & 1}
        assert seen == {ran.index(i) for i in twin.ancestors(node)}
    counts = [sum(one is not None and one[0] == b for one in right) for b in range(len(twin.plots))]
    assert batch.cu_rows_B1.diff().tolist() == counts
    assert batch.cu_tree_B1.diff().tolist() == [
        len(twin.run.get(b, ())) for b in range(len(twin.plots))
    ]
    forest.add_children(ground, node_U, sequence_U, top)
    twin.add_children(right, *(one.numpy() for one in top))


def assert_tree(tree, twin, nodes) -> None:
    number = {node: i for i, node in enumerate(nodes)} | {-1: -1}
    own = [twin.nodes[node] for node in nodes]
    assert tree.token_ids_T.tolist() == [node["token"] for node in own]
    assert tree.parents_T.tolist() == [number[node["parent"]] for node in own]
    assert tree.log_probs_T.tolist() == pytest.approx([node["log_prob"] for node in own])
    assert tree.sources_T.tolist() == [node["source"] for node in own]
    assert tree.ranks_T.tolist() == [node["rank"] for node in own]
    assert tree.confidences_T.tolist() == pytest.approx([node["confidence"] for node in own])
    siblings = list(zip(tree.parents_T.tolist(), tree.token_ids_T.tolist(), strict=True))
    assert len(set(siblings)) == len(siblings)  # nothing is guessed twice
