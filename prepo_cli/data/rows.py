"""Parse the rows of JSONL, JSON and CSV files under limits, one at a time.

Nothing that a file holds can exhaust memory or the stack, and no number that may be an answer or an id passes through a
float: the columns named as text keep the digits that the file has. A row that breaks a rule is passed on with the
reason, and reading goes on behind it.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import Any, BinaryIO, NoReturn

from prepo_cli.text import brief

MAX_DEPTH = 64
MAX_ROW_BYTES = 16 * 2**20
NUMERIC_COLUMNS = (
    *("difficulty", "rank", "ppl", "ppl_tokens"),
    *("pass_rate", "pass_rate_low", "pass_rate_high", "pass_k", "pass_length"),
)
"""The columns of a CSV file that hold numbers; all others hold text."""
NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*")
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TOO_LONG = f"longer than {MAX_ROW_BYTES // 2**20} MB"
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


class BadRow(ValueError):
    """Why a row can't be used."""


class Unreadable(ValueError):
    """Why nothing behind this place in a file can be read."""


Row = tuple[int, int, dict[str, Any] | BadRow]
"""The number of a row or line, its size in bytes, and its cells or what is wrong with it."""


class _Number(str):
    """A JSON number as the file writes it."""


def _refuse_constant(name: str) -> NoReturn:
    raise BadRow(f"{name} is not a JSON value; write null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        raise BadRow(f"the key '{_repeated(name for name, _ in pairs)}' occurs twice")
    return cells


_DECODER = json.JSONDecoder(
    parse_float=_Number, parse_int=_Number, parse_constant=_refuse_constant, object_pairs_hook=_object
)
_SKIPPER = json.JSONDecoder(parse_float=str, parse_int=str)


def json_lines(file: BinaryIO, text: Set[str]) -> Iterator[Row]:
    """The rows of a JSONL file, numbered by line; blank lines are passed over.

    Args:
        file: at its start.
        text: the columns whose numbers are kept as text, nested ones as `column.field`.
    """
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_ROW_BYTES)
            yield number, 0, BadRow(_TOO_LONG)
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        size = len(line)
        line = line.strip()
        if not line:
            continue
        try:
            yield number, size, _json_row(line.decode(), text)
        except UnicodeDecodeError as error:
            yield number, size, BadRow(f"invalid UTF-8 at byte {error.start + 1}")
        except BadRow as fault:
            yield number, size, fault


def json_items(file: BinaryIO, text: Set[str]) -> Iterator[Row]:
    """The rows of a JSON file that holds one array of objects, numbered from 1; `text` as for `json_lines`.

    Raises:
        Unreadable: a mistake from which no next item can be found.
    """
    stream = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    buffer, ended, number = stream.read(2 * MAX_ROW_BYTES), False, 0
    at = _after_space(buffer, 0) + 1  # behind the opening bracket
    while True:
        if len(buffer) - at < MAX_ROW_BYTES and not ended:
            more = stream.read(2 * MAX_ROW_BYTES)
            buffer, at, ended = buffer[at:] + more, 0, not more
        at = _after_space(buffer, at)
        sign = buffer[at : at + 1]
        if sign == "]":
            break
        if number and sign != ",":
            raise Unreadable(f"a comma or the end of the array is missing after row {number}")
        start = _after_space(buffer, at + bool(number))
        number += 1
        value, at = _item(buffer, start, number)
        try:
            if at - start > MAX_ROW_BYTES:
                raise BadRow(_TOO_LONG)
            if isinstance(value, BadRow):
                raise value
            _refuse_invalid([buffer[start:at]], "the row")
            yield number, at - start, _cells(value, buffer[start:at], text)
        except BadRow as fault:
            yield number, at - start, fault
    if buffer[_after_space(buffer, at + 1) :]:
        raise Unreadable(f"extra text after the end of the array, at row {number}")


def _item(buffer: str, start: int, number: int) -> tuple[Any, int]:
    """The value that starts there, or what is wrong with it, and where it ends."""
    try:
        return _DECODER.raw_decode(buffer, start)
    except BadRow as fault:
        return fault, _SKIPPER.raw_decode(buffer, start)[1]
    except RecursionError:
        raise Unreadable(f"row {number} is {_TOO_DEEP}") from None
    except json.JSONDecodeError as error:
        reason = _TOO_LONG if error.pos - start >= MAX_ROW_BYTES else error.msg
        raise Unreadable(f"row {number}: {reason}") from None


def csv_rows(file: BinaryIO, text: Set[str]) -> Iterator[Row]:
    """The rows of a CSV file with a header, numbered from 1; empty cells are None, and all but NUMERIC_COLUMNS text.

    Raises:
        Unreadable: the header is missing or names a column twice, or a line is too long.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(_lines(file), strict=True)
    names = _header(reader)
    numeric = [i for i, name in enumerate(names) if name in NUMERIC_COLUMNS and name not in text]
    number = 0
    while True:
        try:
            cells: list[Any] | None = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            number += 1
            if len(cells) != len(names):
                raise BadRow(f"{len(cells)} cells, but the header has {len(names)}")
            if not all(map(str.isascii, cells)):
                _refuse_invalid(cells, "a cell")
        except csv.Error as error:
            number += 1
            yield number, 0, BadRow(_csv_fault(error))
        except BadRow as fault:
            yield number, 0, fault
        else:
            size = sum(map(len, cells))
            for i in numeric:
                cells[i] = _number_or_text(cells[i])
            yield number, size, {name: None if cell == "" else cell for name, cell in zip(names, cells, strict=True)}


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names of a CSV file's columns; none in an empty file."""
    try:
        header = next(filter(None, reader), [])
    except csv.Error as error:
        raise Unreadable(f"the header: {_csv_fault(error)}") from None
    _refuse_invalid(header, "the header")
    names = [name or f"column_{i}" for i, name in enumerate(header, 1)]
    if len(set(names)) < len(names):
        raise Unreadable(f"the header has the column '{_repeated(names)}' twice")
    return names


def _csv_fault(error: csv.Error) -> str:
    """What is wrong with a line, as its writer would say it."""
    text = str(error)
    return "a carriage return without a line feed outside quotes" if text.startswith("new-line character") else text


def _lines(file: BinaryIO) -> Iterator[str]:
    """Lines with their ends; bytes that are not UTF-8 become surrogates, which `_refuse_invalid` finds."""
    first = True
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            raise Unreadable(f"a line is {_TOO_LONG}")
        yield (line.removeprefix(codecs.BOM_UTF8) if first else line).decode("utf-8", "surrogateescape")
        first = False


def _repeated(names: Iterable[str]) -> str:
    return brief(Counter(names).most_common(1)[0][0])


def _refuse_invalid(texts: list[str], what: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadRow(f"{what} is not valid UTF-8") from None


def _number_or_text(cell: str) -> Any:
    if not NUMBER.fullmatch(cell):
        return cell
    return int(cell) if cell.isdecimal() and len(cell) < 19 else float(cell)


def _after_space(buffer: str, at: int) -> int:
    found = _SPACE.match(buffer, at)
    return at if found is None else found.end()


def _json_row(line: str, text: Set[str]) -> dict[str, Any]:
    try:
        value, end = _DECODER.raw_decode(line)
    except RecursionError:
        raise BadRow(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise BadRow(f"{error.msg.removesuffix(' at')} at column {error.colno}") from None
    if end < len(line):
        raise BadRow(f"extra text after the object, at column {end + 1}")
    return _cells(value, line, text)


def _cells(value: Any, source: str, text: Set[str]) -> dict[str, Any]:
    if type(value) is not dict:
        raise BadRow("not a JSON object")
    if not value:
        raise BadRow("an empty object")
    if "\\u" in source and _SURROGATE.search(source):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise BadRow("it contains half of a surrogate pair, which is not a character") from None
    return {
        name: cell if type(cell) is str or cell is None else _plain(cell, name, text, 1) for name, cell in value.items()
    }


def _plain(value: Any, name: str, text: Set[str], depth: int) -> Any:
    """The value with its numbers as numbers, or in text columns as text."""
    if isinstance(value, _Number):
        return _as_text(value) if name in text else _as_number(value, name)
    if not isinstance(value, dict | list):
        return value
    if depth > MAX_DEPTH:
        raise BadRow(_TOO_DEEP)
    if isinstance(value, list):
        return [_plain(item, name, text, depth + 1) for item in value]
    return {key: _plain(item, f"{name}.{key}", text, depth + 1) for key, item in value.items()}


def _as_text(number: str) -> str:
    """The digits as written, except that a whole number loses its zeros after the point.

    >>> _as_text("27.0"), _as_text("1.50"), _as_text("9007199254740993.0")
    ('27', '1.50', '9007199254740993')
    """
    whole, point, zeros = number.partition(".")
    return whole if point and not zeros.strip("0") else str(number)


def _as_number(number: str, name: str) -> int | float:
    if number.lstrip("-").isdecimal():
        # Twenty characters are a sign and the nineteen digits of the largest integer of 64 bits.
        value = int(number) if len(number) <= 20 else math.inf
        if not -(2**63) <= value < 2**63:
            raise BadRow(f"the number in '{brief(name)}' does not fit in 64 bits; write it as text")
        return value
    value = float(number)
    if math.isinf(value):
        raise BadRow(f"the number in '{brief(name)}' does not fit in a float; write it as text")
    return value
