"""YAML of configuration files and `--set`: plain data only, under limits.

Left out of YAML are anchors, aliases and merge keys, which a few lines can grow to billions of values, and tags. Keys
are texts and are given once. Numbers are those of YAML 1.2's core schema, so that `1e-5` is a number and dates, `1:30`
and `007` are texts.
"""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**18
MAX_NODES = 10_000
MAX_DEPTH = 64
NULL, BOOL, INT, FLOAT, STR = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))
SCALARS = (
    (NULL, r"~|null|Null|NULL|", "~nN"),
    (BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (INT, r"[-+]?(?:0|[1-9][0-9]{0,99})", "-+0123456789"),
    (FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
    (FLOAT, r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
)
"""What unquoted text means: tag, pattern and first characters; anything else is text."""
LOST = re.compile("[\0\ud800-\udfff]")
"""Characters that neither file names nor UTF-8 can hold."""


class YamlError(ValueError):
    """The text is not YAML of the kind that is read here; the message says why and, in several lines, where."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own attribute, refilled below)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, once it is known to be within the limits."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML does not annotate it
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refusal("anchors (&) and aliases (*) are not allowed; quote the text, or write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal("tags (!) are not allowed; quote the text", event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES:,} values", event)
        if self._depth >= MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} levels deep", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are different texts."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != STR:
                raise _refusal("a key is not text; quote it", key)
            if key.value in seen:
                raise _refusal(f"'{key.value}' is set twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: Any) -> Any:
        """A text that file names and UTF-8 can hold."""
        if isinstance(node, yaml.ScalarNode) and LOST.search(node.value):
            raise _refusal("a text contains NUL or half a surrogate pair", node)
        return super().construct_scalar(node)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that a YAML reader may take for something else, and writes every value out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver(NULL, re.compile("$"), [""])


def parse(text: str) -> Any:
    """The value of a YAML text: mappings, lists, texts, numbers, booleans and None.

    >>> parse("{learning_rate: 1e-5, run_name: 2026-01-02, limit: null}")
    {'learning_rate': 1e-05, 'run_name': '2026-01-02', 'limit': None}

    Raises:
        YamlError: the text is no such YAML, or exceeds `MAX_NODES` or `MAX_DEPTH`.
    """
    several = "\n" in text.strip()
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        problem, mark = error.problem or "", error.problem_mark
        why = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        raise YamlError(f"line {mark.line + 1}: {why}" if several and mark else why) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: the character U+{ord(text[error.position]):04X} is not allowed") from error
    except (ValueError, OverflowError) as error:  # the escape \UFFFFFFFF, or %YAML with thousands of digits
        raise YamlError(str(error)) from error
    finally:
        if loader is not None:
            loader.dispose()


def read(path: Path) -> Any:
    """The value of a YAML file in UTF-8.

    Raises:
        YamlError: as `parse`, or it is no UTF-8, or larger than `MAX_BYTES`; OSError: it can't be read, or is no file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES // 1024} KiB, the limit for a configuration")
    try:
        return parse(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise YamlError(f"line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error


def dump(value: Any) -> str:
    """YAML that `parse` reads back as the same value, in the order of its keys."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def _refusal(why: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=where.start_mark)
