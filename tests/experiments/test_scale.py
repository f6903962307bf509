"""The measurement of how a sweep grows."""

from experiments.bench import scale


def test_a_small_one_is_measured():
    found = scale.measure(8, 1)
    assert found["variants"] == 8 and found["milliseconds"] > 0 and 0.05 < found["gigabytes"] < 20 and 0 < found["store_share"] < 1


def test_the_table():
    row = {"variants": 1024, "milliseconds": 0.5, "stored": 0.07, "store_share": 0.031, "gigabytes": 0.4}
    assert scale.table([row]).splitlines()[-1] == "| 1,024 | 0.500 | +7.0% | 3.1% | 0.40 GB |"
