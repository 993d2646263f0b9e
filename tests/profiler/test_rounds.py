"""A clock that only the probes advance: what is run, in what order, and for how long."""

from __future__ import annotations

from cast_profiler.rounds import take_turns


class Machine:
    """Passes that take as long as they say, one after the other."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self.slow = (0.0, 0.0)

    def probe(self, name: str, seconds: float):
        def run() -> float:
            taken = seconds * (2 if self.slow[0] <= self.now < self.slow[1] else 1)
            self.now += taken
            self.ran.append(name)
            return taken

        return run


def measure(machine: Machine, seconds: list[float], budget: float, **options):
    probes = [machine.probe(str(index), each) for index, each in enumerate(seconds)]
    reference = machine.probe("reference", 0.01)
    return take_turns(probes, reference, budget, clock=lambda: machine.now, **options)


def test_every_probe_gets_its_share_within_the_budget() -> None:
    machine = Machine()
    timings = measure(machine, [0.01, 0.02, 0.03, 0.04, 0.05, 0.06], 4.0)
    counts = [len(samples) for samples in timings.samples]
    assert min(counts) >= timings.rounds >= 10
    assert max(counts) - min(counts) <= 1
    assert machine.now < 4.1
    assert all(s.seconds == 0.03 for s in timings.samples[2])


def test_rounds_differ_in_order() -> None:
    machine = Machine()
    measure(machine, [0.01] * 8, 4.0)
    turns = [name for name in machine.ran if name != "reference"][8:]
    rounds = [turns[start : start + 8] for start in range(0, 40, 8)]
    assert all(sorted(one) == sorted(rounds[0]) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 5


def test_what_is_sampled_while_the_machine_is_slow_can_be_told_by_its_reference() -> None:
    machine = Machine()
    machine.slow = (1.03, 2.03)  # begins and ends between two runs of the reference
    timings = measure(machine, [0.02] * 4, 3.0)
    samples = [sample for one in timings.samples for sample in one]
    slow = [sample for sample in samples if sample.seconds > 0.03]
    assert slow
    assert all(sample.reference > 0.015 for sample in slow)


def test_a_budget_too_small_leaves_out_the_least_important() -> None:
    machine = Machine()
    timings = measure(machine, [1.0] * 10, 5.0, essential=2)
    counts = [len(samples) for samples in timings.samples]
    assert counts[0] >= 1
    assert counts[1] >= 1
    assert counts[5:] == [0] * 5
    assert machine.now < 7


def test_essential_ones_are_sampled_whatever_it_takes() -> None:
    timings = measure(Machine(), [9.0] * 4, 1.0, essential=3)
    assert [len(samples) for samples in timings.samples] == [1, 1, 1, 0]


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    measure(Machine(), [0.1] * 3, 2.0, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
