"""Arithmetic, programs and inequalities against Python's own word, and against what never ends."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from itertools import chain

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted_writers import python_output

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge import arithmetic, inequalities, language
from cast_server.evaluators.self_knowledge.expressions import (
    CALCULATION,
    WHOLE_NUMBERS,
    Budget,
    evaluate,
    parse,
)
from cast_server.evaluators.self_knowledge.families.code import Code
from cast_server.evaluators.self_knowledge.task import Question

calm = settings(deadline=None)


def combined(signs: tuple[str, ...], leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions, with brackets here and there."""

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.tuples(inner, st.sampled_from(signs), inner).map(" ".join)
        return st.one_of(
            pairs, pairs.map("({})".format), inner.map("-{}".format), inner.map("({}) ** 2".format)
        )

    return st.recursive(leaves, grown, max_leaves=12)


def is_short(text: str) -> bool:
    """Within the 200 tokens that an expression may have. No filter on a strategy: hypothesis would
    warn of how long the strategy's own description is."""
    return len(re.findall(r"\w+|[^\w\s]", text)) < 180


numbers = st.integers(0, 30).map(str)
calculations = combined(("+", "-", "*", "/"), numbers)
whole_terms = combined(("+", "-", "*", "//", "%"), st.one_of(numbers, st.sampled_from("xyz")))
comparisons = st.tuples(
    whole_terms, st.sampled_from(("<", "<=", "==", "!=", ">", ">=")), whole_terms
)
conditions = st.recursive(
    st.one_of(
        comparisons.map(" ".join),
        st.tuples(comparisons, st.sampled_from("<>"), whole_terms).map(
            lambda parts: " ".join((*parts[0], *parts[1:]))
        ),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(("and", "or")), inner).map(" ".join),
        inner.map("not {}".format),
        inner.map("({})".format),
    ),
    max_leaves=4,
)
NAMES = {"x": 3, "y": -2, "z": 0}


def reference(text: str, is_exact: bool = False) -> object:
    """By Python itself; numbers but exponents as fractions if asked for."""
    if is_exact:
        text = re.sub(r"(?<!\*\* )\b(\d+)\b", r"F(\1)", text)
    try:
        return eval(text, {"F": Fraction, **NAMES})
    except ZeroDivisionError:
        return "division_by_zero"


def ours(text: str, operators: frozenset[str]) -> object:
    try:
        return evaluate(parse(text, operators), NAMES, Budget(10**6, 10**6))
    except Undefined as undefined:
        return undefined.reason


@calm
@given(calculations)
def test_calculations_are_exact(text: str) -> None:
    assume(is_short(text))
    assert ours(text, CALCULATION) == reference(text, is_exact=True)


@calm
@given(st.one_of(whole_terms, conditions))
def test_whole_numbers_as_python_has_them(text: str) -> None:
    assume(is_short(text))
    assert ours(text, WHOLE_NUMBERS) == reference(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("2 ** -1", Fraction(1, 2)),
        ("2 ^ 3 * 2", 16),
        ("1 - 2 - 3", -4),
        ("8 / 4 / 2", 1),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("- - 3", 3),
        ("2 * -3", -6),
    ],
)
def test_precedence(text: str, value: object) -> None:
    assert ours(text, CALCULATION) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "(1",
        "1)",
        "1 2",
        "1 = 2",
        "import os",
        "f(1)",
        "x.y",
        "[1]",
        "'a'",
        "1 if 2",
        "2x",
        "(" * 150 + "1" + ")" * 150,
        "1" * 501,
        "1" + "+1" * 200,
    ],
)
def test_what_is_no_expression(text: str) -> None:
    assert ours(text, WHOLE_NUMBERS) == "not_parsed"


@pytest.mark.parametrize("text", ["(" * 99 + "1" + ")" * 99, "- " * 150 + "1", "1" + "+1" * 99])
def test_deep_ones_do_not_overflow(text: str) -> None:
    assert abs(int(str(ours(text, WHOLE_NUMBERS)))) >= 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9 ** 9 ** 9 ** 9", "too_large"),
        ("0.5 ** 99999999", "too_large"),
        ("(9 ** 600) * (9 ** 600)", "too_large"),
        ("2 ** (1 / 2)", "power_undefined"),
        ("0 ** -1", "power_undefined"),
        ("1 / (2 - 2)", "division_by_zero"),
    ],
)
def test_numbers_stay_small(text: str, reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        evaluate(parse(text, CALCULATION), {}, Budget())


simple = st.one_of(
    st.tuples(st.sampled_from("xyz"), st.sampled_from(("=", "+=", "-=", "*=")), whole_terms).map(
        " ".join
    ),
    whole_terms.map("print({})".format),
    st.just("pass"),
)


bounds = st.integers(-3, 5)
ranges = st.one_of(
    st.lists(bounds, min_size=1, max_size=2),
    st.tuples(bounds, bounds, st.sampled_from((-2, -1, 1, 3))),
)


def blocks(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Indented statements under a head; loops that end."""

    def indented(body: list[str]) -> list[str]:
        return [f"    {line}" for line in body]

    def counting(limit: int, body: list[str]) -> list[str]:
        last = f"    n{limit} = n{limit} + 1"
        return [f"n{limit} = 0", f"while n{limit} < {limit}:", *indented(body), last]

    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: list(chain(*parts))),
        st.tuples(conditions, inner).map(lambda p: [f"if {p[0]}:", *indented(p[1])]),
        st.tuples(conditions, inner, conditions, inner, inner).map(
            lambda p: [
                *(f"if {p[0]}:", *indented(p[1]), f"elif {p[2]}:"),
                *(*indented(p[3]), "else:  # otherwise", *indented(p[4])),
            ]
        ),
        st.tuples(st.sampled_from("xij"), ranges, inner).map(
            lambda p: [f"for {p[0]} in range({', '.join(map(str, p[1]))}):", *indented(p[2])]
        ),
        st.tuples(st.integers(0, 4), inner).map(lambda p: counting(*p)),
    )


programs = st.recursive(simple.map(lambda line: [line]), blocks, max_leaves=10).map(
    lambda lines: "\n".join(["x = 3", "y = -2", "z = 0", "", *lines, "print(x)", "print(y)"])
)


@settings(deadline=None, max_examples=200)
@given(programs)
def test_programs_run_as_python_runs_them(source: str) -> None:
    assume(all(map(is_short, source.splitlines())) and " " * 80 not in source)
    try:
        printed: list[str] | str = language.run(source)
    except Undefined as undefined:
        printed = undefined.reason
    if printed in ("too_many_steps", "too_large", "too_much_output"):
        return  # and Python would go on and on
    try:
        assert printed == python_output(source)
    except ZeroDivisionError:
        assert printed == "division_by_zero"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("while True:\n    pass", "too_many_steps"),
        ("while 1:\n  while 1:\n    x = 1", "too_many_steps"),
        ("for i in range(10 ** 300):\n    pass", "too_many_steps"),
        ("x = 2\nwhile True:\n    x = x * x", "too_large"),
        ("x = 10 ** 10 ** 10", "too_large"),
        ("while True:\n    print(1)", "too_much_output"),
        ("x = 1\n" * 1000, "too_large"),
        (
            "\n".join("    " * d + "if 1:" for d in range(40)) + "\n" + "    " * 40 + "x = 1",
            "not_in",
        ),
        ("for i in range(1, 5, 0):\n    pass", "step_of_zero"),
        ("print(y)", "unknown_name"),
        ("print(1 % 0)", "division_by_zero"),
        ("print(2 ** -1)", "not_whole"),
    ],
)
def test_programs_end(source: str, reason: str) -> None:
    began = time.process_time()
    with pytest.raises(Undefined, match=reason):
        language.run(source)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "source",
    [
        "",
        "import os",
        "print('a')",
        "print(1, 2)",
        "print(1 / 2)",
        "x = [1]",
        "x = y = 1",
        "x: int = 1",
        "def f():\n    pass",
        "x = __import__('os')",
        "if 1:",
        "if 1:\nx = 1",
        "  x = 1",
        "x = 1.5",
        "x = 1\n  y = 2",
        "else:\n    x = 1",
        "for = 1",
        "for i in [1]:\n    pass",
        "x = 1; y = 2",
        "if 1:\n    x = 1\n  y = 2",
        "while 1: pass",
        "lambda: 0",
        "x /= 2",
        "print(1",
        "if 1:\n    x = 1\nelse:\n    x = 2\nelse:\n    x = 3",
    ],
)
def test_what_is_not_in_the_language(source: str) -> None:
    with pytest.raises(Undefined, match="not_in_language"):
        language.run(source)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Here you are:\n```python\nprint(1)\nprint(7)\n```\nIt prints 7.", "7"),
        ("print(7)", "7"),
        ("```\nprint(7)\n```\n```\nprint(8)\n```", "several_programs"),
        ("x = 1", "prints_no_number"),
        ("print(1 < 2)", "prints_no_number"),
        ("Sure! print(7)", "not_in_language"),
    ],
)
def test_a_program_in_its_text(text: str, answer: str) -> None:
    assert told(lambda: Code().truth(text, Question())) == answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 12 + 44?", "56"),
        ("Calculate: (3 + 4) * 8", "56"),
        ("What is **12 + 44**?", "56"),
        ("What is 7 × 8?", "56"),  # noqa: RUF001
        ("What is 7 x 8?", "56"),
        ("What is 100 minus 44", "56"),
        (r"Compute $\frac{100}{2} + 6$.", "56"),
        (r"Solve \( 7 \cdot 8 \)", "56"),
        ("1,000 + 1", "1001"),
        ("2**3 + 4**5", "1032"),
        ("7 / 2", "7/2"),
        ("12 + 44 = 56", "several_expressions"),
        ("I have 3 + 4 apples", "word_problem"),
        ("What is 20% of 280?", "word_problem"),
        ("What is √16 + 4?", "word_problem"),
        ("- 12 + 44", "word_problem"),
        ("56", "not_arithmetic"),
        ("What is it?", "not_arithmetic"),
        ("What is 5 / (2 - 2)?", "division_by_zero"),
        ("What is 9 ** 9 ** 9?", "too_large"),
        ("(" * 20_000, "word_problem"),
    ],
)
def test_the_answer_of_a_question(question: str, answer: str) -> None:
    assert told(lambda: arithmetic.answer(question)) == answer


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("x^2 + y^2 >= 2xy for all real numbers x and y.", "true"),
        ("x² + y² ≥ 2xy for all real numbers x, y", "true"),
        ("x^2 + y^2 > 2xy for all real numbers x and y.", "false"),  # equal on the diagonal
        ("For all real numbers x, y: x^2 + y^2 >= 2xy.", "true"),
        ("For any real number $x$, $x^2 \\ge 0$", "true"),
        ("Statement: $a^2 + b^2 \\geq 2ab$ for all real $a, b$", "true"),
        ("**Inequality:** x^2 + 1 > 0", "true"),
        ("Here is one:\n\nx^2 + 1 < 0", "false"),
        ("x^2 > x for all x > 1", "true"),
        ("x^2 > x for all positive real numbers x", "false"),
        ("x^2 - 5x + 6 >= 0 for all real numbers x", "false"),
        ("a/b + b/a >= 2 for all positive real numbers a and b", "true"),
        ("a/b + b/a >= 2 for all real numbers a and b", "false"),
        ("a^2 + b^2 + c^2 >= ab + bc + ca for all real numbers a, b and c", "true"),
        ("0 <= x^2 < 99999 for all real numbers x", "true"),
        ("-1 < x < 1", "false"),
        ("1/x > 0 for all x > 0", "true"),
        ("x >= 1 for all integers x", "domain_not_understood"),
        ("x >= y for all real numbers x", "domain_not_understood"),
        ("x >= 0\ny >= 0", "several_statements"),
        ("|x| >= 0", "not_parsed"),
        ("sqrt(x) >= 0", "not_parsed"),
        ("x = 2", "not_parsed"),
        ("x > 0 and y > 0", "not_parsed"),
        ("x is >= 0", "not_parsed"),
        ("x^2 - 5.1x + 6.5 >= 0", "false"),  # between 2.5 and 2.6 only
        ("x^2 + y^2 >= 0" + " + 0 * y" * 45, "too_many_steps"),
        ("3 > 2", "not_parsed"),
        ("x^99999 > 0", "too_large"),
        ("x > 5 for all x > 99", "too_few_points"),
        ("x > " + "1+" * 400, "too_large"),
    ],
)
def test_statements(text: str, verdict: str) -> None:
    assert told(lambda: inequalities.verdict(text)) == verdict


@calm
@given(st.integers(-6, 6), st.integers(-9, 9), st.sampled_from((">=", ">")))
def test_statements_by_the_discriminant(root: int, rest: int, sign: str) -> None:
    text = f"x^2 + ({-2 * root})x + {root * root} {sign} {-rest} for all real numbers x"
    is_true = rest >= 0 if sign == ">=" else rest > 0
    assert inequalities.verdict(text) == str(is_true).lower()


def told(compute: object) -> str:
    try:
        return str(compute())  # type: ignore[operator]
    except Undefined as undefined:
        return undefined.reason
