"""A report read as a browser would: its text, tables, links and what its scripts are given."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

from src.sweeps.report.write import load_sweeps, write_report
from tests.sweeps import made_job

VOID = {"meta", "img", "input", "br"}


class Element(NamedTuple):
    """A link or a picture: its tag, its attributes."""

    tag: str
    attributes: dict[str, str]


class Page(HTMLParser):
    """What a page shows and does.

    Attributes:
        text: all that can be read, blanks as one.
        rows: the cells of each table's rows.
        elements: links and pictures.
        data: what lies in its JSON scripts.
        scripts: what lies in the other scripts.
        sections: by their id, what can be read in them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.rows: list[list[str]] = []
        self.data: list[Any] = []
        self.scripts: list[str] = []
        self.sections: dict[str, str] = {}
        self.open: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        assert not self.open, "each element is closed"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script":
            json_inside = attributes.get("type") == "application/json"
            (self.data.append(json.loads(data)) if json_inside else self.scripts.append(data))
            return
        if tag == "style":
            return
        self.texts.append(data)
        if any(each[0] in ("td", "th") for each in self.open):
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())
        for name in [each[1].get("id", "") for each in self.open if each[0] == "section"]:
            self.sections[name] = " ".join(f"{self.sections.get(name, '')} {data}".split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of the elements with a tag."""
        return [element.attributes for element in self.elements if element.tag == tag]

    @property
    def links(self) -> list[str]:
        """Where links lead, those within the page and files to take away left out."""
        return [each["href"] for each in self.all("a") if not each["href"].startswith(("#", "data:"))]

    @property
    def curves(self) -> dict[str, Any]:
        """What the learning curves are drawn from."""
        (found,) = [each for each in self.data if "runs" in each]
        return found

    def figures(self, kind: str) -> dict[str, dict[str, Any]]:
        """The plots whose last trace is of a kind, by the titles of their axes: "lr / val/acc"."""
        found = {}
        for figure in self.data:
            if "layout" in figure and figure["data"][-1]["type"] == kind:
                x, y = [figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
                found[f"{x} / {y}"] = figure
        return found


def read_report(*folders: Path) -> Page:
    """The report of sweeps, written and read."""
    return Page(write_report(load_sweeps(list(folders))))


NASTY = "<b>a</b> & </script><script>alert('x')</script> %{x}"


def make_accuracy_job(
    sweep: Path, name: str, *overrides: str, val: float | None = None, test: float = 0.5, **more: Any
) -> Path:
    """A job that is chosen by its validation accuracy."""
    metrics = None if val is None else {"val/acc": val, "test/acc": test, "monitor": "val/acc", "mode": "max"}
    return made_job(sweep, name, *overrides, metrics=metrics, **more)


def epochs(*losses: float) -> list[dict[str, float]]:
    """A history with these validation losses."""
    return [{"epoch": epoch, "val/loss": loss, "train/loss": loss / 2} for epoch, loss in enumerate(losses, start=1)]
