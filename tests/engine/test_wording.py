from medsaga.frontend import count, duration


def test_a_time_is_said_in_its_two_largest_units():
    said = {
        0: "0 s",
        9.6: "10 s",
        59.7: "1 min",
        90: "1 min 30 s",
        120: "2 min",
        3599.9: "1 h",
        3725: "1 h 2 min",
        7200: "2 h",
        -4: "0 s",
        float("nan"): "0 s",
    }
    assert {seconds: duration(seconds) for seconds in said} == said


def test_one_is_said_in_the_singular():
    assert [count(n, "slice") for n in (0, 1, 2)] == ["0 slices", "1 slice", "2 slices"]
