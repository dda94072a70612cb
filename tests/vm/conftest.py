"""Runs the tests below ``guest/`` inside a virtual machine and reports them as if they ran here.

The development hosts have hybrid cgroups; most users' hosts have cgroup v2 alone. So one guest is
booted (Debian's stock kernel under QEMU, over this very file system, read-only), the collected
guest tests run in it with this same interpreter, and every report comes back, traceback and all,
through a shared directory. Without QEMU, virtme-ng or the kernel the tests skip and say which.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from vm.boot import PROJECT, boot_command, boot_environment, missing

GUEST_TESTS = Path(__file__).parent / "guest"
IN_GUEST = "PODRT_VM_REPORTS" in os.environ

# Under software emulation a boot takes 10-40 s and a test seconds; a hang must still end.
GUEST_LIMIT_S = 2400
TEST_LIMIT_S = 600
POLL_S = 0.1
# A guest whose host died without a word (SIGKILL) must not stay: it ends when this often nothing
# new was written into the file "heartbeat".
HEARTBEAT_S = 1.0
LONELY_S = 60
CONSOLE_TAIL_BYTES = 4000


class Machine:
    """One booted guest that runs the given tests, seen through the files it writes."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.shared = Path(tempfile.mkdtemp(prefix="podrt-vm-"))
        self.reports: dict[str, list[Any]] = {}
        self.ended: set[str] = set()
        self._read = 0
        self._deadline = time.monotonic() + GUEST_LIMIT_S
        self._config = items[0].config
        self._beat_at = 0.0
        (self.shared / "reports").touch()
        self._beat()
        (self.shared / "args").write_text("".join(f"{item.nodeid}\n" for item in items))
        (self.shared / "start").write_text(self._script())
        self._console = (self.shared / "console").open("wb")
        self._process = subprocess.Popen(
            boot_command(self.shared, self.shared / "start"),
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=boot_environment(),
        )

    def _script(self) -> str:
        """What the guest runs: everything that is written goes to a tmpfs or the shared dir."""
        shared, project = shlex.quote(str(self.shared)), shlex.quote(str(PROJECT))
        sources = shlex.quote(os.environ.get("PYTHONPATH", ""))
        return f"""
mkdir -p /run/podrt-vm
mount -t tmpfs -o mode=0755 tmpfs /run/podrt-vm
export TMPDIR=/run/podrt-vm HOME=/run/podrt-vm PODRT_VM_REPORTS={shared}/reports
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={sources} PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
export PATH={shlex.quote(str(Path(sys.executable).parent))}:/usr/local/sbin:/usr/sbin:/sbin:$PATH
cd {project} || exit 1
(while sleep {LONELY_S}; do
    beat=$(cat {shared}/heartbeat)
    [ "$beat" != "$last" ] || {{ echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger; }}
    last=$beat
done) >/dev/null 2>&1 &
timeout {GUEST_LIMIT_S - 60} {shlex.quote(sys.executable)} -m pytest -q -p no:cacheprovider \\
    --timeout={TEST_LIMIT_S} --basetemp=/run/podrt-vm/tests @{shared}/args
"""

    def outcome(self, nodeid: str) -> list[Any]:
        """The reports of one test, waited for while the guest lives."""
        while nodeid not in self.ended:
            self._beat()
            alive = self._process.poll() is None
            self._take_reports()
            if nodeid in self.ended or not alive:
                break
            if time.monotonic() > self._deadline:
                self.close()
                break
            time.sleep(POLL_S)
        return self.reports.get(nodeid, []) if nodeid in self.ended else []

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= HEARTBEAT_S:
            self._beat_at = now
            (self.shared / "heartbeat").write_text(f"{now}\n")

    def _take_reports(self) -> None:
        with (self.shared / "reports").open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, data: dict[str, Any]) -> None:
        report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        if isinstance(report.longrepr, list):  # JSON has no tuples; a skip's place must be one
            report.longrepr = tuple(report.longrepr)
        self.reports.setdefault(report.nodeid, []).append(report)
        if getattr(report, "when", "teardown") == "teardown":
            self.ended.add(report.nodeid)

    def console(self) -> str:
        """The end of what the guest printed: the only witness when it died."""
        data = (self.shared / "console").read_bytes()[-CONSOLE_TAIL_BYTES:]
        return data.decode(errors="replace")

    def close(self) -> None:
        """End the guest, with its whole process group, and remove what it shared."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._console.close()


MACHINE: pytest.StashKey[Machine] = pytest.StashKey()


def is_guest_test(item: pytest.Item) -> bool:
    """Whether the item belongs into the guest."""
    return GUEST_TESTS in item.path.parents


class Messenger:
    """Hands each report of a guest's test to the host, one JSON line each."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Append the report, whole lines only: the host reads while this is written."""
        hook = self._config.hook
        data = hook.pytest_report_to_serializable(config=self._config, report=report)
        with open(os.environ["PODRT_VM_REPORTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")


if IN_GUEST:

    def pytest_configure(config: pytest.Config) -> None:
        """Inside the guest tests run as everywhere, and the host is told."""
        config.pluginmanager.register(Messenger(config))

else:

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Skip the guest's tests with the reason when no guest can be booted."""
        reason = missing()
        for item in filter(is_guest_test, items):
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
            # Here a test takes as long as the boot and all before it; the guest has its own limits.
            item.add_marker(pytest.mark.timeout(0), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
        """Report a guest's test from what the guest said, booting it at the first one."""
        if not is_guest_test(item) or missing():
            return None
        machine = _machine(item.session)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in machine.outcome(item.nodeid) or [_died(item, machine)]:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_unconfigure(config: pytest.Config) -> None:
        """Leave no guest behind, whatever happened."""
        machine = config.stash.get(MACHINE, None)
        if machine is not None:
            machine.close()
            shutil.rmtree(machine.shared, ignore_errors=True)


def _machine(session: pytest.Session) -> Machine:
    if MACHINE not in session.config.stash:
        items = [item for item in session.items if is_guest_test(item)]
        session.config.stash[MACHINE] = Machine(items)
    return session.config.stash[MACHINE]


def _died(item: pytest.Item, machine: Machine) -> pytest.TestReport:
    """The report of a test that the guest never reported."""
    words = f"the guest said nothing about this test; its console ends:\n{machine.console()}"
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=words,
        when="call",
    )
