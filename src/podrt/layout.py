"""Every path podrt uses, from two directories: `root` outlives a reboot, `runroot` does not."""

from __future__ import annotations

import os

import msgspec

DEFAULT_ROOT = "/var/lib/podrt"
DEFAULT_RUNROOT = "/run/podrt"


class Layout(msgspec.Struct, frozen=True):
    """Paths under `root` and `runroot`, both absolute. IDs are full IDs."""

    root: str = DEFAULT_ROOT
    runroot: str = DEFAULT_RUNROOT

    @property
    def state_dir(self) -> str:
        """The write-ahead log and its snapshots."""
        return f"{self.root}/state"

    @property
    def journal_dir(self) -> str:
        """The monitors' journals."""
        return f"{self.root}/journal"

    def journal(self, group_id: str, epoch: int) -> str:
        """The journal of the `epoch`th monitor of a group."""
        return f"{self.root}/journal/{group_id}.{epoch}"

    @property
    def containers_dir(self) -> str:
        """One directory per container."""
        return f"{self.root}/containers"

    def container(self, container_id: str) -> str:
        """A container's directory, 0700: upper, work, plan, spec.json, ctr.log."""
        return f"{self.root}/containers/{container_id}"

    def plan(self, container_id: str) -> str:
        """A container's compiled plan."""
        return f"{self.root}/containers/{container_id}/plan"

    def spec(self, container_id: str) -> str:
        """A container's OCI runtime spec."""
        return f"{self.root}/containers/{container_id}/spec.json"

    def log(self, container_id: str) -> str:
        """A container's log in the k8s-file format."""
        return f"{self.root}/containers/{container_id}/ctr.log"

    @property
    def pods_dir(self) -> str:
        """One directory per group, for the files its containers share."""
        return f"{self.root}/pods"

    def pod(self, group_id: str) -> str:
        """A group's shared files: hosts, hostname, resolv.conf."""
        return f"{self.root}/pods/{group_id}"

    @property
    def images_dir(self) -> str:
        """The OCI image layout and the unpacked layers."""
        return f"{self.root}/images"

    @property
    def volumes_dir(self) -> str:
        """One directory per volume."""
        return f"{self.root}/volumes"

    @property
    def seccomp_dir(self) -> str:
        """Compiled seccomp filters, named by their hash."""
        return f"{self.root}/seccomp"

    @property
    def locks(self) -> str:
        """The lock table."""
        return f"{self.runroot}/locks"

    @property
    def run_dir(self) -> str:
        """One run directory per group."""
        return f"{self.runroot}/pods"

    def engine_dir(self, name: str) -> str:
        """What the OCI runtime `name` keeps of the containers it made."""
        return f"{self.runroot}/engines/{name}"

    def group_run(self, group_id: str) -> str:
        """A group's run directory: the monitor's lock and socket `m`, and `ns`."""
        return f"{self.runroot}/pods/{group_id}"

    def make(self) -> None:
        """Create the directories, 0700. Raises: OSError."""
        for path in (
            self.state_dir,
            self.journal_dir,
            self.containers_dir,
            self.pods_dir,
            self.images_dir,
            self.volumes_dir,
            self.seccomp_dir,
            self.run_dir,
        ):
            os.makedirs(path, mode=0o700, exist_ok=True)
