"""README.md and docs/ agree with the code: links resolve, quoted messages exist, some words do not occur."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from emgscribe.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(path for path in ROOT.glob("*.md") if path.name != "LOG.md"), *sorted((ROOT / "docs").rglob("*.md"))]
# Words that made native readers stop; each has a plain substitute.
BANNED = ("mend(s|ed)?", "anew", "upon", "so many", "nobody typed", "the house", "seed paper", "is told")
BANNED += ("as far as it goes", "whoever", "by heart", "gone on")


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


def test_the_site_is_built_without_a_warning_and_has_every_page(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    front = (tmp_path / "site" / "index.html").read_text()
    search = json.loads((tmp_path / "site" / "search.json").read_text())
    found = {item["location"].partition("#")[0] for item in search["items"]}
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in PAGES if path.is_relative_to(ROOT / "docs")]
    for page in pages:
        place = "" if page.name == "index" else f"{page.parent if page.name == 'README' else page}/"
        assert place in found
        assert not place or f'href="./{place}"' in front, f"{page} is not in the navigation of zensical.toml"


def _messages(source: str) -> Iterator[re.Pattern[str]]:
    """Patterns of the strings of a module, with a wildcard for each value that an f-string fills in."""
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        fixed = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
        if sum(len(text) for text in fixed if text) >= 8:
            yield re.compile("".join(".+" if text is None else re.escape(text.strip()) for text in fixed).strip())


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    known = {text for path in (ROOT / "emgscribe").rglob("*.py") for text in _messages(path.read_text())}
    quoted = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) > 40
    missing = [message for message in quoted if not any(text.fullmatch(message) for text in known)]
    assert not missing, missing


@cache
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


def _commands() -> set[tuple[str, frozenset[str]]]:
    """The verb and the options of each command line in the pages."""
    found = set()
    pages = [page.read_text() for page in PAGES if page.name != "CHANGELOG.md"]  # it names commands of earlier versions
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        pages += ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    for page in pages:
        text = re.sub(r"\\\n *", " ", page)
        blocks = re.findall(r"^```(?:sh|text)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            for command in re.findall(r"(?:^|\| )emgscribe ((?:(?:lm|data) )?[a-z]+)(?: ([^|]*))?", line):
                found.add((command[0], frozenset(re.findall(r"(?<!\S)--([a-z][a-z.-]*)", command[1]))))
    return found


def test_commands_in_the_pages_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = _commands()
    assert len(commands) > 40
    for verb in {verb for verb, _ in commands}:
        words = [*verb.split(), *(["baseline"] if verb in ("train", "tune") else [])]
        assert main([*words, "--help"]) == 0
        known = set(re.findall(r"--([a-z][a-z.-]*)", capsys.readouterr().out))
        used = {option for other, options in commands if other == verb for option in options}
        assert used <= known | {"help", "version"}, (verb, used - known)


def _kinds_sent() -> set[str]:
    """The kinds of all messages that the live server makes."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "emgscribe" / "live").glob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "message"]
    kinds = [call.args[0] for call in made]
    assert all(isinstance(kind, ast.Constant) for kind in kinds), "a kind that only the running program knows"
    return {kind.value for kind in kinds}


def test_the_page_about_live_lists_every_message() -> None:
    section = (ROOT / "docs" / "live.md").read_text().partition("## Messages")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == _kinds_sent()
