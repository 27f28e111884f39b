"""docs/robustness.md is what tools/robustness_report.py writes about the tests that there are."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))
tool: Any = importlib.import_module("robustness_report")
mutations: Any = importlib.import_module("mutate_checks")

ROWS = [row for rows in tool.SECTIONS.values() for row in rows]
TEXT = (ROOT / "docs" / "robustness.md").read_text()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_every_row_has_its_tests_and_is_in_the_document(row: Any) -> None:
    names = tool.tests_in(row.file)
    for start in row.tests:
        assert any(name.startswith(f"test_{start.partition('[')[0]}") for name in names), f"{row.file} has no test_{start}…"
    said = re.fullmatch(r"\| .* \| ([\d,]+) \| (.*) \| \S+ \|\n", tool.before(row, TEXT))
    assert said, "run tools/robustness_report.py --vm"
    assert said[1] != "0"
    assert said[2].startswith(row.outcome)


def test_the_document_has_no_other_rows_and_says_what_the_tool_says() -> None:
    tables = TEXT.partition(tool.REST)[0]
    assert len(re.findall(r"^\| (?!tried \|)", tables, re.MULTILINE)) == len(ROWS)
    for part in re.split(r"\{\w+\}", tool.TEXT):
        assert part in TEXT, "run tools/robustness_report.py"


def test_nothing_failed_and_every_check_has_a_test() -> None:
    assert "failed**" not in TEXT
    assert "**none**" not in TEXT
    assert mutations.HEADING in TEXT, "run tools/mutate_checks.py --write"


def test_the_tests_that_guard_checks_exist() -> None:
    rest = TEXT[TEXT.index(mutations.HEADING) :]
    rows = re.findall(r"^\| (?!file \|)\S+ \| .* \| (.*) \|$", rest, re.MULTILINE)
    assert len(rows) > 200
    for row in rows:
        named = re.fullmatch(r"(test_\w+\.py)(?:::(test_\w+))?( hangs| dies)?", row)
        assert named, row
        assert not named[2] or named[2] in tool.tests_in(named[1]), f"no {row} any more: run tools/mutate_checks.py --write"


def test_checks_that_are_taken_away_are_still_there() -> None:
    """The lines that the runner changes are those of today, and each change makes another file that compiles."""
    found = list(mutations.mutants())
    assert len(found) > 200
    for mutant in found:
        compile(mutant.text, mutant.path, "exec")
        assert mutant.text != (ROOT / mutant.path).read_text()


# ---- the report itself


def test_results_are_counted() -> None:
    passed, failed = tool.Found("passed"), tool.Found("failed")
    row = tool.Row("a thing", "test_x.py", ("some", "other[a"), "fine")
    results = {
        "test_x.py::test_some[1]": passed,
        "test_x.py::test_something": tool.Found("passed", 2000, "not said of several"),
        "test_x.py::test_other[a]": passed,
        "test_x.py::test_other[b]": failed,
        "test_y.py::test_some": failed,
    }
    assert tool.line(row, results) == "| a thing | 2,002 | fine | test_x.py |\n"
    assert "**1 failed**" in tool.line(row, {**results, "test_x.py::test_some[2]": failed})
    assert tool.line(row, {}) == "| a thing | 0 | not run here | test_x.py |\n"
    assert "not run here" in tool.line(row, {"test_x.py::test_some": tool.Found("skipped")})
    alone = {"test_x.py::test_some": tool.Found("passed", 7, "3 of each")}
    assert tool.line(row, alone) == "| a thing | 7 | fine (3 of each) | test_x.py |\n"


def test_what_the_vm_did_stays_until_it_does_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tool.Row("this", "test_x.py", ("a",), "fine"), tool.Row("that", "kernel/test_y.py", ("b",), "well")
    monkeypatch.setattr(tool, "SECTIONS", {"Things": (here, there)})
    facts = {"driver": "none", "memory": 1}
    first = {"test_x.py::test_a": tool.Found("passed"), "kernel/test_y.py::test_b": tool.Found("passed", 5)}
    text = tool.report(first, facts, f"old\n{tool.REST}rest\n")
    assert "| this | 1 | fine | test_x.py |\n| that | 5 | well | kernel/test_y.py |\n" in text
    assert text.endswith(f"\n{tool.REST}rest\n")
    again = tool.report({"test_x.py::test_a": tool.Found("passed", 2)}, facts, text)
    assert again == text.replace("| this | 1 |", "| this | 2 |")
    assert "| that | 0 | not run here |" in tool.report({}, facts, "")


def test_a_junit_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "j.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.kernel.test_y" name="test_b[1]"><properties>'
        '<property name="tries" value="500"/></properties></testcase>'
        '<testcase classname="tests.kernel.test_y" name="test_c"><failure/></testcase></testsuite></testsuites>'
    )
    assert tool.from_junit(tmp_path / "j.xml") == {
        "kernel/test_y.py::test_b[1]": tool.Found("passed", 500),
        "kernel/test_y.py::test_c": tool.Found("failed"),
    }


def test_what_is_known_of_checks_is_found_again() -> None:
    text = f"x\n{mutations.HEADING}\n| a.py | `f`: if a \\| b | test_x.py::test_a |\n| b.py | y | test_x.py::test_b hangs |\n"
    assert mutations.known(text) == {
        ("a.py", "`f`: if a \\| b"): "test_x.py::test_a",
        ("b.py", "y"): "test_x.py::test_b",
    }


def test_a_check_is_taken_away() -> None:
    text = "def f(é):\n    if é > 1 and \\\n       é < 5:  # why\n        raise DescriptorError('é')\n    return é\n"
    import ast

    test = ast.parse(text).body[0].body[0].test  # type: ignore[attr-defined]
    assert (
        mutations._replaced(text, test, "False")
        == "def f(é):\n    if False:  # why\n        raise DescriptorError('é')\n    return é\n"
    )
