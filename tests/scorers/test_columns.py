"""Precomputed scores pass through; what is wrong with a value stays visible to the quarantine."""

from __future__ import annotations

import decimal
import math

import pyarrow as pa
import pytest

from quadmix.config_annotate import ColumnScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.columns import ColumnScorer


def make(context, **given) -> ColumnScorer:
    return ColumnScorer.from_config(ColumnScorerConfig(kind="columns", **given), context)


def test_values_nulls_and_infinities_pass_through_unchanged(context):
    scorer = make(context, columns={"edu": "meta.edu"})
    values = [0.5, None, math.inf, -3.0]
    scored = scorer.score(pa.record_batch({"meta.edu": pa.array(values)}))
    assert scored.column("edu").to_pylist() == values
    assert scored.column("edu").type == pa.float32()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, None, 2**40], pa.int64()), [1.0, None, float(2**40)]),
        (pa.array([True, False]), [1.0, 0.0]),
        (pa.array([decimal.Decimal("1.50")]), [1.5]),
        (pa.nulls(2), [None, None]),
        (pa.array([0.25], pa.float16()), [0.25]),
    ],
)
def test_every_numeric_type_becomes_float32(context, array, expected):
    scorer = make(context, columns={"score": "s"})
    assert scorer.score(pa.record_batch({"s": array})).column(0).to_pylist() == expected


def test_text_and_absent_columns_are_refused_by_name(context):
    scorer = make(context, columns={"score": "s"})
    with pytest.raises(InputError, match="'s' holds string"):
        scorer.score(pa.record_batch({"s": pa.array(["7"])}))
    with pytest.raises(InputError, match=r"'s' is not in the input; it holds t"):
        scorer.score(pa.record_batch({"t": pa.array([1])}))


def test_ranges_and_directions_must_name_a_score(context):
    with pytest.raises(ConfigError) as raised:
        make(context, columns={"a": "x"}, lower_is_better=("b",), ranges={"c": (0, 1), "a": (1, 0)})
    assert len(raised.value.problems) == 3
    scorer = make(context, columns={"a": "x", "b": "y"}, lower_is_better=("b",), ranges={"a": (0, 1)})
    assert [(c.name, c.range, c.higher_is_better) for c in scorer.outputs] == [("a", (0, 1), True), ("b", None, False)]
