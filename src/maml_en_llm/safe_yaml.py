"""YAML files that people write: small, without aliases and repeated keys, read without surprises."""

from __future__ import annotations

import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1_000_000  # far more than any configuration
DEEPEST = 50


class _Loader(yaml.SafeLoader):
    """Refuses aliases, by which a few lines grow to gigabytes, and repeated keys, of which one would be lost."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(None, None, f"alias *{event.anchor}; write the value out", event.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(None, None, "nested too deeply", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {name!r} stands twice; keep one", key.start_mark)
            seen.add(name if isinstance(name, Hashable) else None)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds; ValueError, which begins with `where` and the line, when it is not plain YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        raise ValueError(f"{place}: not valid YAML ({' '.join(str(error.problem).split())})") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:  # dates, huge numbers ...
        raise ValueError(f"{where}: not valid YAML ({' '.join(str(error).split())[:200]})") from None


def read_yaml_file(path: Path) -> Any:
    """What a YAML file holds. Raises ValueError with file and line when it is no small file of plain YAML in UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path}: is not a regular file; give a YAML file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give a YAML file") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: has more than {MOST_BYTES:,} bytes; a configuration is shorter")
    try:
        return parse_yaml(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
