"""An evaluation as one self-contained HTML page: drawings, tables, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cast_server.evaluators.offline.drawings import drawings


def to_html(document: Mapping[str, Any], table: Sequence[Sequence[str]]) -> str:
    """Needs nothing from anywhere else."""
    # The page's own frame comes from where profiles are drawn; a report needs no torch.
    from cast_server.evaluators.offline.report import DIFFERENCES, differences, sentence
    from cast_server.profiling.page import page

    paired = differences(document)
    heads = ("number", *document["models"])[: len(table[0])] if table else ()
    parts = [f"<p><strong>{escape(sentence(document))}</strong></p>"]
    parts += [f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in drawings(document)]
    if paired:
        parts += ["<h2>Differences, paired by item</h2>", _table(DIFFERENCES, paired)]
    parts += ["<h2>Summary</h2>", _table(heads, table)]
    parts += [f"<h2>Items</h2>\n{_items(document['items'])}"]
    origin = {name: document[name] for name in ("params", "fingerprints", "evaluator_version")}
    shown = escape(json.dumps(origin, indent=1, ensure_ascii=False))
    parts += [f"<h2>Where it comes from</h2>\n<pre>{shown}</pre>"]
    return page(f"{document['title']}: {' against '.join(document['models'])}", "\n".join(parts))


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body)
    return f"<table><tr>{top}</tr>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _items(items: Sequence[Mapping[str, Any]], at_most: int = 200) -> str:
    """Each behind a line that opens; the first ones only, where there are many."""
    shown = [
        f"<details><summary>{escape(_headline(item))}</summary>"
        f"<pre>{escape(json.dumps(item['result'], indent=1, ensure_ascii=False))}</pre></details>"
        for item in items[:at_most]
    ]
    if len(items) > at_most:
        shown.append(f"<p>And {len(items) - at_most} more, in results.json.</p>")
    return "\n".join(shown)


def _headline(item: Mapping[str, Any]) -> str:
    error = f": {item['error']['message']}" if item.get("error") else ""
    return f"{item['index']}, {item['model']}, {item['status'] or 'not finished'}{error}"
