import pytest

from medsaga import MedsagaError
from medsaga.frontend import count, duration, shown


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("liver & <b>spleen</b>", "liver & <b>spleen</b>"),
        ("肝臓 Müller", "肝臓 Müller"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\t\x00", r"two\nlines\t\x00"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("half \ud800", r"half \ud800"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("\x1b" * 50, r"\x1b" * 19 + r"\x1" + "…"),
        (None, "None"),
    ],
)
def test_what_others_wrote_is_plain_text(text, expected):
    assert shown(text) == expected


def test_a_sentence_of_an_error_is_plain_text():
    error = MedsagaError("\x1b[31m\nis no image" + "x" * 10_000)
    assert str(error).startswith(r"\x1b[31m\nis no image")
    assert len(str(error)) == 2000
