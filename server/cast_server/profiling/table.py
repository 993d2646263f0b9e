"""A profile as text, for a terminal; times in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cast_profiler.profile import Profile
from cast_profiler.surface import Measurement, Surface


def describe(profile: Profile) -> str:
    """Headline, table and notes, several lines."""
    return "\n".join([headline(profile), "", *tables(profile), *notes(profile)])


def headline(profile: Profile) -> str:
    mark = profile.fingerprint
    threads = f", threads {mark.threads}" if mark.threads else ""
    how = profile.provenance
    when = f"measured {how.get('date', 'at an unknown time')} in {how.get('rounds', '?')} rounds"
    return (
        f"{mark.model} in {mark.dtype} on {mark.device}{threads}, attention {mark.backend}, "
        f"drafter {mark.drafter}\n{mark.versions}; {when}"
    )


def tables(profile: Profile) -> Iterator[str]:
    yield from _context_table("Verification: milliseconds of a pass, one sequence", profile.verify)
    yield from _sequences_table(profile.verify)
    if profile.draft is not None:
        yield from _context_table("Draft level: milliseconds, one sequence", profile.draft)
        yield from _sequences_table(profile.draft)


def notes(profile: Profile) -> Iterator[str]:
    """What the fit makes of the points, and how far to trust it; one sentence or two a line."""
    yield from _fit_notes("Verification", profile.verify)
    if profile.draft is not None:
        yield from _fit_notes("A draft level", profile.draft)
    else:
        yield "No draft levels: this drafter makes no passes of its own."
    memory = profile.memory
    yield (
        f"Floor of any pass: {_ms(memory.seconds)} ms, as {memory.weight_bytes / 1e6:.0f} MB of "
        f"weights are read at {memory.bytes_per_second / 1e9:.1f} GB/s, the rate at which a buffer "
        "of that size was summed."
    )


def compare(one: Profile, other: Profile) -> str:
    """Seconds of `other` over those of `one` at the points that both have."""
    lines = [f"A: {headline(one)}", f"B: {headline(other)}", ""]
    lines += _ratios("Verification", one.verify, other.verify)
    if one.draft is not None and other.draft is not None:
        lines += _ratios("Draft level", one.draft, other.draft)
    return "\n".join(lines)


def _context_table(title: str, surface: Surface) -> list[str]:
    alone = [point for point in surface.points if point.sequences == 1]
    contexts = sorted({point.keys for point in alone})
    found = {(point.rows, point.keys): point for point in alone}
    rows = [
        [str(count), *(_cell(found.get((count, context))) for context in contexts)]
        for count in sorted({point.rows for point in alone})
    ]
    return [title, *_align([["rows", *(f"{c} keys" for c in contexts)], *rows]), ""]


def _sequences_table(surface: Surface) -> list[str]:
    several = [point for point in surface.points if point.sequences > 1]
    if not several:
        return []
    rows = [[str(p.sequences), str(p.rows), str(p.keys), _cell(p)] for p in several]
    return [*_align([["sequences", "rows", "keys", "ms"], *rows]), ""]


def _fit_notes(name: str, surface: Surface) -> Iterator[str]:
    curve, error = surface.curve(), surface.fit_error()
    yield (
        f"{name}: {1e6 * curve.seconds_per_key:.2g} µs more for each key of context, "
        f"{1e6 * curve.seconds_per_product:.2g} µs for each row times the keys it sees, "
        f"{_ms(curve.seconds_per_sequence)} ms for each sequence after the first."
    )
    if error is not None:
        yield (
            f"  Predicting each point from the others is off by {error.median:.1%} (median), at "
            f"worst {error.worst:.1%}, at {error.worst_rows} rows and {error.worst_keys} keys."
        )
    last = curve.rows[-1]
    slope = curve(last + 1, curve.keys_at_measurement) - curve(last, curve.keys_at_measurement)
    yield (
        f"  Nothing was measured beyond {last} rows: there {_ms(slope)} ms a row are assumed, the "
        "last slope."
    )
    rejected = sum(point.rejected for point in surface.points)
    taken = rejected + sum(point.samples for point in surface.points)
    yield f"  {rejected} of {taken} samples were rejected as disturbed."
    if surface.buckets:
        yield f"  Passes are padded to {', '.join(map(str, surface.buckets))} rows."


def _ratios(title: str, one: Surface, other: Surface) -> list[str]:
    theirs = {(p.rows, p.sequences, p.keys): p for p in other.points}
    shared = [
        (mine, theirs[key])
        for mine in one.points
        if (key := (mine.rows, mine.sequences, mine.keys)) in theirs
    ]
    if not shared:
        return [f"{title}: no point was measured in both.", ""]
    rows = [
        [
            *map(str, (a.rows, a.sequences, a.keys)),
            _ms(a.seconds),
            _ms(b.seconds),
            f"{b.seconds / a.seconds:.2f}",
        ]
        for a, b in shared
    ]
    head = ["rows", "sequences", "keys", "A ms", "B ms", "B/A"]
    return [title, *_align([head, *rows]), ""]


def _cell(point: Measurement | None) -> str:
    """Half the interquartile range stands behind the ±."""
    return "" if point is None else f"{_ms(point.seconds)} ±{_ms(point.spread / 2)}"


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.2f}"


def _align(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns flush right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
