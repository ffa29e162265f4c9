from datetime import timedelta

import pytest
from pydicom.dataset import Dataset

from service.deidentification.dates import age_days, age_string, shifted

DAY_AND_A_HALF = timedelta(days=-2, seconds=43_200)  # one and a half days back


@pytest.mark.parametrize(
    ("text", "vr", "partner", "expected"),
    [
        ("20261102", "DA", "", "20261031"),  # no time: whole days, rounded down
        ("20261102", "DA", "093000", "20261031"),  # 2 November 09:30 less 36 h is 31 October 21:30
        ("093000", "TM", "20261102", "213000"),
        ("20261102", "DA", "133000", "20261101"),  # 13:30 less 36 h is 1 November 01:30
        ("133000", "TM", "20261102", "013000"),
        ("0930", "TM", "", "213000"),
        ("093000.125", "TM", "20261102", "213000.125000"),
        ("1992.03.01", "DA", "", "19920228"),  # the old form; 1992 was a leap year: 1 March less 2 days is 28 February
        ("20261102093000.5+0800", "DT", "", "20261031213000.500000"),
        ("20261102", "DT", "", "20261031"),
        ("235960", "TM", "", "115959"),  # a leap second
        ("20261131", "DA", "", None),
        ("ZHANG", "DA", "", None),
        ("25", "TM", "", None),
        ("00010101", "DA", "", None),  # there is no day before
        ("20261102TEST", "DT", "", None),
    ],
)
def test_a_moment_moves_by_exactly_the_shift(text: str, vr: str, partner: str, expected: str | None) -> None:
    assert shifted(text, vr, partner, DAY_AND_A_HALF) == expected


def test_the_age_is_counted_in_days_from_the_day_of_the_film() -> None:
    ds = Dataset()
    ds.PatientBirthDate, ds.StudyDate, ds.AcquisitionDate = "20160504", "20261103", "20261102"
    assert age_days(ds) == 3834  # ten years are 3652 days (2020 and 2024 leap), 4 May to 2 November another 182
    ds.PatientBirthDate = "20270101"
    assert age_days(ds) is None
    del ds.PatientBirthDate
    assert age_days(ds) is None


@pytest.mark.parametrize(("days", "expected"), [(0, "000M"), (3834, "125M"), (32_850, "089Y"), (45_000, "090Y")])
def test_an_age_is_stated_in_months_and_never_beyond_ninety_years(days: int, expected: str) -> None:
    # 3834 / 30.4375 = 125.96 months; 32850 / 30.4375 = 1079.3 months do not fit three digits and are 89 years
    assert age_string(days) == expected
