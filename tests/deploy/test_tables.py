"""The table of stages: one line a stage, changes against the first."""

from prune.report.tables import COLUMNS, Stage, stages


def test_costs_carry_their_change_against_the_first_row() -> None:
    dense = Stage(
        "dense", 0.8, 0.5, params=2_000_000, macs=400_000_000, bytes=8_000_000, latency_ms=4
    )
    small = Stage(
        "pruned", 0.75, None, params=1_000_000, macs=100_000_000, bytes=4_000_000, latency_ms=3
    )
    header, rule, first, second = stages([dense, small]).splitlines()
    assert [cell.strip() for cell in header.split("|")[2:-1]] == list(COLUMNS)
    assert set(rule) == set("|:- ")
    assert "%" not in first
    cells = [cell.strip() for cell in second.split("|")[1:-1]]
    assert cells == [
        "pruned",
        "0.750",
        "-",
        "1,000,000 (-50 %)",
        "100 M (-75 %)",
        "4.0 MB (-50 %)",
        "3.00 ms (-25 %)",
    ]
    assert len({len(line) for line in (header, rule, first, second)}) == 1


def test_what_was_not_measured_is_no_zero() -> None:
    row = Stage("dense", None, None, params=1, macs=1, bytes=1, latency_ms=None)
    assert [cell.strip() for cell in stages([row]).splitlines()[2].split("|")[2:4]] == ["-", "-"]
