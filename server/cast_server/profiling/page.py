"""A profile as one self-contained HTML page: the drawing, the tables, and what they rest on."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape

from cast_profiler.profile import Profile
from cast_server.profiling.chart import draw
from cast_server.profiling.table import headline, notes, tables

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
pre { overflow-x: auto; background: #f6f6f6; padding: 0.8rem }
svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #222 }
.grid { stroke: #e4e4e4 }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #e4e4e4; text-align: right }
.share { display: flex; height: 1.2rem; margin: 0.2rem 0; font-size: 12px; color: #fff }
"""


def to_html(profile: Profile) -> str:
    """Needs nothing from anywhere else."""
    title = f"What steps of {profile.fingerprint.model} cost"
    sentences = "\n".join(f"<p>{escape(note.strip())}</p>" for note in notes(profile))
    facts = {
        "fingerprint": asdict(profile.fingerprint),
        "provenance": dict(profile.provenance),
    }
    body = f"""\
<p>{escape(headline(profile)).replace(chr(10), "<br>")}</p>
{draw(profile)}
<p>Rows are tokens computed in a pass, keys the tokens of context attended to. Points are medians,
bars the middle half of the samples; lines between points are what tree builders assume.</p>
{sentences}
<h2>Measurements</h2>
<pre>{escape(chr(10).join(tables(profile)))}</pre>
<h2>Where they come from</h2>
<pre>{escape(json.dumps(facts, indent=2, ensure_ascii=False))}</pre>"""
    return page(title, body)


def page(title: str, body: str) -> str:
    """The whole document around HTML; `title` is plain text."""
    return f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<h1>{escape(title)}</h1>
{body}
</html>
"""
