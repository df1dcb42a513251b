"""Hooks of the documentation's site: pages from outside docs/, and a page for each file of the repository they link to.

The same Markdown is read in the repository, where `../examples/accelerate/ddp.yaml` is a file, and on the site, where a
page shows that file. Links are rewritten accordingly; one that leads nowhere fails the strict build.
"""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
DOCS = "docs"
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/add_a_strategy/README.md",
    "examples/embedded/README.md",
    "examples/paper/README.md",
)
"""Pages of the site that live outside docs/; they keep their path."""
SOURCES = "source"
"""Where the site shows files of the repository."""
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
CODE = re.compile(r"^( *)(`{3,}).*?^\1\2$", re.MULTILINE | re.DOTALL)
LANGUAGES = {
    ".cff": "yaml", ".md": "markdown", ".py": "python", ".sbatch": "bash", ".sh": "bash", ".toml": "toml",
    ".yaml": "yaml",
}  # fmt: skip
INLINE_CODE = re.compile(r"(?<=<code>)[^<\n]+(?=</code>)")
SHELL_CODE = re.compile(r'(?<=<div class="language-sh).*?(?=</div>)', re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
WHOLE = 26
"""Words in code of up to so many characters move to the next line rather than break at a hyphen."""
HIDDEN = "---\nsearch:\n  exclude: true\n---\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from elsewhere, then the files and folders that pages link to."""
    for page in PAGES:
        files.append(File.generated(config, page, content=(ROOT / page).read_text(encoding="utf-8")))
    for path in sorted(set(_linked(files))):
        content = HIDDEN + _shown(ROOT / path)
        files.append(File.generated(config, _source_page(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links that leave docs/ to their page on the site."""
    place = page.file.src_uri

    def rewritten(link: re.Match[str]) -> str:
        return relpath(_on_site(_path(place, link[0])), dirname(place) or ".")

    return "".join(part if CODE.fullmatch(part) else LINK.sub(rewritten, part) for part in _parts(markdown))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Break lines of code at spaces, and long words after dots and the like (assets/site.css)."""
    html = INLINE_CODE.sub(lambda code: " ".join(map(_breakable, code[0].split(" "))), html)
    return SHELL_CODE.sub(lambda block: FLAG.sub(lambda flag: _breakable(flag[0]), block[0]), html)


def _breakable(word: str) -> str:
    if len(word) <= WHOLE:
        return f'<span class="whole">{word}</span>'
    return re.sub(r"(?<=[._/=])(?=[^._/=])", "<wbr>", word)


def _parts(markdown: str) -> list[str]:
    """The text cut before and after each fenced block."""
    cuts = [0, *(cut for block in CODE.finditer(markdown) for cut in block.span()), len(markdown)]
    return [markdown[start:end] for start, end in pairwise(cuts)]


def _linked(files: Files) -> list[str]:
    """Paths in the repository that pages link to and that are no pages themselves."""
    paths = [
        _path(file.src_uri, link[0])
        for file in files.documentation_pages()
        for part in _parts(file.content_string)
        if not CODE.fullmatch(part)
        for link in LINK.finditer(part)
    ]
    return [path for path in paths if not _is_own(path) and path not in PAGES and (ROOT / path).exists()]


def _path(place: str, link: str) -> str:
    """A link's target as a path in the repository; `place` is the page on the site."""
    if place.startswith(f"{SOURCES}/"):  # a notebook's links are its own
        home = place.removeprefix(f"{SOURCES}/")
    else:
        home = place if place in PAGES else join(DOCS, place)
    return normpath(join(dirname(home), link))


def _is_own(path: str) -> bool:
    return path.startswith(f"{DOCS}/")


def _on_site(path: str) -> str:
    if _is_own(path):
        return relpath(path, DOCS)
    return path if path in PAGES else _source_page(path)


def _source_page(path: str) -> str:
    return f"{SOURCES}/{path}.md"


def _shown(path: Path) -> str:
    """A file, or all files of a folder, as Markdown."""
    title = f"# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_file():
        return title + _file(path)
    inner = [entry for entry in sorted(path.iterdir()) if entry.suffix in LANGUAGES]
    return title + "\n\n".join(f"## {entry.name}\n\n{_file(entry)}" for entry in inner)


def _file(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return _fenced(text, LANGUAGES.get(path.suffix, "text"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(_fenced(source, "python") if kind == "code" else source for kind, source in cells)


def _fenced(text: str, language: str) -> str:
    return f"``````{language}\n{text.rstrip(os.linesep)}\n``````"
