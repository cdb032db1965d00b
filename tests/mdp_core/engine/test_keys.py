from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mdp_core.engine.keys import canonical, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_order_of_keys_and_a_round_trip_change_nothing(value: object) -> None:
    def backwards(v: object) -> object:
        if isinstance(v, dict):
            return {k: backwards(v[k]) for k in reversed(list(v))}
        return [backwards(i) for i in v] if isinstance(v, list) else v

    assert digest(backwards(value)) == digest(value)
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_any_change_gives_another_key() -> None:
    base = {"settings": {"topk": 0.4, "side": 640}, "seed": 0}
    others = [
        {"settings": {"topk": 0.4000001, "side": 640}, "seed": 0},
        {"settings": {"topk": 0.4}, "seed": 0},
        {"settings": {"topk": 0.4, "side": 640}, "seed": 1},
        {"settings": {"topk": "0.4", "side": 640}, "seed": 0},
    ]
    assert len({digest(v) for v in [base, *others]}) == 5
