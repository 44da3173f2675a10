"""The report page: every number of front.json is on it, and nothing outside it is needed.

And the same front printed, and on a model card.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fixtures_science import OBJECTIVES, REFERENCE, candidates, front_json, raced_candidates
from mergefront.cli.display import print_front
from mergefront.jobs.card import model_card
from mergefront.merging.recipe import Recipe
from mergefront.models.locate import ModelNames
from mergefront.runs.front import Front, UnvalidatedCandidate
from mergefront.runs.plots import front_figure, history_figure, save
from mergefront.runs.report import ReportPicture, write_report

CANDIDATES = candidates(30)
FRONT = front_json(CANDIDATES)
RACED = front_json(raced_candidates())
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
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

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
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[ReportPicture]:
    folder = tmp_path_factory.mktemp("plots")
    save(front_figure(Front.from_dict(FRONT), CANDIDATES), folder, "front")
    save(history_figure(CANDIDATES, OBJECTIVES, REFERENCE), folder, "history")
    names = ("front", "history", "missing")
    return [ReportPicture(folder / f"{name}.svg", f"Picture of <{name}>") for name in names]


def page(tmp_path: Path, front: dict[str, Any], **more: Any) -> Page:
    path = write_report(tmp_path / "report.html", Front.from_dict(front), **more)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_stands_alone(tmp_path: Path, pictures: list[ReportPicture]) -> None:
    document = page(tmp_path, FRONT, pictures=pictures, config="a: <1>", manifest={"seed": 3})
    text = (tmp_path / "report.html").read_text()
    assert all(link.startswith("#") for link in document.links)
    assert {link[1:] for link in document.links} <= set(document.ids)
    assert len(document.ids) == len(set(document.ids))
    assert not re.search(r"<script|@import|url\((?!#)", text)
    assert text.count("<svg") == 2
    assert "Picture of <front>" in document.text
    assert "missing" not in document.text
    assert "a: <1>" in document.text
    assert '"seed": 3' in document.text


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


def percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['mean']:.1f} ± {100 * estimate['se']:.1f}"


def unchosen(front: dict[str, Any], why: str) -> dict[str, Any]:
    """A run in which the scores chose."""
    checks = {k: {**v, "misfit": True} for k, v in front["belief"]["calibration"].items()}
    belief = {**front["belief"], "by_model": False, "why": why, "calibration": checks}
    return {**front, "belief": belief}


def test_members_are_followed_from_the_search_to_the_test(tmp_path: Path) -> None:
    document = page(tmp_path, RACED)
    assert "The model chose the members" in document.text
    part = 0
    for member in RACED["members"]:
        label = f"#{member['number']} {', '.join(member['picks'])}".strip()
        (row,) = [r for r in document.rows if r[0] == label]
        for column, name in enumerate(OBJECTIVES):
            searched, *later = row[1 + 4 * column : 5 + 4 * column]
            assert searched.startswith(percent(member["search"][name]))
            if member["search"][name]["partial"] > 0:
                assert searched.endswith(f"({member['search'][name]['n']} items)")
                part += 1
            steps = (member["believed"], member["validation"], member["test"])
            assert later == [percent(scores[name]) if scores else "" for scores in steps]
    assert part
    for name, check in RACED["belief"]["calibration"].items():
        (row,) = [r for r in document.rows if r[0] == name]
        assert row[1:4] == [
            str(check["n"]), f"{100 * check['within_95']:.1f}", f"{check['mean_square']:.2f}"
        ]  # fmt: skip
        assert row[-1] == "may be believed"


def test_a_model_that_is_not_believed_is_said_in_a_sentence(tmp_path: Path) -> None:
    document = page(tmp_path, unchosen(RACED, "the model misjudges perception"))
    assert (
        "The scores chose the members, not the model: the model misjudges perception."
        in document.text
    )
    assert [cell for row in document.rows for cell in row if cell.startswith("reasoning: ")][
        -3:-1
    ] == ["reasoning: search", "reasoning: validation"]
    assert [r[-1] for r in document.rows].count("misfit: not believed") == 2


def test_the_race_says_what_it_saved_and_how_often_it_was_wrong(tmp_path: Path) -> None:
    document, race = page(tmp_path, RACED), RACED["race"]
    assert f"answered {100 * race['items']:.0f} % of the items, in" in document.text
    for why, number in race["left"].items():
        (row,) = [r for r in document.rows if r[0].startswith(f"{why}: ")]
        assert row[1:] == [str(number), str(list(race["spared"].values()).count(why))]
    behind = [int(n) for n, why in race["spared"].items() if why == "behind"]
    for front, wrong in (([], 0), (behind[:2], 2)):
        belief = {**RACED["belief"], "front": front}
        text = page(tmp_path, {**RACED, "belief": belief}).text
        assert f"{len(behind)} of them would have left as behind or collapsed; {wrong} of" in text
        assert f"wrong {100 * wrong / len(behind):.0f} % of the time" in text
    unchecked = {**RACED, "race": {**race, "spared": {"31": "known"}}}
    assert "nothing is known of the rule's errors" in page(tmp_path, unchecked).text
    assert "each on up to 300 search items" in document.text


def test_a_run_in_which_nobody_left_says_nothing_of_the_race(tmp_path: Path) -> None:
    assert FRONT["race"]["items"] == 1.0
    assert "The race" not in page(tmp_path, FRONT).text
    assert "The race" not in page(tmp_path, {**FRONT, "race": {}}).text


def test_checks_stand_in_their_sections(tmp_path: Path, pictures: list[ReportPicture]) -> None:
    svg = pictures[0].svg.read_text()
    for stem in ("calibration", "race"):
        (tmp_path / f"{stem}.svg").write_text(svg)
    checks = [
        ReportPicture(tmp_path / f"{stem}.svg", f"<{stem}>") for stem in ("calibration", "race")
    ]
    text = page(tmp_path, RACED, pictures=[*pictures, *checks]).text
    order = ["Picture of <front>", "The front, on", "How the members were chosen", "<calibration>",
             "The race", "<race>", "Picture of <history>"]  # fmt: skip
    assert sorted(order, key=text.index) == order


def test_a_front_is_printed_with_who_chose_it(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(front: dict[str, Any]) -> str:
        print_front(Front.from_dict(front))
        return capsys.readouterr().out

    by_model = printed(RACED)
    member = RACED["members"][0]
    cells = [percent(member[s][n]) for n in OBJECTIVES for s in ("search", "believed")]
    assert [str(member["number"]), *cells] in [
        re.split(r"\s{2,}", line.strip()) for line in by_model.splitlines()
    ]
    used = 100 * RACED["race"]["items"]
    assert f"race: {used:.0f} % of the items asked" in by_model
    by_scores = printed(unchosen(FRONT, "the model misjudges perception"))
    assert "chosen by scores on search items: the model misjudges perception" in by_scores
    assert "believed" not in by_scores
    assert "race:" not in by_scores


def test_a_card_says_by_what_the_model_was_chosen() -> None:
    recipe = Recipe("task_arithmetic", ModelNames(receiver="zoo:vlm", donors={}), {}, {})
    member = RACED["members"][0]

    def card(front: dict[str, Any]) -> str:
        typed = Front.from_dict(front)
        return model_card(recipe, {}, typed, typed.members[0])

    believed = ", ".join(f"{n} {percent(member['believed'][n])}" for n in OBJECTIVES)
    assert f"scores on search items believes of it ({believed})" in card(RACED)
    assert "by its scores on search items, not by a model" in card(unchosen(RACED, "too few"))
    front = Front.from_dict(RACED)
    for partial, early in ((0.01, True), (0.0, False)):
        search = {n: replace(e, partial=partial) for n, e in front.members[0].search.items()}
        lone = UnvalidatedCandidate(13, search)
        assert ("(it left early)" in model_card(recipe, {}, front, lone)) == early


def test_what_a_run_may_lack_is_left_out(tmp_path: Path) -> None:
    members = [{**m, "test": None, "test_gain": None} for m in FRONT["members"]]
    bare = {
        **FRONT,
        "members": members,
        "messages": ["Nothing beats the receiver."],
        "seconds": {},
    }
    document = page(tmp_path, bare)
    assert "The picks, on test items" not in document.text
    assert "Nothing beats the receiver." in document.text
    assert page(tmp_path, {**bare, "members": []}).rows


def test_definitions_say_what_was_used(tmp_path: Path) -> None:
    text = page(tmp_path, {**FRONT, "guards": {"perception": 0.035}}).text
    assert "reasoning 26.0 %, perception 74.4 %" in text
    assert "the loss of perception is at most 3.5 points" in text


def test_markup_in_names_is_text(tmp_path: Path, pictures: list[ReportPicture]) -> None:
    evil = "<img src=x onerror='1'>"
    front = json.loads(json.dumps(RACED).replace("reasoning", evil))
    front |= {"run": evil, "messages": [evil], "warnings": [evil], "seconds": {evil: 1.0}}
    front["members"] = [{**m, "origin": evil, "knobs": {evil: evil}} for m in front["members"]]
    picture = ReportPicture(pictures[0].svg, f'"{evil}')
    document = page(tmp_path, front, pictures=[picture], config=evil, manifest={evil: evil})
    assert "<img" not in (tmp_path / "report.html").read_text()
    assert document.text.count(evil) > 20
    assert [evil, *(evil for _ in front["members"])] in document.rows
