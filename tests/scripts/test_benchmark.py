"""scripts/bench: what it calculates from runs, how results are merged and shown, and that it measures what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark.medians import median, median_ratio, spread
from benchmark.options import Options
from benchmark.plans import plans
from benchmark.process import Job, Measured, failed, measure
from benchmark.report import Section, Table, markdown, merged, page
from benchmark.side_by_side import Pair, side_by_side
from benchmark.steps import rate_after_first


def test_a_failed_repeat_counts_neither_in_medians_nor_in_ratios() -> None:
    assert median([3.0, None, 1.0]) == 2.0
    assert median([None]) is None
    assert median_ratio([2.0, None, 9.0], [1.0, 1.0, 3.0]) == 2.5
    assert spread([1.0, 200.0, None]) == "1-200"


def test_a_ratio_is_taken_within_a_repeat() -> None:
    # The machine was half as fast in the second repeat; the ratio was the same.
    assert median_ratio([10.0, 5.0], [5.0, 2.5]) == 2.0


def test_the_first_step_is_not_timed() -> None:
    steps = [{"tokens": 100, "elapsed": 60.0}, {"tokens": 200, "elapsed": 61.0}, {"tokens": 300, "elapsed": 62.0}]
    assert rate_after_first(steps) == 100.0
    assert rate_after_first(steps[:1]) is None


def test_what_a_process_stood_still_does_not_count() -> None:
    steps = [{"tokens": 100 * n, "elapsed": elapsed} for n, elapsed in ((1, 1.0), (2, 5.0), (3, 9.0))]
    # A second before the first step, three in each of the next two, and ten after the last.
    assert rate_after_first(steps, {0: 1.0, 1: 3.0, 2: 3.0, 3: 10.0}) == 100.0


def test_tables_line_up_and_numbers_are_set_right() -> None:
    table = markdown(("what", "tokens/s"), [("a|b", "12"), ("longer", "")])
    assert table.splitlines() == [
        "| what   | tokens/s |",
        "|--------|---------:|",
        "| a/b    |       12 |",
        "| longer |        — |",
    ]


def section(*rows: tuple[str, str]) -> Section:
    runs = [{"name": name, "peak_bytes": 1} for name, _ in rows]
    return Section("plans", "Plans", "About.", (Table("T", ("row", "value"), rows),), runs)


def test_rows_measured_again_replace_only_themselves() -> None:
    first = merged(None, section(("a", "1"), ("b", "2")), "2026-01-01")
    second = merged(first, section(("b", "3")), "2026-01-02")
    assert [(row["cells"], row["date"]) for row in second["tables"][0]["rows"]] == [
        (["a", "1"], "2026-01-01"),
        (["b", "3"], "2026-01-02"),
    ]
    assert [run["name"] for run in second["runs"]] == ["a", "b"]
    assert "Measured 2026-01-01 to 2026-01-02" in page({"plans": second})


def on(cpu: str, commit: str, *rows: tuple[str, str]) -> Section:
    machine = {"cpu": cpu, "cores": 2, "threads": 2, "memory_bytes": 1 << 30, "flags": []}
    return replace(section(*rows), setting={"machine": machine, "versions": {"pocketft": {"commit": commit}}})


def test_rows_of_another_commit_say_so_and_those_of_another_machine_go() -> None:
    first = merged(None, on("one", "aaa", ("a", "1"), ("b", "2")), "2026-01-01")
    second = merged(first, on("one", "bbb", ("b", "3")), "2026-01-01")
    assert "commit aaa and bbb" in page({"plans": second})
    third = merged(second, on("other", "bbb", ("b", "4")), "2026-01-01")
    assert [row["cells"] for row in third["tables"][0]["rows"]] == [["b", "4"]]
    assert [run["name"] for run in third["runs"]] == ["b"]


def test_a_row_measured_again_keeps_its_place_and_the_summary_is_of_all_rows() -> None:
    def summed(rows: Sequence[Sequence[str]]) -> Table:
        return Table("Sum", ("row", "value"), [("sum", str(sum(int(row[1]) for row in rows)))])

    first = merged(None, replace(section(("a", "1"), ("b", "2")), summary=summed), "2026-01-01")
    second = merged(first, replace(section(("a", "5")), summary=summed), "2026-01-02")
    assert [table["title"] for table in second["tables"]] == ["Sum", "T"]
    assert [row["cells"] for table in second["tables"] for row in table["rows"]] == [
        ["sum", "7"],
        ["a", "5"],
        ["b", "2"],
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_is_measured_from_outside(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [{"event": "begin"}, *({"event": "step", "tokens": n, "elapsed": n, "loss": 1.0 / n} for n in (1, 3))]
    program = f"""
import json, time
held = b"x" * (64 << 20)
with open({str(log)!r}, "w") as log:
    for line in {lines!r}:
        log.write(json.dumps(line) + "\\n")
        log.flush()
        time.sleep(0.2)
"""
    measured = measure(Job("test", (sys.executable, "-c", program), log))
    assert measured.ok and measured.steps == 2 and measured.loss == pytest.approx(1 / 3)
    assert measured.tokens_per_s == 1.0
    assert measured.anonymous_bytes is not None and measured.peak_bytes > measured.anonymous_bytes > 64 << 20
    assert measured.ready_s is not None and measured.first_step_s is not None
    assert measured.ready_s < measured.first_step_s < measured.wall_s
    assert json.dumps(measured.to_json())


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    program = 'import sys; print("error: no plan fits"); sys.exit(2)'
    measured = measure(Job("test", (sys.executable, "-c", program), tmp_path / "log"))
    assert not measured.ok
    assert measured.error == "exit 2 error: no plan fits"


STEPS = """
import json, sys, time
began = time.perf_counter()
with open(sys.argv[1], "w") as log:
    for step in range(4):
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        event = {"event": "step", "step": step, "tokens": step, "elapsed": time.perf_counter() - began, "loss": 1.0}
        print(json.dumps(event), file=log, flush=True)
"""


def test_two_processes_side_by_side_both_come_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.side_by_side._SLICE_S", 0.05)
    jobs = {name: Job(name, (sys.executable, "-c", STEPS, str(tmp_path / name)), tmp_path / name) for name in "ab"}
    pair = side_by_side(lambda: jobs["a"], lambda: jobs["b"], 2)
    assert [run.name for run in (*pair.one, *pair.other)] == ["a", "a", "b", "b"]
    assert all(run.ok and run.steps == 4 for run in (*pair.one, *pair.other))
    assert pair.ratio is not None and pair.ratio > 0
    assert [(record["name"], record["beside"]) for record in pair.records()] == [("a", "b"), ("b", "a")] * 2


def test_a_contender_that_fails_is_told_and_leaves_nobody_behind(tmp_path: Path) -> None:
    failing = Job("failing", (sys.executable, "-c", "raise SystemExit('error: no plan fits')"), tmp_path / "failing")
    fine = Job("fine", (sys.executable, "-c", STEPS, str(tmp_path / "fine")), tmp_path / "fine")
    first, second = side_by_side(lambda: failing, lambda: fine, 1), side_by_side(lambda: fine, lambda: failing, 1)
    assert first.one[0].error == "exit 1 error: no plan fits" and "not begun" in first.other[0].error
    assert second.one[0].ok and second.other[0].error == "exit 1 error: no plan fits"
    assert first.ratio is None and second.ratio is None


def test_a_process_that_ended_is_no_longer_timed_while_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.side_by_side._SLICE_S", 0.05)
    short, long = STEPS.replace("range(4)", "range(2)"), STEPS.replace("range(4)", "range(12)")
    jobs = [
        Job(name, (sys.executable, "-c", program, str(tmp_path / name)), tmp_path / name)
        for name, program in (("short", short), ("long", long))
    ]
    pair = side_by_side(lambda: jobs[0], lambda: jobs[1], 1)
    assert pair.one[0].ok and pair.other[0].ok
    assert pair.one[0].wall_s < pair.other[0].wall_s


def plan_runs(monkeypatch: pytest.MonkeyPatch, errors: Mapping[str, str]) -> None:
    """Plans of all kinds run at 100 tokens/s, and those in whose names a word of `errors` is fail for that reason."""

    def run_of(name: str) -> Measured:
        error = next((error for word, error in errors.items() if word in name), "")
        run = failed(name, error)
        return run if error else replace(run, ok=True, tokens_per_s=100.0, events=({"event": "plan", "choice": "c"},))

    def run_both(one: Callable[[], str], other: Callable[[], str], repeats: int) -> Pair:
        return Pair((run_of(one()),) * repeats, (run_of(other()),) * repeats)

    monkeypatch.setattr("benchmark.plans.prepare", lambda task: None)
    monkeypatch.setattr("benchmark.plans.planned_job", lambda name, *_: name)
    monkeypatch.setattr("benchmark.plans.side_by_side", run_both)


def test_the_best_plan_is_looked_for_among_all_and_not_among_some(monkeypatch: pytest.MonkeyPatch) -> None:
    plan_runs(monkeypatch, {})
    measured = {
        only: [row[0] for row in plans(Options(only=only)).tables[0].rows] for only in ((), ("1GB:",), ("pack",))
    }
    best = [f"tokens/s: chosen plan under {cap} / best of the others" for cap in ("4GB", "1GB")]
    assert set(best) < set(measured[()])
    assert best[1] in measured[("1GB:",)] and best[0] not in measured[("1GB:",)]
    assert measured[("pack",)] == []


def test_a_plan_that_fails_is_told_and_one_that_does_not_fit_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    none, broken = "exit 2 error: no plan fits in 4 GB", "killed by signal 9"
    plan_runs(monkeypatch, {"dense": none, "4GB: packed, all kept, wide": broken})
    goals, under_4gb, under_1gb = plans(Options(repeats=2)).tables
    named = {row[0]: row for row in under_4gb.rows}
    assert not any("dense" in name for name in named)
    assert named["4GB: packed, all kept, wide tiles"][-1] == broken
    assert under_4gb.notes == f"*4GB: packed, all kept, wide tiles*: {broken}."
    assert under_1gb.notes == ""
    told = {row[0]: row[-1] for row in goals.rows}
    assert told["tokens/s: streamed / packed under 4GB, all kept"].startswith("failed (failed, failed)")
    assert told["tokens/s: streamed / packed under 1GB, all kept"].startswith("1.00 (1.00, 1.00)")


def test_versions_of_peers_stay_beside_their_rows_when_only_ours_are_measured_again() -> None:
    first = on("one", "aaa", ("a", "1"), ("b", "2"))
    versions = {**first.setting["versions"], "peers": {"trl": "1.2"}}
    before = merged(None, replace(first, setting={**first.setting, "versions": versions}), "2026-01-01")
    assert "peers: trl 1.2" in page({"compare": merged(before, on("one", "bbb", ("b", "3")), "2026-01-02")})
