"""Splits as laws: independent of row order, nested, clusters and units whole; and no leaks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergefront.config import ItemCounts
from mergefront.errors import UserError
from mergefront.records import SPLITS, Item, Split
from mergefront.tasks import item_set
from mergefront.tasks.splits import (
    SHARES,
    by_hash,
    drop_counts,
    drop_duplicates,
    drop_straddling,
    overlap_warnings,
    question_words,
    stratified_order,
    whole_prefix,
    with_borrowed_items,
)


def item(key: str, cluster: str = "", unit: str = "", stratum: str = "", **more: object) -> Item:
    task = str(more.pop("task", "t"))
    made = Item(f"{task}/{key}", task, f"What is {key}?", (), ("a",), cluster or key, stratum)
    return replace(made, unit=unit, **more)  # type: ignore[arg-type]


def row(key: int) -> Item:
    """Clusters of six items; every other two items of a cluster may be a unit."""
    unit = f"u{key // 2}" if key % 4 < 2 else ""
    return item(str(key), f"c{key // 6}", unit, str(key % 3))


KEYS = st.lists(st.integers(0, 500), min_size=1, max_size=60, unique=True)
ROWS = KEYS.map(lambda keys: [row(key) for key in keys])
SALTS = st.text(max_size=4)


def home(parts: dict[Split, list[Item]]) -> dict[str, Split]:
    return {one.id: split for split in SPLITS for one in parts[split]}


@given(ROWS, SALTS, st.randoms(use_true_random=False))
def test_splits_and_orders_do_not_depend_on_row_order(
    rows: list[Item], salt: str, random: object
) -> None:
    mixed = sorted(rows, key=lambda one: random.random())  # type: ignore[attr-defined]
    assert home(by_hash(rows, salt)) == home(by_hash(mixed, salt))
    assert stratified_order(rows, salt) == stratified_order(mixed, salt)


@given(ROWS, SALTS)
def test_every_item_has_one_split_and_clusters_are_whole(rows: list[Item], salt: str) -> None:
    parts = by_hash(rows, salt)
    assert sorted(home(parts)) == sorted(one.id for one in rows)
    assert sum(len(part) for part in parts.values()) == len(rows)
    homes: dict[str, set[Split]] = {}
    for split in SPLITS:
        for one in parts[split]:
            homes.setdefault(one.cluster, set()).add(split)
    assert all(len(found) == 1 for found in homes.values())


@given(ROWS, ROWS, SALTS)
def test_more_rows_move_no_other_row(rows: list[Item], more: list[Item], salt: str) -> None:
    both = list({one.id: one for one in (*rows, *more)}.values())
    few, many = home(by_hash(rows, salt)), home(by_hash(both, salt))
    assert few.items() <= many.items()


@given(ROWS, SALTS, st.integers(0, 80), st.integers(0, 80))
def test_growing_only_appends_and_units_stay_whole(
    rows: list[Item], salt: str, a: int, b: int
) -> None:
    order = stratified_order(rows, salt)
    assert sorted(one.id for one in order) == sorted(one.id for one in rows)
    small, large = (whole_prefix(order, n) for n in sorted((a, b)))
    assert large[: len(small)] == small
    assert len(large) <= max(a, b)
    sizes = {one.unit: sum(o.unit == one.unit for o in rows) for one in rows if one.unit}
    for unit in {one.unit for one in large if one.unit}:
        assert sum(one.unit == unit for one in large) == sizes[unit]
    assert len(large) > max(a, b) - 2 or len(large) == len(rows)  # a unit has two items here


@given(st.integers(0, 60))
def test_prefixes_hold_the_strata_in_proportion(n: int) -> None:
    rows = [item(str(k), stratum="rare" if k % 4 == 0 else "common") for k in range(60)]
    prefix = stratified_order(rows, "v1")[:n]
    assert abs(sum(one.stratum == "rare" for one in prefix) - n / 4) <= 1


def test_shares_are_met() -> None:
    rows = [item(str(k)) for k in range(4000)]
    parts = by_hash(rows, "v1")
    assert sum(SHARES) == pytest.approx(1.0)
    for split, share in zip(SPLITS, SHARES, strict=True):
        bound = 4 * (share * (1 - share) / len(rows)) ** 0.5
        assert abs(len(parts[split]) / len(rows) - share) <= bound
    assert home(parts) != home(by_hash(rows, "v2"))


@given(ROWS, SALTS)
def test_reuse_borrows_only_what_is_missing(rows: list[Item], salt: str) -> None:
    parts = by_hash(rows, salt)
    lent = with_borrowed_items(parts)
    for split in SPLITS:
        assert lent[split][: len(parts[split])] == parts[split]
        assert sorted(one.id for one in lent[split]) == sorted(one.id for one in rows)


def ids(items: Sequence[Item]) -> list[str]:
    return [one.id for one in items]


def test_a_question_of_two_tasks_is_asked_by_the_first_and_takes_its_cluster_along() -> None:
    first = [item("1", task="a", images=(b"x",)), item("2", task="a", images=(b"y",))]
    again = item("7", "pair", task="b", images=(b"x",), question="WHAT is <image 1> “1” ?")
    partner = item("8", "pair", task="b", images=(b"z",))
    other = item("9", task="b", images=(b"x",))  # same picture, other question: no duplicate
    remaining, dropped = drop_duplicates({"a": first, "b": [again, partner, other]})
    assert {task: ids(items) for task, items in remaining.items()} == {
        "a": ["a/1", "a/2"],
        "b": ["b/9"],
    }
    assert [(d.item, d.other_task) for d in dropped] == [("b/7", "a"), ("b/8", "a")]
    turned, _ = drop_duplicates({"b": [again, partner, other], "a": first})
    assert ids(turned["b"]) == ["b/7", "b/8", "b/9"]
    assert ids(turned["a"]) == ["a/2"]
    assert drop_counts(dropped) == [
        {"task": "b", "items": 2, "because": dropped[0].because, "other_task": "a"}
    ]


def test_prompts_do_not_hide_a_question_that_was_asked() -> None:
    a = item("1", task="a", images=(b"x",), question="Hint: give a number.\nHow many?")
    b = item("1", task="b", images=(b"x",), question="How many? Answer with the letter.")
    assert drop_duplicates({"a": [a], "b": [b]})[1] == []
    raw = {"a/1": "How many?", "b/1": "how many"}
    assert ids([]) == ids(drop_duplicates({"a": [a], "b": [b]}, questions=raw)[0]["b"])


def test_questions_without_pictures_differ_by_their_options() -> None:
    asked = "Which is correct?"
    sums = ("1 + 1 = 2", "1 + 1 = 3")
    first = item("1", question=asked, choices=sums)
    turned = item("2", question=asked, choices=sums[::-1])
    other = item("3", question=asked, choices=("2 + 2 = 4", "2 + 2 = 5"))
    assert ids(drop_duplicates({"t": [first, turned, other]})[0]["t"]) == ["t/1", "t/3"]


@given(st.permutations(range(12)))
def test_within_a_task_one_of_two_clusters_that_repeat_goes(order: list[int]) -> None:
    rows = [item(str(k), f"c{k}", question=f"Is {k % 10} odd?") for k in range(12)]
    rows.append(replace(rows[5], id="t/99"))  # twice in one cluster cannot leak
    remaining, dropped = drop_duplicates({"t": [rows[k] for k in order] + rows[12:]})
    assert sorted(d.item for d in dropped) == ["t/10", "t/11"]  # clusters c0, c1 come first
    left = remaining["t"]
    assert len({(one.cluster, one.question) for one in left}) == 10
    assert ids(left).count("t/99") == 1


KINDS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 4), st.integers(0, 3)),
    max_size=25,
)


@given(KINDS, st.lists(st.sampled_from(SPLITS), min_size=25, max_size=25))
def test_nothing_left_straddles(rows: list[tuple[str, int, int, int]], splits: list[Split]) -> None:
    divided: dict[str, dict[Split, list[Item]]] = {
        task: {split: [] for split in SPLITS} for task in "abc"
    }
    homes: dict[tuple[str, int], Split] = {}
    for index, (task, picture, cluster, question) in enumerate(rows):
        split = homes.setdefault((task, cluster), splits[index])
        one = item(str(index), f"c{cluster}", task=task, images=(bytes([picture]),))
        divided[task][split].append(replace(one, question=f"{question}?"))
    remaining, dropped = drop_straddling(divided)
    seen: dict[bytes, set[Split]] = {}
    left = 0
    for parts in remaining.values():
        for split, items in parts.items():
            left += len(items)
            for one in items:
                seen.setdefault(one.images[0], set()).add(split)
    assert all(len(places) == 1 for places in seen.values())
    assert left + len(dropped) == len(rows)
    before = {t: {k for k in homes if k[0] == t} for t in "abc"}
    gone = {(d.task, int(d.cluster[1:])) for d in dropped}
    for task in "abc":  # clusters go whole
        kept = {(task, int(i.cluster[1:])) for part in remaining[task].values() for i in part}
        assert kept | {g for g in gone if g[0] == task} == before[task]
        assert not kept & gone


def test_pictures_that_stay_in_one_split_lose_nothing() -> None:
    a, b = item("1", task="a", images=(b"x",)), item("2", task="b", images=(b"x",))
    same: dict[Split, list[Item]] = {"search": [a], "validation": [], "test": []}
    _, dropped = drop_straddling({"a": same, "b": {**same, "search": [b]}})
    assert dropped == []
    _, dropped = drop_straddling({"a": same, "b": {"search": [], "validation": [], "test": [b]}})
    (gone,) = dropped
    assert (gone.item, gone.other_task) == ("b/2", "a")
    assert gone.because == "a test item whose image is a search item's"


def test_a_set_too_small_for_three_splits_needs_a_flag(tmp_path: Path) -> None:
    rows = "".join(f"What is {i}?,{i}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text("question,answer\n" + rows)
    fields = {"name": "mine", "data": {"path": "rows.csv"}, "rule": "exact"}
    (tmp_path / "mine.yaml").write_text(json.dumps({**fields, "fields": {"images": []}}))
    task = {"a": [str(tmp_path / "mine.yaml")]}
    wanted = {"search": 30, "validation": 30, "test": 60}
    with pytest.raises(UserError) as refused:
        item_set(task, ItemCounts(**wanted), Path())
    found = re.search(r"it has \d+ \(its splits: (.*)\)", refused.value.message)
    assert found is not None
    own = {k: int(n) for k, n in (pair.split() for pair in found[1].split(", "))}
    assert list(own) == list(SPLITS)
    assert sum(own.values()) == 60
    assert "items.reuse_search_items: true" in refused.value.hint
    shared = item_set(task, ItemCounts(**wanted, reuse_search_items=True), Path())
    assert {s: len(shared.flat(s)) for s in SPLITS} == wanted
    assert all(len({one.id for one in shared.flat(s)}) == wanted[s] for s in SPLITS)
    few = {"search": 5, "validation": 5, "test": 5}
    apart = item_set(task, ItemCounts(**few, reuse_search_items=True), Path())
    assert apart.items == item_set(task, ItemCounts(**few), Path()).items
    with pytest.raises(UserError, match="70 test items are asked for, it has 60") as refused:
        item_set(task, ItemCounts(**{**few, "test": 70}, reuse_search_items=True), Path())
    assert "reuse_search_items" not in refused.value.hint


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("How many?", "  how MANY ", True),
        ("<image 1> Which (bar) is $x$?", "Which bar is x", True),
        ("Ｗｈａｔ", "what", True),
        ("Is it 3.5?", "Is it 3/5?", False),
        ("Is it √2?", "Is it 2?", False),
        ("Is it -2?", "Is it 2?", False),
        ("角度是多少？", "角度是多少", True),
    ],
)
def test_what_counts_as_the_same_words(a: str, b: str, same: bool) -> None:
    assert (question_words(a) == question_words(b)) is same


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        (["dynamath_worst", "mathvista_math"], [("dynamath_worst", "mathvista_math")]),
        (["mathvista_math", "dynamath"], [("dynamath", "mathvista_math")]),
        (["mmmu_pro", "mmmu"], [("mmmu_pro", "mmmu")]),
        (["mmstar_reasoning", "mmmu_pro"], []),
        (["mathvista_general", "chartqa"], [("mathvista_general", "chartqa")]),
        (["mathvision", "logicvista", "mathvistas"], []),
    ],
)
def test_benchmarks_that_draw_on_each_other_are_named(
    tasks: list[str], named: list[tuple[str, str]]
) -> None:
    found = overlap_warnings(tasks)
    assert len(found) == len(named)
    for sentence, (one, other) in zip(found, named, strict=True):
        assert sentence.startswith(f"{one} draws on {other}: ")
