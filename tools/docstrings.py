"""For the Python reference (mkdocs.yml): docstrings as Markdown. What they line up in two columns becomes a table.

    stride  bytes from row to row
    offset  the first byte

Columns are two spaces or more apart, there are at least two lines, and a line that begins under the second column goes on
with the one above. A parameter that a sentence is about is set as code. All else is Markdown as it is.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, Extension, Function

_ROW = re.compile(r"(?P<name>[a-z][\w, …]*?) {2,}(?=\S)")


class Docstrings(Extension):
    """Called by griffe for every class and function that it has read."""

    def on_class(self, *, cls: Class, **_: Any) -> None:
        _set(cls)

    def on_function(self, *, func: Function, **_: Any) -> None:
        _set(func)
        if func.docstring is not None:
            for name in (parameter.name for parameter in func.parameters):
                func.docstring.value = with_code(func.docstring.value, name)


def _set(found: Class | Function) -> None:
    if found.docstring is not None:
        found.docstring.value = with_tables(found.docstring.value)


def with_code(text: str, name: str) -> str:
    """The docstring with a parameter's name as code wherever a sentence is about it: "timeout is in seconds"."""
    return re.sub(rf"(?<![`\w.=]){name}(?= (?:is|are|asks for|maps|says)\b)", f"`{name}`", text)


def with_tables(text: str) -> str:
    """The docstring with its columns as tables."""
    lines, made = text.splitlines(), []
    while lines:
        rows = _take_rows(lines)
        if len(rows) > 1:
            # An empty head: Markdown's tables have to have one.
            made += ["", "| | |", "|---|---|", *(f"| `{name}` | {means} |" for name, means in rows), ""]
            del lines[: sum(1 + means.count(_JOINT) for _, means in rows)]
        else:
            made.append(lines.pop(0))
    return "\n".join(made).replace(_JOINT, " ")


_JOINT = "\x1f"  # between the lines of one cell, until they are counted


def _take_rows(lines: list[str]) -> list[tuple[str, str]]:
    """(name, what it means) of each row that the lines begin with."""
    rows: list[tuple[str, str]] = []
    column = -1
    for line in lines:
        if column > 0 and line[:column].isspace() and line[column:].strip():
            name, means = rows[-1]
            rows[-1] = name, f"{means}{_JOINT}{line.strip()}"
        elif (found := _ROW.match(line)) and column in (-1, found.end()):
            column = found.end()
            rows.append((found["name"], line[column:]))
        else:
            break
    return rows
