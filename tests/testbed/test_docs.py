"""The documentation names files, headings and commands that exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
FOLDERS = ("testbed", "clients", "server", "tests", "benchmarks", "scenarios", "docs")
FILE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w(?:/|\b)")
COMMAND = re.compile(r"python -m ((?:testbed|clients|server)(?:\.\w+)*)")


def relative_to_root(path):
    return str(path.relative_to(ROOT))


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative_to_root)
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=relative_to_root)
def test_paths_of_the_project_exist(page):
    for path in FILE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=relative_to_root)
def test_commands_exist(page):
    for module in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(module) is not None, module


def test_every_page_is_in_the_table_of_contents():
    listed = {target for target, _ in LINK.findall((DOCS / "README.md").read_text("utf-8"))}
    for page in DOCS.rglob("*.md"):
        assert page.name == "README.md" or str(page.relative_to(DOCS)) in listed, page


def test_contributing_lists_every_folder_in_order():
    from .test_structure import FOLDERS

    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = [guide.find(f"| `{folder}/`") for folder in FOLDERS]
    assert -1 not in places, dict(zip(FOLDERS, places, strict=True))
    assert places == sorted(places)
