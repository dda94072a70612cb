"""What every test lives with: nothing may be left behind, and every skip is accounted for."""

from __future__ import annotations

import fnmatch
import gc
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from doubles.commands import BUSYBOX, Podrt

SKIPS_FILE = Path(__file__).parent.parent / ".ci" / "skips.txt"
KERNEL_FOLDERS = {"system", "contract", "crash"}
CGROUP_ROOT = Path("/sys/fs/cgroup")
# A monitor ends by itself after its last client has left; on a busy machine that takes a moment.
PATIENCE_S = 10.0
# This run's own word in cgroup names, so that two runs at once do not take each other's for leaks.
RUN_TOKEN = f"{os.getpid():x}{int(time.time()) & 0xFFFF:04x}"

# Every podrt that a test runs, in this process or not, asserts its order of locking.
os.environ["PODRT_DEBUG_LOCKS"] = "1"

skips_key = pytest.StashKey[dict[str, list[str]]]()

hypothesis.settings.register_profile(
    "sample", max_examples=60, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile("deep", max_examples=5000, deadline=None, database=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="run the full counts, not a sample")
    parser.addoption(
        "--strict-skips",
        action="store_true",
        default=bool(os.environ.get("PODRT_STRICT_SKIPS")),
        help="fail when a test is skipped for a reason that .ci/skips.txt does not list",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets its background jobs ignore it, and the commands under test would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[skips_key] = {}
    hypothesis.settings.load_profile("deep" if config.getoption("--deep") else "sample")


def folder_of(item: pytest.Item) -> str:
    """The folder below tests/ that a test belongs to: "unit", "system"."""
    try:
        return item.path.relative_to(Path(__file__).parent).parts[0]
    except ValueError:
        return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if folder_of(item) in KERNEL_FOLDERS or item.get_closest_marker("root"):
            item.add_marker(skip)


# --- skips -------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        remember_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        remember_skip(collector.config, report)
    return report


def remember_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = text.removeprefix("Skipped: ").strip()
    config.stash[skips_key].setdefault(reason, []).append(report.nodeid)


def allowed_skips() -> list[str]:
    lines = SKIPS_FILE.read_text().splitlines() if SKIPS_FILE.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def refused_skips(config: pytest.Config) -> list[str]:
    if not config.getoption("--strict-skips"):
        return []
    allowed = allowed_skips()
    reasons = config.stash[skips_key]
    return [
        reason
        for reason in reasons
        if not any(fnmatch.fnmatchcase(reason, pattern) for pattern in allowed)
    ]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus in (0, 5) and refused_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skips = config.stash[skips_key]
    if not skips:
        return
    refused = set(refused_skips(config))
    terminalreporter.section("skipped, and why")
    for reason, tests in sorted(skips.items()):
        verdict = "NOT ALLOWED HERE: " if reason in refused else ""
        terminalreporter.line(f"{len(tests):4d}  {verdict}{reason}")


# --- how much of a long test -------------------------------------------------------------------


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`rounds(sample, full)`: how often a crash or fuzz test repeats; full with `make deep`."""
    deep = bool(request.config.getoption("--deep"))
    return lambda sample, full: full if deep else sample


# --- nothing is left behind --------------------------------------------------------------------


@pytest.fixture
def cgroup_parent(request: pytest.FixtureRequest) -> str:
    """A cgroup parent of this test's own; the leak check looks whether it is gone."""
    number = request.session.items.index(request.node)
    return f"/podrt_test_{RUN_TOKEN}_{number}"


@pytest.fixture(scope="module")
def module_cgroup_parent(request: pytest.FixtureRequest) -> str:
    """A cgroup parent for a whole file of tests, each of which leaves it empty."""
    return f"/podrt_test_{RUN_TOKEN}_{Path(str(request.path)).stem}"


def open_descriptors() -> dict[int, str]:
    """This process's descriptors and what they are."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def monitors_below(folder: str) -> dict[int, str]:
    """podrt-* processes that hold a file below `folder`: pid and name."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            name = Path(f"/proc/{entry}/comm").read_text().strip()
            if not name.startswith("podrt-"):
                continue
            links = [os.readlink(link) for link in Path(f"/proc/{entry}/fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(folder) for link in links):
            found[int(entry)] = name
    return found


def mounts_below(folder: str) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in points if point.startswith(folder + "/")]


def cgroups_of_this_run() -> list[str]:
    patterns = (f"podrt_test_{RUN_TOKEN}*", f"*/podrt_test_{RUN_TOKEN}*")
    return [str(path) for pattern in patterns for path in CGROUP_ROOT.glob(pattern)]


def wait_empty(look: Callable[[], object]) -> object:
    """What `look` still finds after it had time to become empty."""
    deadline = time.monotonic() + PATIENCE_S
    left = look()
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = look()
    return left


@pytest.fixture(autouse=True)
def leaves_no_descriptors() -> Iterator[None]:
    before = open_descriptors()
    yield
    after = open_descriptors()
    if after.keys() - before.keys():
        gc.collect()  # an exception's frames may still hold what they opened
        after = open_descriptors()
    left = {fd: after[fd] for fd in after.keys() - before.keys()}
    assert not left, f"file descriptors left open: {left}"


@pytest.fixture(autouse=True)
def leaves_nothing_on_the_host(request: pytest.FixtureRequest) -> Iterator[None]:
    if folder_of(request.node) not in KERNEL_FOLDERS or os.geteuid() != 0:
        yield
        return
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    base = str(factory.getbasetemp())
    known = (set(monitors_below(base)), set(mounts_below(base)), set(cgroups_of_this_run()))
    yield
    checks: dict[str, Callable[[], object]] = {
        "monitors": lambda: {
            pid: name for pid, name in monitors_below(base).items() if pid not in known[0]
        },
        "mounts": lambda: set(mounts_below(base)) - known[1],
        "cgroups": lambda: set(cgroups_of_this_run()) - known[2],
    }
    left = {what: found for what, look in checks.items() if (found := wait_empty(look))}
    assert not left, f"left on the host: {left}"


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def podrt(tmp_path: Path, cgroup_parent: str) -> Iterator[Podrt]:
    """The command with the image `base`; everything is removed and checked afterwards."""
    if not BUSYBOX:
        pytest.skip("needs busybox")
    command = Podrt(tmp_path, cgroup_parent)
    command.import_busybox(tmp_path)
    yield command
    command.remove_all()
    assert command.is_clean()
