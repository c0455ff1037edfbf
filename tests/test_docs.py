"""README.md and docs/ agree with the code: links resolve, quoted messages exist, and the English keeps to some rules."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Words that made native readers stop; each has a plain substitute.
BANNED = ("mend", "mends", "mended", "anew", "upon", "so many", "nobody typed", "the house", "seed paper", "is told")
BANNED += ("as far as it goes",)


def _heading_anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _heading_anchors(target.read_text()), link


def _texts(source: str) -> set[str]:
    """Every string of a module, with … for each value that an f-string fills in."""
    texts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            texts.add("".join(map(str, parts)))
    return texts


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    texts = set().union(*(_texts(path.read_text()) for path in (ROOT / "emgscribe").rglob("*.py")))
    page = (ROOT / "docs/troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(messages) > 30
    missing = [message for message in messages if not any(message in text for text in texts)]
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
