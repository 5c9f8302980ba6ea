"""Which features words name, what data lack, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from suisen.data.batch import Field
from suisen.errors import InputError
from suisen.recommending.pairs.declared import FEATURES, chosen, said_of, words_of

FIELDS = (
    Field("price", "numeric"),
    Field("brand", "categorical", 5),
    Field("tags", "multi", 9),
    Field("size", "numeric"),
)
EVERY = (
    "covisit_1", "covisit_5", "covisit_20", "last:brand", "last:tags", "share:brand", "share:tags", "difference:price",
    "difference:size", "popularity", "age", "trend_day", "trend_week", "trend_month", "history_length",
    "session_position",
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["all"], EVERY),
        ([], ()),
        (["age", "covisit_5", "age"], ("covisit_5", "age")),
        (["last"], ("last:brand", "last:tags")),
        (["last:tags", "difference:size"], ("last:tags", "difference:size")),
        (["all", "-share", "-last:tags"], tuple(n for n in EVERY if not n.startswith("share") and n != "last:tags")),
        (["-age"], tuple(name for name in EVERY if name != "age")),
        (["age", "-age"], ()),
        (["-age", "age"], ("age",)),
        (["all", "-all", "age"], ("age",)),
    ],
)
def test_words_choose_in_one_order(words, names):
    assert chosen(words_of(words), FIELDS, has_time=True) == names


def test_what_the_data_lack_is_left_out_and_said():
    assert chosen(("all",), (), has_time=False) == ("covisit_1", "covisit_5", "covisit_20", "history_length")
    (said,) = said_of(("all", "-age"), (), has_time=False)
    assert said == (
        "the ranker reads 4 features of each pair beside the retrieval's: covisit_1, covisit_5, covisit_20, "
        "history_length; left out, for the item table has no categorical column: last, share; left out, for the item "
        "table has no numeric column: difference; left out, for the log has no times: popularity, trend_day, "
        "trend_week, trend_month, session_position"
    )
    (said,) = said_of(("all",), FIELDS, has_time=True)
    assert said == f"the ranker reads 16 features of each pair beside the retrieval's: {', '.join(EVERY)}"
    assert said_of((), FIELDS, has_time=True) == ()
    (said,) = said_of(("age",), FIELDS, has_time=False)
    assert said == (
        "the ranker reads 0 features of each pair beside the retrieval's; left out, for the log has no times: age"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["covisit_6"], "pair_features = 'covisit_6' is unknown; did you mean 'covisit_5'"),
        (["-trends"], "did you mean 'trend_"),
        (["age:price"], "pair_features = 'age:price' is unknown"),
        ([5], "pair_features: 5 is no name"),
        ({"age"}, "is a set, which has no order"),
        (7, "pair_features = 7 is not a list"),
    ],
)
def test_words_that_name_nothing_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        words_of(given)


def test_a_text_is_one_word_and_none_is_none():
    assert (words_of("all"), words_of(None), words_of("")) == (("all",), (), ())


@pytest.mark.parametrize("word", ["last:price", "difference:brand", "share:colour", "-last:colour"])
def test_a_column_that_is_not_there_or_of_another_kind_is_refused(word):
    with pytest.raises(InputError, match=f"pair_features = '{word.removeprefix('-')}' is unknown"):
        chosen(words_of([word]), FIELDS, has_time=True)


def test_the_guide_lists_every_feature_with_its_definition_and_its_cost():
    guide = (Path(__file__).parents[3] / "docs" / "two-stage.md").read_text(encoding="utf-8")
    for feature in FEATURES:
        assert (
            f"| `{feature.name}` | {feature.reads} | {feature.means} | {feature.cost} |" in guide
        )  # tools/two_stage_page.py
