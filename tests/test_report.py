"""The report page: every number of front.json is on it, and nothing outside it is needed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fixtures_science import OBJECTIVES, REFERENCE, candidates, front_json
from mergefront.plots import front_figure, history_figure, save
from mergefront.report import Figure, write_report

FOUND = candidates(30)
FRONT = front_json(FOUND)
VOID = {"meta", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Collects tables, text, links and ids, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if key.endswith("href") or key == "src":
                self.links.append(str(value))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag != "meta":
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[Figure]:
    folder = tmp_path_factory.mktemp("plots")
    save(front_figure(FRONT, FOUND, sampler="como-cma"), folder, "front")
    save(history_figure(FOUND, OBJECTIVES, REFERENCE), folder, "history")
    names = ("front", "history", "missing")
    return [Figure(folder / f"{name}.svg", f"Picture of <{name}>") for name in names]


def page(tmp_path: Path, front: dict[str, Any], **more: Any) -> Page:
    path = write_report(tmp_path / "report.html", front, **more)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_stands_alone(tmp_path: Path, figures: list[Figure]) -> None:
    found = page(tmp_path, FRONT, figures=figures, config="a: <1>", manifest={"seed": 3})
    text = (tmp_path / "report.html").read_text()
    assert all(link.startswith("#") for link in found.links)
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert not re.search(r"<script|@import|url\((?!#)", text)
    assert text.count("<svg") == 2
    assert "Picture of <front>" in found.text
    assert "missing" not in found.text
    assert "a: <1>" in found.text
    assert '"seed": 3' in found.text


def test_members_and_picks_have_their_scores_gains_and_verdicts(tmp_path: Path) -> None:
    rows = page(tmp_path, FRONT).rows
    for member in FRONT["members"]:
        label = f"{member['number']} {', '.join(member['picks'])}".strip()
        row, answered = [r for r in rows if r[0] == label]
        assert answered[1:7] == ["1.3", "4.0", "2.5"] * 2
        unseen = ["25.0 [21.0, 29.5]", "+4.0 [-1.0, +9.0]"] if member["picks"] else ["", ""]
        assert answered[7:] == unseen
        for column, name in enumerate(OBJECTIVES):
            gain = member["gain"][name]
            assert row[2 + 2 * column].startswith(f"{100 * member['validation'][name]['mean']:.1f}")
            assert row[3 + 2 * column] == (
                f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
            )
        chances = [member["gain"]["reasoning"][key] for key in ("p", "p_holm")]
        assert row[-3:-1] == ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in chances]
        assert row[-1].startswith(member["verdict"])
        assert row[-1].removeprefix(member["verdict"]).strip(" ()") == member["holds"]
        knob = "arithmetic.a.k0"
        (knobs,) = [r for r in rows if r[0] == knob]
        assert f"{member['knobs'][knob]:.3f}" in knobs
    picked = [m for m in FRONT["members"] if m["picks"]]
    tested = [
        r for r in rows if any(r[0] == f"{', '.join(m['picks'])} ({m['number']})" for m in picked)
    ]
    assert len(tested) == len(picked) >= 2
    assert [r[0] for r in rows].count("receiver") == 3


def test_what_a_run_may_lack_is_left_out(tmp_path: Path) -> None:
    members = [{**m, "test": None, "test_gain": None} for m in FRONT["members"]]
    bare = {
        **FRONT,
        "members": members,
        "receiver": {**FRONT["receiver"], "test": None},
        "hypervolume": {"search": 0.0, "validation": None},
        "messages": ["Nothing beats the receiver."],
        "seconds": {},
    }
    found = page(tmp_path, bare)
    assert "on test items" not in found.text.split("What the numbers mean")[0]
    assert "Nothing beats the receiver." in found.text
    assert page(tmp_path, {**bare, "members": []}).rows


def test_definitions_say_what_was_used(tmp_path: Path) -> None:
    text = page(tmp_path, {**FRONT, "guards": {"perception": 0.035}}).text
    assert "reasoning 26.0 %, perception 74.4 %" in text
    assert "the loss of perception is at most 3.5 points" in text


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    evil = {**FRONT, "run": "<img src=x>", "messages": ["<script>1</script>"]}
    found = page(tmp_path, evil)
    assert "<script>1</script>" in found.text
    assert "<img" not in (tmp_path / "report.html").read_text()
