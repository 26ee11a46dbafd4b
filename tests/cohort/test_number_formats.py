import pytest

from rlvo.cohort.number_formats import shown_number

ACCOUNTING = r'_(* #,##0.00_);_(* \(#,##0.00\);_(* "-"??_);_(@_)'


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (7, "000", "007"),
        (123456789, "000-00-0000", "123-45-6789"),
        (7, '"P"000', "P007"),
        (7, r"\S\T\-0000", "ST-0007"),
        (0.55, "0%", "55%"),
        (0.555, "0.0%", "55.5%"),
        (55, '0"%"', "55%"),
        (55, r"0\%", "55%"),
        (120.5, '0.0" mL"', "120.5 mL"),
        (70, 'General" years"', "70 years"),
        (55, "[$€-2] 0.00", "€ 55"),
        (1234567, "#,##0,", "1235"),
        (5, ";;;", ""),
        (0, "0;-0;;@", ""),
        (1, '[=1]"M";[=2]"F";General', "M"),
        (2, '[=1]"M";[=2]"F";General', "F"),
        (0, '"yes";;"no"', "no"),
        (-5, "0_);(0)", "(5)"),
    ],
)
def test_text_that_a_format_makes_of_a_number(value: float, number_format: str, shown: str) -> None:
    # The expected texts are those that Excel and LibreOffice show.
    assert shown_number(value, number_format) == shown


@pytest.mark.parametrize(
    ("value", "number_format"),
    [
        (7, "General"), (7, "@"), (7.25, "0"), (7.25, "0.00"), (1234.5, "#,##0.0"), (1234.5, "# ##0.0"),
        (123456, "0.00E+00"), (0.5, "# ?/?"), (70, "[Red]0.0"), (70, "#,##0.00;[Red]-#,##0.00"), (70, ACCOUNTING),
        (0, ACCOUNTING), (3, '[=1]"M";[=2]"F";General'), (70, "#,##0_ ;-#,##0 "), (0, "#,##0"), (70, "[<1]0.00;0"),
    ],
)  # fmt: skip
def test_formats_that_only_round_and_space_leave_the_number(value: float, number_format: str) -> None:
    assert shown_number(value, number_format) is None
