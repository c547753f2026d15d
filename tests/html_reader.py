"""Parses a page: tables with the numbers of their cells, and all attributes."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self._table: list[list[tuple[str, float | None]]] | None = None
        self._cell: tuple[str, float | None] | None = None
        self._small = 0
        self.feed(text)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if given.get("id"):
            assert given["id"] not in self.ids, f"id {given['id']} twice"
            self.ids.add(given["id"] or "")
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(given.get("id") or "", [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th"):
            value = given.get("data-value")
            self._cell = ("", float(value) if value is not None else None)
        elif tag == "small":
            self._small += 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1:] == [tag], f"</{tag}> closes nothing"
        self._open.pop()
        if tag in ("td", "th") and self._table is not None and self._cell is not None:
            self._table[-1].append(self._cell)
            self._cell = None
        elif tag == "table":
            self._table = None
        elif tag == "small":
            self._small -= 1

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if self._cell is not None and not self._small:
            self._cell = (self._cell[0] + data, self._cell[1])

    def row(self, table: str, label: str) -> list[tuple[str, float | None]]:
        """Return the cells after the label of the first row with this label."""
        return next(row[1:] for row in self.tables[table] if row[0][0] == label)


def self_contained(text: str) -> Page:
    """Check that a page runs no script and refers to nothing outside itself; return it."""
    page = Page(text)
    assert not {"script", "link"} & page.tags
    for tag, name, value in page.attributes:
        if name in ("src", "srcset", "data", "action", "poster"):
            assert value.startswith("data:image/png;base64,"), f"<{tag} {name}={value[:60]}>"
        elif name == "href":
            assert value.startswith("#")
            assert value[1:] in page.ids
        assert not name.startswith("on")
    assert not re.search(r"url\(|@import", text)
    return page
