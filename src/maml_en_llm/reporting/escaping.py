"""Texts of data where they could be taken for something else: in a terminal, Markdown, LaTeX and spreadsheets."""

from __future__ import annotations

import hashlib
import re

_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\n": " ",
}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "\\`", "\n": " "}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs cells that begin so


def markdown_text(text: str) -> str:
    """Without HTML, links, and what would end a cell of a table."""
    return "".join(_MARKDOWN.get(c, c) for c in text).replace("](", "]\\(")


def file_name(text: str) -> str:
    """A name for a file: letters, digits, `_` and `-`; what had to be changed is told apart by a hash."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:80]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def latex_text(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def csv_text(text: str) -> str:
    """Behind an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_csv(text: str) -> str:
    """What `csv_text` was made from."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) else text
