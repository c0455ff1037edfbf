"""README.md and docs/ agree with the code: links resolve, quoted messages exist, some words do not occur."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(path for path in ROOT.glob("*.md") if path.name != "LOG.md"), *sorted((ROOT / "docs").rglob("*.md"))]
# Words that made native readers stop; each has a plain substitute.
BANNED = ("mend(s|ed)?", "anew", "upon", "so many", "nobody typed", "the house", "seed paper", "is told")
BANNED += ("as far as it goes",)


def _heading_anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _heading_anchors(target.read_text()), link


def _messages(source: str) -> Iterator[str]:
    """Patterns of the strings of a module, with a wildcard for each value that an f-string fills in."""
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        fixed = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
        if sum(len(text) for text in fixed if text) >= 8:
            yield "".join(".+" if text is None else re.escape(text.strip()) for text in fixed).strip()


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    known = {text for path in (ROOT / "emgscribe").rglob("*.py") for text in _messages(path.read_text())}
    quoted = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) > 40
    missing = [message for message in quoted if not any(re.fullmatch(text, message) for text in known)]
    assert not missing, missing


def _prose() -> dict[Path, str]:
    code = [*(ROOT / "emgscribe").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    prose = {path: path.read_text() for path in (*PAGES, *code)}
    for path in (ROOT / "tests").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        documented = (node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
        prose[path] = "\n".join(filter(None, map(ast.get_docstring, documented)))
    return prose


@pytest.mark.parametrize("words", BANNED)
def test_banned_words_do_not_occur(words: str) -> None:
    pattern = re.compile(rf"\b{words}\b".replace(" ", r"\s+(?:#\s+)?"), re.IGNORECASE)
    found = [str(path.relative_to(ROOT)) for path, text in _prose().items() if pattern.search(text)]
    assert not found, f"{words!r} in {found}"


def test_glossary_is_alphabetical() -> None:
    entries = re.findall(r"^\*\*(.+?)\.\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len(entries) > 60
    assert entries == sorted(entries, key=str.casefold)
