"""Rounds, numbers, results: contenders run alternately, so that a noisy machine hits them alike."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"

# Fewer rounds cannot tell a change from noise; more burn a shared machine.
ROUNDS = 7
QUICK_ROUNDS = 2
# The kernel takes removed cgroups, mounts and namespaces apart later, on every core: a contender
# that comes right after would pay for the one before.
QUIET_S = 0.5


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    `measure` does the work once and returns milliseconds (or what the row's `unit` says);
    whatever it leaves, `settle` takes away outside the measured time, so that every contender
    meets the same machine. In a row that grows it is the point `at` of the line `series`.
    """

    name: str
    measure: Callable[[], float]
    settle: Callable[[], None] = lambda: None
    series: str = ""
    at: int = 0


@dataclass(frozen=True)
class Target:
    """What a row promises: `subject` at most `at_most` times `reference`'s time.

    With `is_excess`: at most so many milliseconds more than `reference`, by what is divided by.
    """

    subject: str
    reference: str
    at_most: float
    words: str
    is_excess: bool = False


@dataclass(frozen=True)
class Row:
    """A benchmark: what is done, by whom, with which isolation, and what it must reach.

    `grows_by` says what there is ever more of, in a row whose picture is a line for each series.
    `note` says at the end what else has to be known; `most_rounds` is for a peer that takes
    minutes, where the promise is a ratio of tens.
    """

    key: str
    work: str
    isolation: str
    contenders: list[Contender]
    targets: list[Target]
    divide_by: int = 1
    grows_by: str = ""
    unit: str = "ms"
    note: Callable[[], str] = lambda: ""
    most_rounds: int = 100


@dataclass
class Outcome:
    """A row's measured milliseconds (`unit`), by contender, in the order of the rounds."""

    key: str
    work: str
    isolation: str
    divide_by: int
    grows_by: str = ""
    unit: str = "ms"
    note: str = ""
    points: dict[str, tuple[str, int]] = field(default_factory=dict)
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    targets: list[dict[str, object]] = field(default_factory=list)

    def median_ms(self, name: str) -> float:
        return statistics.median(self.times_ms[name])

    def ratios(self, subject: str, reference: str) -> list[float]:
        """The ratio within each round: what a drifting machine spares."""
        pairs = zip(self.times_ms[subject], self.times_ms[reference], strict=True)
        return [mine / other for mine, other in pairs]

    def ratio(self, subject: str, reference: str) -> float:
        """The median of those."""
        return statistics.median(self.ratios(subject, reference))

    def excess(self, subject: str, reference: str) -> float:
        """The median of what the subject takes longer within each round, by what is divided by."""
        pairs = zip(self.times_ms[subject], self.times_ms[reference], strict=True)
        return statistics.median(mine - other for mine, other in pairs) / self.divide_by


def run_row(row: Row, rounds: int, say: Callable[[str], None]) -> Outcome:
    """Run a row's contenders A B C A B C ..., after one round that only warms up."""
    outcome = Outcome(row.key, row.work, row.isolation, row.divide_by, row.grows_by, unit=row.unit)
    outcome.points = {one.name: (one.series, one.at) for one in row.contenders if one.series}
    outcome.times_ms = {contender.name: [] for contender in row.contenders}
    rounds = min(rounds, row.most_rounds)
    for number in range(rounds + 1):
        for contender in row.contenders:
            try:
                spent_ms = contender.measure()
            finally:
                contender.settle()
            time.sleep(QUIET_S)
            if number:
                outcome.times_ms[contender.name].append(spent_ms)
        if number:
            last = "  ".join(f"{name} {times[-1]:.1f}" for name, times in outcome.times_ms.items())
            say(f"  {row.key} round {number}/{rounds}: {last} {row.unit}")
    outcome.note = row.note()
    outcome.targets = [judge(outcome, target) for target in row.targets]
    return outcome


def judge(outcome: Outcome, target: Target) -> dict[str, object]:
    """How a promise fared."""
    measure = outcome.excess if target.is_excess else outcome.ratio
    found = measure(target.subject, target.reference)
    is_reached = found <= target.at_most
    return {
        **asdict(target), "unit": outcome.unit, "ratio": round(found, 4), "reached": is_reached
    }  # fmt: skip


# ---- showing ----


def spread(times: list[float]) -> str:
    return f"{min(times):.1f}-{max(times):.1f}"


def table(outcome: Outcome) -> str:
    """A row as text: median, spread, per container, then each promise."""
    lines = [f"{outcome.key}  {outcome.work}", f"    isolation: {outcome.isolation}"]
    for name, times in outcome.times_ms.items():
        each = f"{outcome.median_ms(name) / outcome.divide_by:9.3f} {outcome.unit} each"
        each = each if outcome.divide_by > 1 else ""
        lines.append(
            f"    {name:34} median {outcome.median_ms(name):9.1f} {outcome.unit}"
            f"  ({spread(times)}) {each}".rstrip()
        )
    for target in outcome.targets:
        verdict = "reached" if target["reached"] else "NOT reached"
        lines.append(f"    {target['words']}: {verdict}, {ratio_words(target)}")
    if outcome.note:
        lines.append(f"    {outcome.note}")
    return "\n".join(lines)


def ratio_words(target: dict[str, object]) -> str:
    ratio = float(str(target["ratio"]))
    if target.get("is_excess"):
        return f"{target['subject']} - {target['reference']} = {ratio:.3f} ms each"
    against = f"{target['subject']} / {target['reference']}"
    is_faster = ratio < 1 and target["unit"] == "ms"
    faster = f" ({1 / ratio:.1f} x faster)" if is_faster else ""
    return f"{against} = {ratio:.3f}{faster}"


def picture(outcomes: list[Outcome], path: Path) -> None:
    """A panel for each row: bars of ratios, or lines for a row that grows."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    heights = [2.2 if one.grows_by else 0.9 + 0.28 * len(one.times_ms) for one in outcomes]
    figure, panels = pyplot.subplots(
        len(outcomes), 1, figsize=(9, 0.4 + sum(heights)), squeeze=False, height_ratios=heights
    )
    for panel, outcome in zip(panels[:, 0], outcomes, strict=True):
        panel.set_title(f"{outcome.key}: {outcome.work}", fontsize=9, loc="left")
        panel.tick_params(labelsize=8)
        draw = draw_lines if outcome.grows_by else draw_bars
        draw(panel, outcome)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_bars(panel: Any, outcome: Outcome) -> None:
    """Everybody's time over that of the row's subject, with the rounds' spread as a whisker."""
    names = list(outcome.times_ms)
    subject = outcome.targets[0]["subject"] if outcome.targets else names[0]
    ratios = {name: outcome.ratios(name, str(subject)) for name in names}
    medians = [statistics.median(ratios[name]) for name in names]
    low = [median - min(ratios[name]) for name, median in zip(names, medians, strict=True)]
    high = [max(ratios[name]) - median for name, median in zip(names, medians, strict=True)]
    colours = ["#1f6f8b" if name.startswith("podrt") else "#b9b9b9" for name in names]
    panel.barh(names, medians, xerr=[low, high], color=colours, ecolor="#555555")
    panel.axvline(1, color="#c0504d", linewidth=0.8)
    panel.invert_yaxis()
    panel.set_xscale("log")
    everything = [ratio for some in ratios.values() for ratio in some]
    left = min(0.5, 0.8 * min(everything))
    # The words behind the longest bar need a third of the width.
    panel.set_xlim(left=left, right=max(everything) * (max(everything) / left) ** 0.4)
    panel.minorticks_off()
    panel.set_xlabel(f"times that of {subject}, logarithmic: less is better", fontsize=8)
    for position, (name, median) in enumerate(zip(names, medians, strict=True)):
        words = f"  {median:.2f} x ({outcome.median_ms(name):.1f} {outcome.unit})"
        panel.annotate(words, (max(ratios[name]), position), fontsize=8, va="center")


def draw_lines(panel: Any, outcome: Outcome) -> None:
    """Each series over what there is ever more of; what does not grow is level."""
    for series in dict.fromkeys(series for series, _ in outcome.points.values()):
        names = [name for name, point in outcome.points.items() if point[0] == series]
        counts = [outcome.points[name][1] for name in names]
        medians = [outcome.median_ms(name) for name in names]
        low = [m - min(outcome.times_ms[n]) for n, m in zip(names, medians, strict=True)]
        high = [max(outcome.times_ms[n]) - m for n, m in zip(names, medians, strict=True)]
        colour = "#1f6f8b" if series.startswith("podrt") else "#8a8a8a"
        panel.errorbar(
            counts, medians, yerr=[low, high], marker="o", color=colour, label=series, capsize=2
        )
    panel.set_xscale("log")
    panel.set_ylim(bottom=0, top=1.3 * max(map(max, outcome.times_ms.values())))
    panel.set_xlabel(outcome.grows_by, fontsize=8)
    panel.set_ylabel("ms", fontsize=8)
    panel.legend(fontsize=8)


# ---- keeping ----


def first_line(*command: str) -> str:
    """What a program says its version is, or that it is not here."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "absent"
    return (result.stdout or result.stderr).strip().split("\n")[0]


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{len(models)} x {models[0] if models else platform.machine()}",
        "kernel": platform.release(),
        "cgroups": "v2" if controllers else "v1",
        "python": platform.python_version(),
        "podman": first_line("podman", "--version"),
        "crun": first_line("crun", "--version"),
    }


def keep(outcomes: list[Outcome], rounds: int) -> Path:
    """Write the results as JSON and as a picture; the JSON's path."""
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = RESULTS / f"{stamp}.json"
    document = {
        "machine": machine(),
        "rounds": rounds,
        "command": sys.argv[1:],
        "rows": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(document, indent=1))
    picture(outcomes, path.with_suffix(".png"))
    return path


ROWS_BEGIN, ROWS_END = "<!-- rows -->", "<!-- end of rows -->"


def publish(outcomes: list[Outcome], rounds: int) -> None:
    """Put the measured rows into README.md, also those that fall short."""
    facts = machine()
    lines = [
        f"Measured {facts['date']}: {facts['processor']}, Linux {facts['kernel']}, cgroup "
        f"{facts['cgroups']}, Python {facts['python']}, {facts['podman']}, {facts['crun']}; "
        f"{rounds} rounds after a warm-up.",
        "",
        "| row | who | median | spread | promise | measured |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        lines += published_rows(outcome)
    path = HERE / "README.md"
    text = path.read_text()
    before, rest = text.split(ROWS_BEGIN, 1)
    after = rest.split(ROWS_END, 1)[1]
    body = "\n".join(lines)
    path.write_text(f"{before}{ROWS_BEGIN}\n{body}\n{ROWS_END}{after}")


def published_rows(outcome: Outcome) -> list[str]:
    """A row's lines of README.md's table: a line per contender, then one per promise."""
    lines = [
        f"| {outcome.key} | {name} | {outcome.median_ms(name):.1f} {outcome.unit} "
        f"| {spread(times)} | | |"
        for name, times in outcome.times_ms.items()
    ]
    for target in outcome.targets:
        verdict = "reached" if target["reached"] else "**not reached**"
        lines.append(
            f"| {outcome.key} | | | | {target['words']} | {ratio_words(target)}: {verdict} |"
        )
    if outcome.note:
        lines.append(f"| {outcome.key} | | | | | {outcome.note} |")
    return lines
