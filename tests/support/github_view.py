"""A page of the repository as GitHub shows it, for tests in a browser."""

from __future__ import annotations

from pathlib import Path

STYLE = """
body { margin: 0 auto; max-width: 880px; padding: 32px; box-sizing: border-box; font: 16px/1.5 sans-serif;
  overflow-wrap: break-word; }
@media (max-width: 767px) { body { padding: 16px; } }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
th, td { padding: 6px 13px; border: 1px solid #d1d9e0; }
th { font-weight: 600; }
img { max-width: 100%; }
pre { padding: 16px; overflow: auto; background: #f6f8fa; font: 13.6px/1.45 monospace; }
code { font-family: monospace; font-size: 85%; }
pre code { font-size: 100%; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; }
"""
WIDER = """
document.querySelectorAll('details').forEach((one) => { one.open = true });
return [...document.querySelectorAll('table')].filter((one) => one.scrollWidth > one.clientWidth)
  .map((one) => [one.scrollWidth, one.clientWidth, one.innerText.slice(0, 200)]);
"""


def html_of(page: Path) -> str:
    """Renders Markdown as GitHub does; of its additions only tables are used here."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(page.read_text(encoding="utf-8"))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"
