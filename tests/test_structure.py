"""The architecture as tests: data flows one way, and no code asks for a method by its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import maml_en_llm

ROOT = Path(maml_en_llm.__file__).parent
# No room imports one to its right. Files of the package itself, such as config.py, are rooms too.
ORDER = """
registry names safe_yaml files progress hub results tasks sources prompts config models bilevel prediction methods
training evaluation classifier reporting experiments push harness starter demo cli __init__ __main__
""".split()


def room(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, inside functions too."""
    package = ["maml_en_llm", *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module.split(".") if node.module else [])]
            modules = [[*names, alias.name] for alias in node.names] if names == ["maml_en_llm"] else [names]
        elif isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {words[1] for words in modules if words[0] == "maml_en_llm" and len(words) > 1}
    return found - {room(path)}


FILES = sorted(ROOT.rglob("*.py"))


def test_every_room_has_its_place() -> None:
    assert {room(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_one_to_its_right(path: Path) -> None:
    place = ORDER.index(room(path))
    assert [name for name in imported(path) if name in ORDER and ORDER.index(name) > place] == []


def test_no_code_asks_for_a_method_by_its_name() -> None:
    names = [
        path.stem.replace("_", "-")
        for path in (ROOT / "methods").glob("*.py")
        if path.stem not in ("__init__", "method")
    ]
    question = re.compile(rf"(?<!layout )(==|!=|\bin)\s*[(\[{{]?\s*[\"']({'|'.join(names)})[\"']")
    asked = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if question.search(line) and path.parent.name != "methods"
    ]
    assert asked == []
