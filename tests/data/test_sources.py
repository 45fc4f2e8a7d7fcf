"""Tests of `micro_lit.data.sources`, and of the real sets where they are at hand."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_lit.config import build
from micro_lit.data.gathering import columns_of
from micro_lit.data.layouts import LeftOut
from micro_lit.data.mixtures import Mixture, _apportion
from micro_lit.data.pairs import Text, from_records
from micro_lit.data.records import BadRow, Message, Record
from micro_lit.data.sides import unanimous
from micro_lit.data.sources import PairFiles
from micro_lit.data.splits import hashed_fraction
from micro_lit.errors import UserError


def row(number, **changes):
    return {"prompt": f"Question {number}?", "chosen": f"Yes {number}.", "rejected": "No.", **changes}


@pytest.fixture
def write(tmp_path):
    def write_lines(rows, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in rows))
        return str(path)

    return write_lines


def sides(source, seed=0):
    """The split of every record."""
    records, splits, _ = source.read(seed)
    return dict(zip(records, splits, strict=True))


def chosen_texts(data, split):
    return [data.texts[row].response for row in data.split(split).chosen_N.tolist()]


# One set


def test_rows_become_pairs_of_distinct_texts(write):
    data = PairFiles("mine", write([row(0), row(0, chosen="Maybe."), row(1)]), test_fraction=0.0).load(0)
    assert len(data.pairs) == 3
    prompt = (Message("user", "Question 0?"),)
    context, chosen, rejected = (data.texts[index] for index in data.pairs.triplets_N3[1].tolist())
    assert (context, chosen, rejected) == (Text(prompt), Text(prompt, "Maybe."), Text(prompt, "No."))
    assert len(set(data.texts)) == len(data.texts) == 7
    assert data.pairs.triplets_N3[0, 0] == data.pairs.triplets_N3[1, 0]
    assert data.pairs.triplets_N3[0, 2] == data.pairs.triplets_N3[1, 2]


def test_labels_are_codes_of_names_and_what_is_not_known_is_minus_one(write):
    path = write([row(0, group="b", rating_gap=2), row(1, group="a"), row(2), row(3, group="b", source="theirs")])
    data = PairFiles("mine", path, test_fraction=0.0, validation_fraction=0.0).load(0)
    assert data.pairs.label_N("group").tolist() == [0, 1, -1, 0]
    assert data.names["group"] == ["b", "a"]
    assert [data.names["source"][code] for code in data.pairs.label_N("source")] == ["mine"] * 3 + ["theirs"]
    assert data.names["user_id"] == []
    assert data.pairs.rating_gap_N[0] == 2
    assert data.pairs.rating_gap_N[1:].isnan().all()


def test_a_criterion_changes_the_context_and_neither_response(write):
    path = write([row(0), row(0, criterion="Be brief.")])
    data = PairFiles("mine", path, test_fraction=0.0, validation_fraction=0.0).load(0)
    assert data.texts[data.pairs.context_N[1]].prompt == (Message("user", "Question 0?\n\nBe brief."),)
    assert torch.equal(data.pairs.triplets_N3[0, 1:], data.pairs.triplets_N3[1, 1:])


@pytest.mark.parametrize("bad", ['{"prompt": \n', row(7, rejected=" ")])
def test_a_bad_row_stops_the_reading_and_names_file_and_row(write, bad):
    path = write([row(0), row(1), bad, row(2)])
    with pytest.raises(UserError) as caught:
        PairFiles("mine", path).load(0)
    assert str(caught.value).startswith(f"{path}, row 3: ")
    assert "on_bad_row=skip" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_rows_are_skipped_counted_and_listed_on_request(write):
    path = write([row(0), row(1, chosen=None), '{"prompt": \n', *map(row, range(2, 30))])
    data = PairFiles("mine", path, on_bad_row="skip").load(0)
    counts = data.counts["mine"]
    assert (counts.rows, counts.dropped, counts.ties) == (31, 2, 0)
    assert counts.reasons[0] == f"{path}, row 2: column 'chosen' is missing or null"
    assert counts.reasons[1].startswith(f"{path}, row 3: broken JSON line")
    assert len(data.pairs) == 29


def test_every_dropped_row_is_counted_but_only_the_first_are_listed(write):
    path = write([row(number, chosen="") for number in range(50)] + [row(number) for number in range(20)])
    counts = PairFiles("mine", path, on_bad_row="skip").load(0).counts["mine"]
    assert counts.dropped == 50
    assert 0 < len(counts.reasons) < 50


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "0 read, 0 dropped"),
        ([row(0, chosen=""), row(1, chosen="")], "2 read, 2 dropped, 0 ties.*row 1: 'chosen' is empty"),
        ([row(0, rating_gap=0)], "1 read, 0 dropped, 1 ties"),
    ],
)
@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_file_without_a_usable_row_is_refused_with_the_reason(write, rows, reason, empty):
    paths = {"train": write([row(number) for number in range(10)]), "test": None} | {empty: write(rows, "empty.jsonl")}
    source = PairFiles("mine", **paths, on_bad_row="skip")
    if empty == "test":
        reason = "no usable rows"
    with pytest.raises(UserError, match=f"empty.jsonl: no usable rows.*{reason}" if empty == "train" else reason):
        source.load(0)


def test_a_set_whose_only_prompt_falls_to_the_test_is_refused(write):
    path = write([row(0, chosen=f"Yes {number}.") for number in range(50)])
    seed = next(seed for seed in range(1000) if hashed_fraction(repr((Message("user", "Question 0?"),)), seed) < 0.1)
    with pytest.raises(UserError, match="no row is left to train on"):
        PairFiles("mine", path).load(seed)


@pytest.mark.parametrize(("ties", "kept"), [("drop", 18), ("keep", 20)])
def test_ties_are_counted_and_dropped_or_kept(write, ties, kept):
    path = write([row(number, rating_gap=0 if number < 2 else 1) for number in range(20)])
    data = PairFiles("mine", path, ties=ties).load(0)
    assert data.counts["mine"].ties == 2
    assert data.counts["mine"].dropped == 0
    assert len(data.pairs) == kept
    assert (data.pairs.rating_gap_N == 0).sum() == kept - 18


@pytest.mark.parametrize("as_text", [True, False])
def test_columns_are_renamed_and_read_from_inside_objects(write, as_text):
    meta = [{"group": "north"}, {"group": None}, {}]
    rows = [
        {"question": f"Question {number}?", "better": "Yes.", "worse": "No.", "meta": json.dumps(m) if as_text else m}
        for number, m in enumerate(meta)
    ]
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse", "group": "meta.group"}
    records, _, _ = PairFiles("mine", write(rows), columns=columns, test_fraction=0.0).read(0)
    assert [record.prompt[0].content for record in records] == [f"Question {number}?" for number in range(3)]
    assert {(record.chosen, record.rejected) for record in records} == {("Yes.", "No.")}
    assert [record.group for record in records] == ["north", None, None]


def test_a_column_whose_name_has_a_dot_is_read_as_it_is(write):
    path = write([row(0, **{"meta.group": "whole", "meta": {"group": "part"}})])
    records, _, _ = PairFiles("mine", path, columns={"group": "meta.group"}, test_fraction=0.0).read(0)
    assert records[0].group == "whole"


def test_a_folder_brings_its_own_test_file(write, tmp_path):
    write([row(number) for number in range(20)], "train.jsonl")
    write([row(number) for number in range(50, 53)], "test.jsonl")
    _, splits, counts = PairFiles("mine", str(tmp_path), validation_fraction=0.2).read(0)
    assert splits.count("test") == 3
    assert counts.rows == 23


def test_columns_may_be_exchanged(write):
    path = write([row(0)])
    columns = {"chosen": "rejected", "rejected": "chosen"}
    records, _, _ = PairFiles("mine", path, columns=columns, test_fraction=0.0).read(0)
    assert (records[0].chosen, records[0].rejected) == ("No.", "Yes 0.")


@pytest.mark.parametrize(
    ("meta", "theirs", "trouble"),
    [
        ("{broken", "meta.group", "column 'meta'.*is not JSON"),
        ("[1]", "meta.group", "column 'meta'.*holds no object"),
        (3, "meta.group", "column 'meta'.*holds no object"),
    ],
)
def test_a_column_that_cannot_be_read_is_a_bad_row(write, meta, theirs, trouble):
    path = write([row(0, meta=meta), row(1, meta={"group": "a"})])
    with pytest.raises(UserError, match=f"row 1: {trouble}"):
        PairFiles("mine", path, columns={"group": theirs}).load(0)


def test_columns_we_do_not_have_are_refused():
    with pytest.raises(UserError, match=r"data.columns names \['preferred'\]; our columns are prompt, chosen"):
        PairFiles("mine", "pairs.jsonl", columns={"preferred": "better"})


@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_is_on_two_sides(write, seed):
    rows = [row(number % 60, chosen=f"Yes {number}.", criterion=f"Wish {number}.") for number in range(300)]
    of_prompt: dict[tuple, set] = {}
    found = sides(PairFiles("mine", write(rows), validation_fraction=0.2, test_fraction=0.3), seed)
    for record, split in found.items():
        of_prompt.setdefault(record.prompt, set()).add(split)
    assert len(of_prompt) == 60
    assert all(len(splits) == 1 for splits in of_prompt.values())
    assert set(found.values()) == {"train", "validation", "test"}


def test_the_shares_cut_are_near_those_asked_for(write):
    source = PairFiles("mine", write(map(row, range(4000))), validation_fraction=0.1, test_fraction=0.25)
    found = Counter(sides(source).values())
    for split, share in {"validation": 0.1, "test": 0.25, "train": 0.65}.items():
        assert abs(found[split] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_split_survives_other_rows_and_another_order_but_not_another_seed(write):
    rows = [row(number) for number in range(200)]
    before = sides(PairFiles("mine", write(rows)))
    more = [*map(row, range(300, 350)), *reversed(rows)]
    after = sides(PairFiles("mine", write(more, "more.jsonl")))
    assert {record: after[record] for record in before} == before
    assert sides(PairFiles("mine", write(rows)), seed=1) != before


def test_a_split_by_pair_keeps_pairs_whole_and_cuts_a_prompt(write):
    rows = [row(0, pair_id=f"pair {number // 2}", chosen=f"Yes {number}.") for number in range(400)]
    found = sides(PairFiles("mine", write(rows), split_by="pair_id", validation_fraction=0.2, test_fraction=0.2))
    of_pair: dict[str, set] = {}
    for record, split in found.items():
        of_pair.setdefault(record.pair_id, set()).add(split)
    assert all(len(splits) == 1 for splits in of_pair.values())
    assert set(found.values()) == {"train", "validation", "test"}


def test_a_test_file_is_the_whole_test(write):
    train, test = write(map(row, range(100))), write(map(row, range(200, 210)), "test.jsonl")
    data = PairFiles("mine", train, test, test_fraction=0.5, validation_fraction=0.1).load(0)
    assert sorted(chosen_texts(data, "test")) == sorted(f"Yes {number}." for number in range(200, 210))
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 100
    assert len(data.splits["validation"]) > 0
    assert data.counts["mine"].rows == 110


def test_a_limit_takes_the_first_good_rows_of_each_file(write):
    rows = [row(0, chosen=""), row(1, rating_gap=0), *map(row, range(2, 50))]
    test = write(map(row, range(100, 150)), "test.jsonl")
    records, _, _ = PairFiles("mine", write(rows), test, on_bad_row="skip", limit=5).read(0)
    assert [record.chosen for record in records] == [f"Yes {number}." for number in (*range(2, 7), *range(100, 105))]


def test_a_split_by_response_judges_nobody_on_what_they_were_heard_on(write):
    replies = [f"Reply {number}." for number in range(12)]
    rows = [
        row(0, prompt="Which?", chosen=first, rejected=second, user_id=user)
        for user in ("ada", "bob", "eve")
        for first, second in itertools.combinations(replies, 2)
    ]
    source = PairFiles("mine", write(rows), split_by="response", validation_fraction=0.3, test_fraction=0.2)
    records, splits, counts = source.read(0)
    heard = {}
    for record, split in zip(records, splits, strict=True):
        for reply in (record.chosen, record.rejected):
            assert heard.setdefault((record.user_id, reply), split) == split
    assert set(splits) == {"train", "validation", "test"}
    assert any(heard["ada", reply] != heard["bob", reply] for reply in replies)  # each user's replies are cut anew
    assert counts.left_out == {"its two responses are on two sides": len(rows) - len(records)}


def test_splits_cover_every_row_once(write):
    data = PairFiles("mine", write(map(row, range(300)))).load(0)
    assert sorted(torch.cat(list(data.splits.values())).tolist()) == list(range(300))


def test_train_and_test_are_two_files(write):
    path = write(map(row, range(10)))
    with pytest.raises(UserError, match=f"{path}: train and test are one file; set data.test=null"):
        PairFiles("mine", path, path)


# Layouts


def questions(rows):
    """A layout of rows such as {"about": "trees", "best": ["An oak.", "A rose."]}."""
    for place, row in rows:
        if isinstance(row, BadRow):
            yield place, row
        elif "best" not in row:
            yield place, LeftOut("nobody asked")
        elif len(row["best"]) < 2:
            yield place, BadRow("one answer only")
        else:
            for better, worse in itertools.pairwise(row["best"]):
                yield place, {"prompt": f"Name {row['about']}.", "liked": better, "rejected": worse}


RANKED = [{"about": f"tree {number}", "best": ["An oak.", "A rose.", "A stone."]} for number in range(10)]


def test_a_layout_makes_rows_of_raw_rows_before_columns_are_renamed(write):
    path = write(RANKED)
    columns = {"chosen": "liked"}
    records, _, counts = PairFiles("mine", path, layout=questions, columns=columns, test_fraction=0.0).read(0)
    assert [(record.chosen, record.rejected) for record in records[:2]] == [
        ("An oak.", "A rose."),
        ("A rose.", "A stone."),
    ]
    assert counts.rows == len(records) == 20


def test_what_a_layout_cannot_read_is_a_bad_row_in_its_place_and_what_it_leaves_out_is_counted(write):
    path = write([{"about": "trees", "best": ["An oak."]}, *RANKED, {"about": "trees"}, "{broken\n"])
    settings = {"layout": questions, "columns": {"chosen": "liked"}}
    with pytest.raises(UserError, match=f"^{path}, row 1: one answer only; 2 of 23 rows are bad: 1 x one answer"):
        PairFiles("mine", path, **settings).load(0)
    counts = PairFiles("mine", path, **settings, on_bad_row="skip").load(0).counts["mine"]
    assert (counts.rows, counts.dropped, counts.left_out) == (23, 2, {"nobody asked": 1})
    assert [reason.split(":")[0] for reason in counts.reasons] == [f"{path}, row 1", f"{path}, row 13"]


def test_the_test_file_may_have_a_layout_of_its_own(write):
    raw, ours = write(RANKED), write(map(row, range(5)), "ours.jsonl")
    columns = {"chosen": "liked"}
    with pytest.raises(UserError, match="no usable rows"):
        PairFiles("mine", raw, ours, layout=questions, columns=columns).load(0)
    renamed = write([row(number, liked=f"Yes {number}.") for number in range(5)], "renamed.jsonl")
    source = PairFiles("mine", raw, renamed, layout=questions, test_layout=iter, columns=columns)
    assert len(source.load(0).splits["test"]) == 5


# Criteria


WISHES = {"brief": "Be brief.", "warm": "Be warm."}


@pytest.fixture
def wishes(write):
    """Rows of three attributes, of which two have criteria; every third row has one of its own."""
    rows = [
        row(
            number // 2,
            chosen=f"Yes {number}.",
            attribute=attribute,
            criterion=None if number % 3 else f"Wish {number}.",
        )
        for number, attribute in enumerate(["brief", "warm", "brief", None] * 100)
    ]
    return write(rows)


def by_split(source, seed=0):
    """Split -> criteria and attributes of its records, and the records without them."""
    records, splits, _ = source.read(seed)
    told: dict[str, list] = {}
    for record, split in zip(records, splits, strict=True):
        told.setdefault(split, []).append((record.criterion, record.attribute))
    bare = [record._replace(criterion=None, attribute=None) for record in records]
    return told, list(zip(bare, splits, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_criteria_are_given_hidden_or_shuffled_and_nothing_else_changes(wishes, seed):
    settings = {"validation_fraction": 0.2, "test_fraction": 0.3, "criterion_of": WISHES}
    given, rows = by_split(PairFiles("mine", wishes, **settings), seed)
    hidden, hidden_rows = by_split(PairFiles("mine", wishes, **settings, criteria="hidden"), seed)
    shuffled, shuffled_rows = by_split(PairFiles("mine", wishes, **settings, criteria="shuffled"), seed)
    assert rows == hidden_rows == shuffled_rows
    assert set(given) == {"train", "validation", "test"}
    for split, criteria in given.items():
        assert hidden[split] == [(None, attribute) for _, attribute in criteria]
        assert Counter(shuffled[split]) == Counter(criteria)
        assert shuffled[split] != criteria


def test_a_shuffle_depends_on_the_seed_alone(wishes):
    source = PairFiles("mine", wishes, criteria="shuffled", test_fraction=0.0, validation_fraction=0.0)
    assert by_split(source, 3) == by_split(source, 3)
    assert by_split(source, 3)[0] != by_split(source, 4)[0]


def test_shuffled_criteria_say_nothing_of_the_row_and_keep_their_attribute(write):
    """Given, a criterion is that of its row; shuffled, it is as often as chance lets it."""
    names = ("brief", "warm")
    rows = [row(number, attribute=names[number % 2], group=names[number % 2]) for number in range(4000)]
    settings = {"criterion_of": WISHES, "test_fraction": 0.0, "validation_fraction": 0.0}
    for criteria, share in (("given", 1.0), ("shuffled", 0.5)):
        records, _, _ = PairFiles("mine", write(rows), **settings, criteria=criteria).read(0)
        assert all(WISHES[record.attribute] == record.criterion for record in records)
        agree = sum(record.attribute == record.group for record in records) / 4000
        assert abs(agree - share) < 4 * 0.5 / 4000**0.5


def test_an_attribute_brings_its_sentence_to_rows_without_a_criterion(wishes):
    records, _, _ = PairFiles("mine", wishes, criterion_of=WISHES, test_fraction=0.0).read(0)
    assert [record.criterion for record in records[:4]] == ["Wish 0.", "Be warm.", "Be brief.", "Wish 3."]
    assert {record.criterion for record in records if record.attribute is None} <= {
        None,
        *(f"Wish {n}." for n in range(400)),
    }
    plain, _, _ = PairFiles("mine", wishes, test_fraction=0.0).read(0)
    assert [record.criterion for record in plain[:4]] == ["Wish 0.", None, None, "Wish 3."]


@pytest.mark.parametrize("criteria", ["given", "hidden", "shuffled"])
def test_attributes_without_a_sentence_are_named(wishes, criteria):
    source = PairFiles("mine", wishes, criterion_of={"rare": "Be rare."}, criteria=criteria)
    with pytest.raises(UserError, match=r"mine: data.criterion_of has no sentence for brief, warm$"):
        source.load(0)


def test_criteria_of_planted_populations_are_refused(wishes):
    with pytest.raises(
        UserError, match=r"data.criteria=none is for planted populations; give one of given, hidden, sh"
    ):
        PairFiles("mine", wishes, criteria="none")


# Unanimous pairs


JUDGMENTS = st.lists(
    st.tuples(
        st.sampled_from("pq"), st.sampled_from(["brief", "warm", "rare"]), st.booleans(), st.sampled_from([0.0, 1.0])
    ),
    max_size=12,
)


@given(judgments=JUDGMENTS)
def test_a_pair_is_unanimous_when_every_attribute_prefers_the_same_response(judgments):
    records = [
        Record((Message("user", prompt),), *("ab" if first else "ba"), attribute=attribute, rating_gap=gap)
        for prompt, attribute, first, gap in judgments
    ]
    attributes = {attribute for _, attribute, _, _ in judgments}
    expected = set()
    for prompt in "pq":
        sides = {
            name: {first for p, n, first, gap in judgments if (p, n) == (prompt, name) and gap} for name in attributes
        }
        if sides and (
            all(side == {True} for side in sides.values()) or all(side == {False} for side in sides.values())
        ):
            expected.add(((Message("user", prompt),), frozenset("ab")))
    among_N = np.ones(len(records), dtype=bool)
    judged = (records[row] for row in np.flatnonzero(unanimous(columns_of(records), among_N)))
    # A tie is on a pair that is left out, too.
    assert {(record.prompt, frozenset((record.chosen, record.rejected))) for record in judged} == expected


@pytest.mark.parametrize("theirs", ["grupp", "mta.group"])
def test_a_column_that_no_row_has_is_one_error(write, theirs):
    path = write([row(0, meta={}), row(1)])
    with pytest.raises(UserError, match=f"^{path}: no column '{theirs}', which data.columns.group names"):
        PairFiles("mine", path, columns={"group": theirs}).load(0)


@pytest.mark.parametrize("plain", [True, False])
def test_a_column_that_some_rows_lack_is_null_there(write, plain):
    first = row(0) if plain else row(0, prompt=[{"role": "user", "content": "Question 0?"}])
    records, _, _ = PairFiles("mine", write([first, row(1, team="a")]), columns={"group": "team"}).read(0)
    assert [record.group for record in records] == [None, "a"]


# Several sets


@pytest.fixture
def sets(write):
    """Two sets without validation and test rows: 30 rows of a, 10 rows of b."""
    return {
        name: PairFiles(
            name,
            write([row(number, chosen=f"{name} {number}") for number in range(size)], f"{name}.jsonl"),
            validation_fraction=0.0,
            test_fraction=0.0,
        )
        for name, size in (("a", 30), ("b", 10))
    }


def drawn(mixture, seed=0):
    """How often each row of each set was drawn for training."""
    return Counter(chosen_texts(mixture.load(seed), "train"))


def of_set(counter, name):
    return Counter({text: times for text, times in counter.items() if text.startswith(name)})


def test_sizes_are_kept_and_rows_not_repeated_while_they_last(sets):
    found = drawn(Mixture(sets, sizes={"a": 20, "b": 10}))
    assert of_set(found, "a").total() == 20
    assert of_set(found, "b").total() == 10
    assert max(found.values()) == 1


def test_a_set_that_is_too_small_is_drawn_again_from_the_start(sets):
    found = of_set(drawn(Mixture(sets, sizes={"a": 0, "b": 25})), "b")
    assert found.total() == 25
    assert len(found) == 10
    assert set(found.values()) == {2, 3}


@pytest.mark.parametrize("weights", [{"a": 0.75, "b": 0.25}, {"a": 3, "b": 1}])
def test_weights_are_shares_of_the_size_whatever_their_sum(sets, weights):
    found = drawn(Mixture(sets, weights=weights, size=20))
    assert (of_set(found, "a").total(), of_set(found, "b").total()) == (15, 5)


def test_a_draw_depends_on_the_seed(sets):
    mixture = Mixture(sets, sizes={"a": 15, "b": 5})
    assert drawn(mixture, 3) == drawn(mixture, 3)
    assert len({frozenset(drawn(mixture, seed)) for seed in range(5)}) == 5


def test_validation_and_test_rows_are_kept_whole_and_apart(write):
    source = PairFiles("a", write(map(row, range(300))), validation_fraction=0.2, test_fraction=0.3)
    alone, mixed = source.load(0), Mixture({"a": source}, sizes={"a": 10}).load(0)
    for split in ("validation", "test"):
        assert sorted(chosen_texts(mixed, split)) == sorted(chosen_texts(alone, split))
    assert len(mixed.splits["train"]) == 10
    assert set(chosen_texts(mixed, "train")) <= set(chosen_texts(alone, "train"))


def test_a_size_of_null_takes_every_row_once(sets):
    found = drawn(Mixture(sets, sizes={"a": None, "b": 5}))
    assert (of_set(found, "a").total(), len(of_set(found, "a")), of_set(found, "b").total()) == (30, 30, 5)


@pytest.mark.parametrize("criteria", ["given", "hidden", "shuffled"])
def test_a_mixture_draws_the_same_rows_whatever_its_sets_tell_of_criteria(write, wishes, criteria):
    def mixed(criteria):
        other = PairFiles("b", write(map(row, range(50)), "b.jsonl"), criterion_of={}, criteria=criteria)
        told = PairFiles("a", wishes, layout=iter, criterion_of=WISHES, criteria=criteria)
        return Mixture({"a": told, "b": other}, sizes={"a": 100, "b": None}).load(0)

    data, plain = mixed(criteria), mixed("hidden")
    texts, others = (
        [[found.texts[row].response for row in column] for column in found.pairs.triplets_N3[:, 1:].T.tolist()]
        for found in (data, plain)
    )
    assert texts == others
    assert torch.equal(data.pairs.label_N("source"), plain.pairs.label_N("source"))
    contexts = [data.texts[row].prompt[-1].content for row in data.pairs.context_N.tolist()]
    assert any("Be warm." in context for context in contexts) == (criteria != "hidden")


def test_counts_and_sources_are_kept_by_set(sets):
    data = Mixture(sets, sizes={"a": 3, "b": 2}).load(0)
    assert {name: counts.rows for name, counts in data.counts.items()} == {"a": 30, "b": 10}
    sources = [data.names["source"][code] for code in data.split("train").label_N("source")]
    assert sorted(sources) == ["a"] * 3 + ["b"] * 2


@pytest.mark.parametrize(
    ("shares", "trouble"),
    [
        ({}, "either sizes"),
        ({"sizes": {"a": 1, "b": 1}, "weights": {"a": 1, "b": 1}, "size": 2}, "either sizes"),
        ({"weights": {"a": 1, "b": 1}}, "either sizes"),
        ({"sizes": {"a": 1, "b": 1}, "size": 2}, "either sizes"),
        ({"sizes": {"a": 1}}, "must name a, b"),
        ({"sizes": {"a": 1, "b": 1, "c": 1}}, "must name a, b"),
        ({"sizes": {"a": 2, "b": -1}}, "at least 0"),
        ({"weights": {"a": 0, "b": 0}, "size": 5}, "at least 0"),
        ({"sizes": {"a": None, "b": -1}}, "at least 0"),
    ],
)
def test_shares_that_make_no_sense_are_refused(sets, shares, trouble):
    with pytest.raises(UserError, match=trouble):
        Mixture(sets, **shares)


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=6).filter(lambda weights: sum(weights) > 1e-6),
    size=st.integers(0, 10_000),
)
def test_apportioned_rows_sum_to_the_size_and_miss_no_share_by_a_row(weights, size):
    sizes = _apportion({str(number): weight for number, weight in enumerate(weights)}, size)
    assert sum(sizes.values()) == size
    for number, weight in enumerate(weights):
        assert abs(sizes[str(number)] - size * weight / sum(weights)) < 1 + 1e-6


@given(key=st.text(st.characters(exclude_categories=("Cs",))), seed=st.integers(0, 2**40))
def test_a_hashed_fraction_is_a_fraction_and_repeats(key, seed):
    assert 0 <= hashed_fraction(key, seed) <= 1
    assert hashed_fraction(key, seed) == hashed_fraction(key, seed)


def test_no_records_are_no_pairs():
    data = from_records([], [], {})
    assert len(data.pairs) == 0
    assert data.pairs.triplets_N3.shape == (0, 3)


def test_a_batch_of_pairs_is_pairs():
    prompt = (Message("user", "Question?"),)
    records = [Record(prompt, f"Yes {number}.", "No.", rating_gap=float(number)) for number in range(4)]
    data = from_records(records, ["train"] * 4, {})
    batch = data.pairs[torch.tensor([3, 1])]
    assert len(batch) == 2
    assert batch.rating_gap_N.tolist() == [3, 1]
    assert [data.texts[index].response for index in batch.chosen_N.tolist()] == ["Yes 3.", "Yes 1."]


def pair_codes(*records, sets=None):
    """Codes of rows that are each their own, as a reader makes them."""
    rows = [record._replace() for record in records]
    return from_records(rows, ["train"] * len(rows), {}, sets).pairs.label_N("pair_id").tolist()


def test_rows_of_one_pair_share_a_code_by_id_and_texts():
    record = Record((Message("user", "Question?"),), "Yes.", "No.")
    swapped = record._replace(chosen="No.", rejected="Yes.")
    other = record._replace(prompt=(Message("user", "Another?"),))
    assert pair_codes(record, swapped, other, record) == [0, 0, 1, 0]
    assert pair_codes(record._replace(pair_id="a"), record._replace(pair_id="b"), record) == [0, 1, 2]
    assert pair_codes(record._replace(pair_id="a"), other._replace(pair_id="a")) == [0, 1]
    assert pair_codes(record._replace(pair_id="a"), swapped._replace(pair_id="a")) == [0, 0]


def test_under_another_criterion_it_is_another_pair():
    """A predictor that reads the criterion knows more than one that does not: that one's floor is not its own."""
    record = Record((Message("user", "Question?"),), "Yes.", "No.", pair_id="a")
    assert pair_codes(record._replace(criterion="Be brief."), record, record._replace(attribute="brief")) == [0, 1, 1]


def test_a_users_second_row_of_a_pair_has_no_code():
    record = Record((Message("user", "Question?"),), "Yes.", "No.", user_id="u", pair_id="a")
    swapped = record._replace(chosen="No.", rejected="Yes.")
    assert pair_codes(record, swapped, record._replace(user_id="v"), record._replace(pair_id="b")) == [0, -1, 0, 1]
    assert pair_codes(record._replace(user_id=None), swapped._replace(user_id=None)) == [0, 0]


def test_a_row_that_a_mixture_draws_again_is_no_second_judgment():
    record = Record((Message("user", "Question?"),), "Yes.", "No.")
    data = from_records([record, record._replace(), record], ["train"] * 3, {})
    assert data.pairs.label_N("pair_id").tolist() == [0, 0, -1]


def test_ids_of_two_sets_do_not_meet():
    record = Record((Message("user", "Question?"),), "Yes.", "No.", pair_id="1")
    assert pair_codes(record, record, record, sets=[0, 1, 0]) == [0, 1, 0]


def test_the_first_response_of_a_pair_is_the_same_for_all_its_raters():
    record = Record((Message("user", "Question?"),), "Yes.", "No.")
    swapped = record._replace(chosen="No.", rejected="Yes.")
    data = from_records([swapped, record, swapped], ["train"] * 3, {})
    assert data.pairs.first_wins_N.tolist() in ([True, False, True], [False, True, False])


# Real sets, as the YAML files describe them


@pytest.mark.parametrize(
    ("name", "settings", "train_rows", "test_rows"),
    [
        pytest.param(
            "polis",
            {"columns": {"rating_gap": "margin", "group": "meta.group"}, "split_by": "pair_id"},
            37_209,
            23_614,
            marks=pytest.mark.full,
        ),
        ("dsp", {"columns": {"rating_gap": "margin"}}, 7_424, 2_948),
    ],
)
def test_real_sets_are_read_without_losing_a_row(data_dir, name, settings, train_rows, test_rows):
    folder = data_dir / name
    data = PairFiles(name, str(folder / "train.parquet"), str(folder / "test.parquet"), **settings).load(0)
    assert len(data.splits["test"]) == test_rows
    assert len(data.splits["train"]) + len(data.splits["validation"]) == train_rows
    assert len(data.splits["validation"]) > 0
    counts = data.counts[name]
    assert (counts.rows, counts.dropped, counts.ties) == (train_rows + test_rows, 0, 0)
    if name == "polis":
        assert (data.pairs.label_N("user_id") >= 0).all()
        assert len(data.names["group"]) > 1
        assert len(set(data.pairs.context_N.tolist())) == 9


def test_domains_of_dsp_have_sentences_and_keep_them_to_themselves(data_dir, settings):
    hidden, given = (
        build(settings("data=dsp", f"paths.data_dir={data_dir}", *overrides)["data"]).load(0)
        for overrides in ([], ["data.criteria=given"])
    )
    assert torch.equal(hidden.pairs.labels_NC[:, :2], given.pairs.labels_NC[:, :2])
    prompts = len(set(hidden.pairs.context_N.tolist()))
    assert len(set(given.pairs.context_N.tolist())) == 4 * prompts
