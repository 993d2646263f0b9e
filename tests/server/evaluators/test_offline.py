"""`cast-eval` without a model: texts, parameters, tables and drawings."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from cast_server.errors import ConfigError
from cast_server.evaluators.offline.cli import main
from cast_server.evaluators.offline.dots import Share, dots
from cast_server.evaluators.offline.drawings import drawings
from cast_server.evaluators.offline.page import to_html
from cast_server.evaluators.offline.report import differences, rows, to_markdown
from cast_server.evaluators.offline.texts import read_texts

ESTIMATE = {"count": 3, "mean": 2.5, "sd": 0.1, "low": 2.4, "high": 2.6}
ALONE = {"count": 1, "mean": 2.5, "sd": None, "low": None, "high": None}


def document(**changes):
    known = {
        "evaluator": "erank",
        "title": "Effective rank",
        "evaluator_version": "1",
        "models": ["one"],
        "fingerprints": [{}],
        "params": {},
        "status": "completed",
        "error": None,
        "tokens": 12,
        "counts": {"total": 3, "ok": 2, "errored": 1, "undefined": 0},
        "summary": {"num_ok": 2, "layers": [_layer(0), _layer("last_normed")]},
        "baseline_summary": None,
        "comparison": None,
        "items": [],
    }
    return known | changes


def _layer(name):
    return {"layer": name, "erank": ESTIMATE, "loss": ALONE, "spectrum": [0.5, 0.3, 0.2]}


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "One\ntwo.\n\n \n Three. \n", ["One\ntwo.", "Three."]),
        (
            "a.jsonl",
            '{"text": "a"}\n\n{"prompt": "b"}\n{"question": "c", "n": 1}\n',
            ["a", "b", "c"],
        ),
    ],
)
def test_reads_texts(tmp_path: Path, name, content, texts) -> None:
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name) == texts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", " \n\n", "holds no text"),
        ("a.jsonl", '{"text": "a"}\nnot json', "line 2 is no JSON"),
        ("a.jsonl", '{"answer": "a"}', 'line 1 needs a JSON object with a "text"'),
        ("a.jsonl", '{"text": 3}', "line 1 needs"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path: Path, name, content, said) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_texts(tmp_path / name)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_texts(Path("nowhere.txt"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("layers", "name=value is needed"),
        ("layers=[-3]", "layers"),
        ("colour=red", "colour: Extra inputs are not permitted"),
    ],
)
def test_parameters_that_cannot_be(tmp_path: Path, capsys, settings, said) -> None:
    command = ["run", "erank", f"--out={tmp_path / 'out'}", f"--set={settings}"]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lists_and_describes(capsys) -> None:
    assert main(["list"]) == 0
    assert "self_knowledge: " in capsys.readouterr().out
    assert main(["describe", "erank"]) == 0
    assert '"layers"' in capsys.readouterr().out


def test_numbers_have_their_intervals_beside_them() -> None:
    table = dict(rows(document()))
    assert table["num_ok"] == "2"
    assert table["layers[last_normed].erank"] == "2.5 [2.4, 2.6]"
    assert table["layers[0].loss"] == "2.5"
    assert not any("spectrum" in name for name in table)


def test_two_models_are_side_by_side() -> None:
    pair = {"pairs": 3, "mean": 2.0, "baseline_mean": 1.5, "difference": 0.5}
    two = document(
        models=["one", "two"],
        baseline_summary={"num_ok": 3, "layers": [_layer(0), _layer("last_normed")]},
        comparison={
            "erank": pair | {"interval": (0.25, 0.75)},
            "loss": dict.fromkeys(pair, None) | {"pairs": 0, "interval": None},
        },
    )
    assert ("num_ok", "2", "3") in rows(two)
    assert differences(two) == [
        ("erank", "3", "2", "1.5", "0.5", "0.25 to 0.75"),
        ("loss", "0", "", "", "", ""),
    ]
    text = to_markdown(two, rows(two))
    assert "| erank | 3 | 2 | 1.5 | 0.5 | 0.25 to 0.75 |" in text
    page = to_html(two, rows(two))
    assert page.count("<svg") == 2
    assert "Differences" in page


def test_what_a_model_says_is_no_html() -> None:
    item = {"index": 0, "model": "one", "status": "ok", "error": None}
    said = document(items=[item | {"result": {"text": "<script>alert(1)</script>"}}])
    assert "<script>" not in to_html(said, rows(said))


def test_draws_layers_and_spectrum() -> None:
    titles = [title for title, _ in drawings(document())]
    assert titles == ["eRank by layer", "Spectrum"]
    one_layer = document(summary={"layers": [_layer(0)]})
    assert [title for title, _ in drawings(one_layer)] == ["Spectrum"]
    assert list(drawings(document(summary=None))) == []


def test_draws_acceptance() -> None:
    some = document(evaluator="acceptance", summary={"alphas": [0.5, 0.4, None]})
    [(title, svg)] = drawings(some)
    assert title == "Acceptance by depth"
    assert len(parsed(svg).findall(".//circle")) == 2


def test_draws_what_a_model_knows() -> None:
    rate = {"value": 0.5, "low": 0.2, "high": 0.8}
    unknown = dict.fromkeys(rate)
    kinds = ("paper_score", "gen_compliance", "verify_accuracy")
    task = dict.fromkeys(kinds, rate) | {"unparsed_rate": unknown}
    tasks = [{"task": name, "arm": arm, **task} for arm in ("self", "foreign") for name in "ab"]
    told = [("12", "10"), ("12", "14"), ("30", "30"), ("x", "3"), ("7", None), ("5", "9999")]
    items = [{"result": {"verifications": [{"truth": t, "parsed": p}]}} for t, p in told]
    some = document(
        evaluator="self_knowledge",
        summary={"tasks": tasks},
        items=[one | {"index": 0, "model": "one", "status": "ok", "error": None} for one in items],
    )
    drawn = dict(drawings(some))
    assert [title.split(",")[0] for title in drawn] == ["one", "one", "Calibration of numbers"]
    svg = parsed(drawn["one, self: does it know what is written?"])
    assert len(svg.findall(".//circle")) == 4 + 2 * 3  # the legend, and two rows


def test_dots_are_where_their_shares_are() -> None:
    svg = parsed(dots({"a": {"x": Share(0.0, 0.0, 0.5)}, "b": {"x": Share(1.0, 0.5, 1.0)}}, "t"))
    [_, first, second] = svg.findall(".//circle")
    bars = [line for line in svg.findall(".//line") if line.get("class") is None]
    assert float(first.get("cx")) == pytest.approx(float(bars[0].get("x1")))
    assert float(second.get("cx")) == pytest.approx(float(bars[1].get("x2")))
    assert float(bars[0].get("x2")) == pytest.approx(float(bars[1].get("x1")))
    assert float(first.get("cy")) < float(second.get("cy"))
