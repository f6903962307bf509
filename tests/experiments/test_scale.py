"""The measurement of how a sweep grows: its figures, and what is asked of them."""

from experiments.bench import scale


def test_a_small_one_is_measured():
    found = scale.measure(8, 1)
    assert found["variants"] == 8 and found["milliseconds"] > 0 and 0.05 < found["gigabytes"] < 20 and 0 < found["store_share"] < 1
    assert "| 8 |" in scale.table([found])


def row(variants=256, milliseconds=1.0, share=0.01, gigabytes=0.4):
    return {"variants": variants, "milliseconds": milliseconds, "stored": 0.0, "store_share": share, "gigabytes": gigabytes}


def test_what_is_asked_holds_or_fails_by_the_figures():
    assert [holds for _, holds in scale.verdicts([row(), row(1024, 1.09)])] == [True] * 3
    for changed, place in ((dict(milliseconds=1.11), 0), (dict(gigabytes=2.1), 1), (dict(share=0.06), 2)):
        verdicts = scale.verdicts([row(), row(1024, **changed)])
        assert [holds for _, holds in verdicts] == [i != place for i in range(3)]
