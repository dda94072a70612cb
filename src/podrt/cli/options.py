"""Every option of podman's verbs for pods and containers, and where podrt stands with it.

Read from podman 4.3.1 and from the manual pages of podman 5. Only a command line that was refused
looks in here: an option that podrt does not have yet is named as such, not as a mistake. What
works is in `--help`, which a test holds this table against.
"""

from __future__ import annotations

from typing import NamedTuple

from podrt.errors import Unsupported


class Options(NamedTuple):
    """The long options of a verb, without their dashes, in one of three states."""

    works: str = ""
    not_yet: str = ""
    not_ours: str = ""


def missing(verb: str, flag: str) -> Unsupported | None:
    """The error for an option of podman's that `verb` does not have; None for any other word."""
    options = OPTIONS.get(verb)
    name = flag.partition("=")[0].removeprefix("--")
    if options is None or not flag.startswith("--"):
        return None
    if name in options.not_ours.split():
        return Unsupported(f"--{name}", NOT_OURS[name])
    if name in options.not_yet.split():
        return Unsupported(f"--{name}", "it is not built yet")
    return None


OPTIONS: dict[str, Options] = {
    "pod create": Options(
        works=(
            "add-host blkio-weight blkio-weight-device cgroup-parent cpu-period cpu-quota "
            "cpu-shares cpus cpuset-cpus cpuset-mems device device-read-bps device-read-iops "
            "device-write-bps device-write-iops dns dns-option dns-search exit-policy gidmap "
            "hostname hosts-file infra infra-command infra-image infra-name label label-file "
            "memory memory-reservation memory-swap name no-hostname no-hosts pid pod-id-file "
            "replace restart security-opt share share-parent shm-size subgidname subuidname "
            "sysctl uidmap userns uts volume volumes-from"
        ),
        not_yet="gpus ip ip6 mac-address network network-alias publish shm-size-systemd",
        not_ours="infra-conmon-pidfile",
    ),
    "pod start": Options(
        works="all latest pod-id-file timeline",
    ),
    "pod stop": Options(
        works="all ignore latest pod-id-file time timeout",
    ),
    "pod restart": Options(
        works="all latest time timeout",
    ),
    "pod pause": Options(
        works="all latest",
    ),
    "pod unpause": Options(
        works="all latest",
    ),
    "pod kill": Options(
        works="all latest signal",
    ),
    "pod rm": Options(
        works="all force ignore latest pod-id-file time",
    ),
    "pod ps": Options(
        works="ctr-ids ctr-names ctr-status filter format latest no-trunc noheading ns quiet sort",
    ),
    "pod inspect": Options(
        works="format latest",
    ),
    "pod exists": Options(),
    "pod logs": Options(
        works="color container follow latest names since tail timestamps until",
    ),
    "pod top": Options(
        works="latest",
    ),
    "pod stats": Options(
        works="all format interval latest no-reset no-stream no-trunc",
    ),
    "pod prune": Options(
        works="force",
    ),
    "pod clone": Options(
        works=(
            "blkio-weight blkio-weight-device cgroup-parent cpu-period cpu-quota cpu-shares cpus "
            "cpuset-cpus cpuset-mems destroy device device-read-bps device-read-iops "
            "device-write-bps device-write-iops gidmap hostname infra-command infra-name label "
            "label-file memory memory-reservation memory-swap name pid restart security-opt "
            "shm-size start subgidname subuidname sysctl uidmap userns uts volume volumes-from"
        ),
        not_yet="gpus shm-size-systemd",
        not_ours="infra-conmon-pidfile",
    ),
    "create": Options(
        works=(
            "add-host annotation blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent "
            "cgroupns cidfile cpu-period cpu-quota cpu-shares cpus cpuset-cpus cpuset-mems device "
            "device-cgroup-rule device-read-bps device-read-iops device-write-bps "
            "device-write-iops dns dns-option dns-search entrypoint env env-file env-host "
            "env-merge gidmap group-add hostname hosts-file http-proxy init-ctr interactive ipc "
            "label label-file log-opt memory memory-reservation memory-swap mount name network "
            "no-hostname no-hosts oom-score-adj personality pid pidfile pids-limit pod "
            "pod-id-file privileged quiet read-only read-only-tmpfs replace requires restart rm "
            "rootfs security-opt shm-size stop-signal stop-timeout subgidname subuidname sysctl "
            "tmpfs tty tz uidmap ulimit umask unsetenv unsetenv-all user userns uts volume "
            "volumes-from workdir"
        ),
        not_yet=(
            "attach cgroup-conf cgroups expose gpus group-entry health-cmd health-interval "
            "health-log-destination health-max-log-count health-max-log-size health-on-failure "
            "health-retries health-start-period health-startup-cmd health-startup-interval "
            "health-startup-retries health-startup-success health-startup-timeout health-timeout "
            "image-volume init init-path ip ip6 log-driver mac-address network-alias "
            "no-healthcheck passwd-entry publish publish-all sdnotify secret shm-size-systemd "
            "systemd timeout"
        ),
        not_ours=(
            "arch authfile cert-dir chrootdirs conmon-pidfile cpu-rt-period cpu-rt-runtime creds "
            "decryption-key disable-content-trust hostuser memory-swappiness oom-kill-disable os "
            "platform pull rdt-class retry retry-delay seccomp-policy tls-verify variant"
        ),
    ),
    "run": Options(
        works=(
            "add-host annotation blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent "
            "cgroupns cidfile cpu-period cpu-quota cpu-shares cpus cpuset-cpus cpuset-mems detach "
            "device device-cgroup-rule device-read-bps device-read-iops device-write-bps "
            "device-write-iops dns dns-option dns-search entrypoint env env-file env-host "
            "env-merge gidmap group-add hostname hosts-file http-proxy init-ctr interactive ipc "
            "label label-file log-opt memory memory-reservation memory-swap mount name network "
            "no-hostname no-hosts oom-score-adj personality pid pidfile pids-limit pod "
            "pod-id-file privileged quiet read-only read-only-tmpfs replace requires restart rm "
            "rootfs security-opt shm-size sig-proxy stop-signal stop-timeout subgidname "
            "subuidname sysctl tmpfs tty tz uidmap ulimit umask unsetenv unsetenv-all user userns "
            "uts volume volumes-from workdir"
        ),
        not_yet=(
            "attach cgroup-conf cgroups detach-keys expose gpus group-entry health-cmd "
            "health-interval health-log-destination health-max-log-count health-max-log-size "
            "health-on-failure health-retries health-start-period health-startup-cmd "
            "health-startup-interval health-startup-retries health-startup-success "
            "health-startup-timeout health-timeout image-volume init init-path ip ip6 log-driver "
            "mac-address network-alias no-healthcheck passwd passwd-entry preserve-fd "
            "preserve-fds publish publish-all rmi sdnotify secret shm-size-systemd systemd "
            "timeout"
        ),
        not_ours=(
            "arch authfile cert-dir chrootdirs conmon-pidfile cpu-rt-period cpu-rt-runtime creds "
            "decryption-key disable-content-trust hostuser memory-swappiness oom-kill-disable os "
            "platform pull rdt-class retry retry-delay seccomp-policy tls-verify variant"
        ),
    ),
    "start": Options(
        works="all filter latest",
        not_yet="attach detach-keys interactive sig-proxy",
    ),
    "stop": Options(
        works="all cidfile filter ignore latest time timeout",
    ),
    "restart": Options(
        works="all cidfile filter latest running time timeout",
    ),
    "pause": Options(
        works="all cidfile filter latest",
    ),
    "unpause": Options(
        works="all cidfile filter latest",
    ),
    "kill": Options(
        works="all cidfile latest signal",
    ),
    "rm": Options(
        works="all cidfile depend filter force ignore latest time",
        not_yet="volumes",
    ),
    "ps": Options(
        works="all filter format last latest no-trunc noheading ns pod quiet size sort watch",
        not_ours="external sync",
    ),
    "events": Options(
        works="filter format no-trunc since stream until",
    ),
    "inspect": Options(
        works="format latest size type",
    ),
    "logs": Options(
        works="color follow latest names since tail timestamps until",
    ),
    "top": Options(
        works="latest",
    ),
    "stats": Options(
        works="all format interval latest no-reset no-stream no-trunc",
    ),
    "wait": Options(
        works="all ignore latest",
        not_yet="condition exit-first-match interval return-on-first",
    ),
    "pod update": Options(
        works=(
            "blkio-weight blkio-weight-device cpu-period cpu-quota cpu-shares cpus cpuset-cpus "
            "cpuset-mems device-read-bps device-read-iops device-write-bps device-write-iops "
            "memory memory-reservation memory-swap pids-limit restart"
        ),
    ),
    "update": Options(
        works=(
            "blkio-weight blkio-weight-device cpu-period cpu-quota cpu-shares cpus cpuset-cpus "
            "cpuset-mems device-read-bps device-read-iops device-write-bps device-write-iops "
            "memory memory-reservation memory-swap pids-limit restart"
        ),
        not_yet=(
            "env health-cmd health-interval health-log-destination health-max-log-count "
            "health-max-log-size health-on-failure health-retries health-start-period "
            "health-startup-cmd health-startup-interval health-startup-retries "
            "health-startup-success health-startup-timeout health-timeout latest no-healthcheck "
            "unsetenv"
        ),
        not_ours="cpu-rt-period cpu-rt-runtime memory-swappiness",
    ),
    "container clone": Options(
        works=(
            "blkio-weight blkio-weight-device cpu-period cpu-quota cpu-shares cpus cpuset-cpus "
            "cpuset-mems destroy device-read-bps device-read-iops device-write-bps "
            "device-write-iops force memory memory-reservation memory-swap name pod run"
        ),
        not_ours="cpu-rt-period cpu-rt-runtime memory-swappiness",
    ),
    "rename": Options(),
    "container exists": Options(),
}

NOT_OURS: dict[str, str] = {
    "arch": "images are imported for this machine",
    "authfile": "nothing is pulled from registries",
    "cert-dir": "nothing is pulled from registries",
    "chrootdirs": "what it serves is not in the runtime specification",
    "conmon-pidfile": "there is no conmon: one monitor watches a whole pod",
    "cpu-rt-period": "kernels with cgroup v2 do not have it",
    "cpu-rt-runtime": "kernels with cgroup v2 do not have it",
    "creds": "nothing is pulled from registries",
    "decryption-key": "nothing is pulled from registries",
    "disable-content-trust": "nothing is pulled from registries",
    "external": "there is no other tool's storage to look into",
    "hostuser": "users of the host are not written into containers",
    "infra-conmon-pidfile": "there is no conmon: one monitor watches a whole pod",
    "memory-swappiness": "cgroup v2 does not have it",
    "oom-kill-disable": "cgroup v2 does not have it",
    "os": "images are imported for this machine",
    "platform": "images are imported for this machine",
    "pull": "nothing is pulled from registries",
    "rdt-class": "the kernel's resource control groups are not used",
    "retry": "nothing is pulled from registries",
    "retry-delay": "nothing is pulled from registries",
    "seccomp-policy": "images carry no filters",
    "sync": "states come from the kernel, never from a copy",
    "tls-verify": "nothing is pulled from registries",
    "variant": "images are imported for this machine",
}
"""Why podrt will not have an option."""
