"""Making what a container needs on the disk: root file system, spec, plan, shared files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import msgspec

from podrt.cgroups import policy
from podrt.engines.oci import compile_engine_plan, prepare_bundle
from podrt.engines.plan import BindRoot, Held, OverlayRoot, Root, compile_plan
from podrt.engines.plan_ops import HEADER, is_of_this_version
from podrt.errors import InvalidConfig, NotFound, StoreFailed, Unsupported
from podrt.images.copy_up import copy_up
from podrt.images.rootfs import Rootfs, describe_rootfs, prepare_rootfs
from podrt.linux import files, signals
from podrt.model.container import ContainerConfig, NamespaceMode
from podrt.model.etc_files import DEFAULT_FILES, EtcFiles
from podrt.model.image import Image, ImageDefaults
from podrt.model.pod import PodConfig
from podrt.model.resources import Resources
from podrt.model.restarts import RestartKind, parse_restart
from podrt.model.runtimespec import DeviceRule, IdMapping, Spec
from podrt.model.userns import HOST_USERS, GivenIds
from podrt.net import hosts
from podrt.spec import accounts, devices, resources, seccomp
from podrt.spec.build import Place, build_spec, this_host
from podrt.spec.mounts import SharedFiles
from podrt.spec.userns import Maps, to_maps
from podrt.store.records import ContainerRecord, ImageRecord, PodRecord
from podrt.volumes import Fill, volume_directories

from .context import Context
from .foreign import bundle_of, check_engine, engine_of
from .image_names import image_named
from .namespaces import shared_types

_ZONES = "/usr/share/zoneinfo"
_MAX_ZONE_BYTES = 1 << 20
NO_IMAGE = Image(id="")
"""What a container of a plain directory is made from."""

_encode_json = msgspec.json.Encoder().encode


def find_image(ctx: Context, config: ContainerConfig) -> Image:
    """The image a container is made from; one without ID stands for a directory of its own.

    Raises: NotFound, InvalidConfig.
    """
    if config.rootfs:
        if not os.path.isdir(config.rootfs):
            raise InvalidConfig("--rootfs", f"{config.rootfs}: no such directory")
        return NO_IMAGE
    if not config.image:
        raise InvalidConfig("image", "an image is needed")
    return image_named(ctx.store.tables, config.image)


def check_container(config: ContainerConfig, pod: PodRecord | None) -> None:
    """Refuse what is wrong or not built. Raises: InvalidConfig, Unsupported."""
    if config.terminal:
        raise Unsupported("--tty", "terminals are not built yet")
    if config.stdin_open:
        raise Unsupported("--interactive", "attaching to a container is not built yet")
    if pod is not None:
        shared = policy.Decision(
            parent=pod.config.cgroup_parent, pod_cgroup=pod.config.use_pod_cgroup
        )
        policy.check_member_parent(config.cgroup_parent, shared)
        if config.userns != HOST_USERS:
            flag = "--userns" if config.userns.mode else "--uidmap and --gidmap"
            raise InvalidConfig("", f"{flag} and --pod cannot be set together")
    hosts.check_files(config.etc)
    if pod is not None and config.etc != DEFAULT_FILES:
        flag = "extra host entries" if config.etc.add_hosts else "files below /etc"
        raise InvalidConfig(
            "", f"{flag} must be specified on the pod: they are shared with all its containers"
        )
    if config.init is not None and pod is None:
        raise InvalidConfig("--init-ctr", "must be used with a pod")
    check_restart(config)
    if config.requires and pod is None:
        raise InvalidConfig("--requires", "dependencies are between containers of one pod")
    if config.stop_timeout_s < 0:
        raise InvalidConfig("--stop-timeout", f"{config.stop_timeout_s} is negative")
    for edge in config.requires:
        if edge.kind != "started":
            raise Unsupported(f"--requires {edge.on}:{edge.kind}", "only started is built so far")


def check_restart(config: ContainerConfig) -> None:
    """Refuse a restart policy that it cannot have. Raises: InvalidConfig, Unsupported."""
    wanted = parse_restart(config.restart_policy)
    if config.init is not None and wanted.kind is not RestartKind.NO:
        raise Unsupported("--restart with --init-ctr", "sidecars are not built yet")
    if config.auto_remove and wanted.outlives_boot:
        raise InvalidConfig(
            "", "the --rm option conflicts with --restart, unless it is no or on-failure"
        )


def with_image_defaults(config: ContainerConfig, image: ImageDefaults) -> ContainerConfig:
    """`config` with what the image says where it says nothing itself."""
    if config.stop_signal or not image.stop_signal:
        return config
    number = signals.number(image.stop_signal)
    return msgspec.structs.replace(config, stop_signal=number)


def device_rules(config: ContainerConfig) -> tuple[DeviceRule, ...]:
    """What a container's device cgroup allows."""
    if config.security.privileged:
        return devices.ALL_RULES
    if not config.devices and not config.device_rules:
        return devices.DEFAULT_RULES
    given = devices.given_devices(config.devices)[1]
    return (*devices.DEFAULT_RULES, *given, *devices.parse_rules(config.device_rules))


def limits_of(record: ContainerRecord) -> Resources:
    """The limits of a container's cgroup; without one only those that were asked for."""
    wanted = record.config.resources
    return resources.effective(wanted) if record.cgroup_path else wanted


def prepare_container(
    ctx: Context, pod: PodRecord | None, record: ContainerRecord, image: Image
) -> None:
    """Make the container's directory with its root file system, spec.json and plan.

    Raises: InvalidConfig, NotFound, Unsupported, StoreFailed.
    """
    root, layers = _prepare_root(ctx, record, image)
    place = _place(ctx, pod, record)
    spec = build_spec(
        _own_hostname(record.config, place),
        place,
        image=image.defaults,
        known=accounts.read_accounts(layers),
        volumes=volume_directories(
            ctx.layout, record.group_id, record.config.mounts, _fill(record, layers)
        ),
        userns=_userns(record, place.ns_dir),
    )
    plan = _compile(ctx, record, spec, root)
    if record.userns is not None and isinstance(root, OverlayRoot):
        # Layers are shown as the container's users see them, but this one is written with the
        # rights of whoever mounts: it is not mapped, and belongs to who is root inside.
        os.lchown(root.upper, *record.userns.root())
    _write(ctx.layout.spec(record.id), _encode_json(spec))
    _write(ctx.layout.plan(record.id), plan)


def _compile(ctx: Context, record: ContainerRecord, spec: Spec, root: Root) -> bytes:
    """The plan; what another runtime makes gets its bundle as well."""
    log_path = ctx.layout.log(record.id)
    max_bytes = record.config.log_max_bytes
    filter_path = _filter_path(ctx, spec)
    engine = engine_of(record)
    if engine is not None:
        check_engine(engine, spec)
        bundle = bundle_of(ctx, record, engine)
        try:
            prepare_bundle(engine, bundle, spec, filter_path=filter_path)
        except OSError as exc:
            raise StoreFailed(bundle.directory, exc.errno or 0) from exc
        return compile_engine_plan(
            engine, bundle, spec, root=root, log_path=log_path, log_max_bytes=max_bytes
        )
    return compile_plan(
        spec,
        root=root,
        log_path=log_path,
        log_max_bytes=max_bytes,
        held=Held(ns_dir=_ns_dir(ctx, record), shm=_shm(ctx, record)),
        cgroups=ctx.cgroup_view,
        filter_path=filter_path,
    )


def _own_hostname(config: ContainerConfig, place: Place) -> ContainerConfig:
    """The infra container is called as its pod, also in a namespace of its own."""
    if not config.is_infra:
        return config
    hostname = "" if "uts" in place.shared else place.pod_hostname
    return msgspec.structs.replace(config, hostname=hostname)


def _prepare_root(
    ctx: Context, record: ContainerRecord, image: Image
) -> tuple[Root, tuple[str, ...]]:
    """Make the container's directory; its root, and the layers in which its users are known."""
    directory = ctx.layout.container(record.id)
    path = record.config.rootfs
    if path:
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as exc:
            raise StoreFailed(directory, exc.errno or 0) from exc
        # A directory changes while nobody of podrt knows: nothing of it is remembered.
        accounts.read_accounts.cache_clear()
        return BindRoot(path), (path,)
    rootfs = prepare_rootfs(ctx.layout.images_dir, image, directory)
    return _overlay(rootfs), rootfs.lower


def _host_id(ranges: Sequence[IdMapping], number: int) -> int:
    """Who a user of the image is on the host; one that no range has stays who he is."""
    for one in ranges:
        if 0 <= number - one.container_id < one.size:
            return one.host_id + number - one.container_id
    return number


def _fill(record: ContainerRecord, layers: tuple[str, ...]) -> Fill | None:
    """A new volume begins with what the image has in its place; a plain directory gives nothing."""
    if record.config.rootfs:
        return None
    maps = _userns(record, "")

    def owner(uid: int, gid: int) -> tuple[int, int]:
        if maps is None:
            return uid, gid
        return _host_id(maps.uid_map, uid), _host_id(maps.gid_map, gid)

    def fill(destination: str, directory: str) -> None:
        copy_up(layers, destination, directory, owner)

    return fill


def _overlay(rootfs: Rootfs) -> OverlayRoot:
    return OverlayRoot(lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work)


def _userns(record: ContainerRecord, ns_dir: str) -> Maps | None:
    """A pod's user namespace is held by its monitor, with the others."""
    if record.userns is None:
        return None
    return to_maps(record.userns, f"{ns_dir}/user" if record.pod_id else "")


def _filter_path(ctx: Context, spec: Spec) -> str:
    """The compiled filter of the spec's profile, written once and named by its content."""
    if spec.linux is None or spec.linux.seccomp is None:
        return ""
    program = seccomp.filter_of(spec.linux.seccomp, this_host().machine)
    path = f"{ctx.layout.seccomp_dir}/{hashlib.sha256(program).hexdigest()}.bpf"
    if not os.path.exists(path):
        files.write_atomically(path, program, 0o600)
    return path


def _ns_dir(ctx: Context, record: ContainerRecord) -> str:
    return f"{ctx.layout.group_run(record.group_id)}/ns"


def _shm(ctx: Context, record: ContainerRecord) -> str:
    return f"{ctx.layout.group_run(record.group_id)}/shm"


def _place(ctx: Context, pod: PodRecord | None, record: ContainerRecord) -> Place:
    shared_dir = ctx.layout.pod(record.group_id)
    shared = shared_types(pod.config) if pod is not None else frozenset()
    return Place(
        container_id=record.id,
        rootfs=record.config.rootfs or f"{ctx.layout.container(record.id)}/merged",
        cgroup=record.cgroup_path,
        ns_dir=_ns_dir(ctx, record),
        shm=_shm(ctx, record),
        files=msgspec.structs.replace(
            _shared_files(shared_dir, record.config.etc if pod is None else pod.config.etc),
            localtime=_copy_zone(ctx, record),
        ),
        shared=shared,
        pod_hostname=pod.config.hostname if pod is not None else "",
    )


def _copy_zone(ctx: Context, record: ContainerRecord) -> str:
    """The container's own copy of its time zone; "" without one. Raises: InvalidConfig."""
    zone = record.config.timezone
    if not zone:
        return ""
    source = "/etc/localtime" if zone == "local" else f"{_ZONES}/{zone}"
    if zone.startswith("/") or ".." in zone.split("/"):
        raise InvalidConfig("--tz", f"{zone!r} is no name of a time zone")
    try:
        with open(source, "rb") as file:
            data = file.read(_MAX_ZONE_BYTES)
    except OSError as exc:
        raise InvalidConfig("--tz", f"{source}: {os.strerror(exc.errno or 0)}") from exc
    path = f"{ctx.layout.container(record.id)}/localtime"
    try:
        files.write_atomically(path, data, 0o644)
        if record.userns is not None:
            os.chown(path, *record.userns.root())
    except OSError as exc:
        raise StoreFailed(path, exc.errno or 0) from exc
    return path


def _shared_files(directory: str, etc: EtcFiles) -> SharedFiles:
    """What takes the place of the image's files."""
    return SharedFiles(
        hosts="" if etc.no_hosts else f"{directory}/hosts",
        hostname="" if etc.no_hostname else f"{directory}/hostname",
        resolv_conf="" if "none" in etc.dns_servers else f"{directory}/resolv.conf",
    )


def write_group_files(
    ctx: Context, pod: PodRecord | None, members: Sequence[ContainerRecord]
) -> None:
    """Write the hosts, hostname and resolv.conf that a group's containers see."""
    if pod is not None:
        group_id, hostname, etc = pod.id, pod.config.hostname, etc_files(pod.config)
        if "uts" in pod.config.host_namespaces:
            hostname = os.uname().nodename
        users = pod.userns
        is_private = "net" in shared_types(pod.config)
    else:
        member = members[0]
        group_id, hostname = member.id, member.config.hostname or member.id[:12]
        etc = member.config.etc
        users = member.userns
        is_private = member.config.namespaces.net is not NamespaceMode.HOST
    _write_files(ctx.layout.pod(group_id), etc, hostname, users, is_private=is_private)


def etc_files(config: PodConfig) -> EtcFiles:
    """What a pod asks of the files below /etc."""
    everything = (*config.add_hosts, *config.etc.add_hosts)
    return msgspec.structs.replace(config.etc, add_hosts=tuple(dict.fromkeys(everything)))


def _write_files(
    directory: str, etc: EtcFiles, hostname: str, users: GivenIds | None, *, is_private: bool
) -> None:
    base = hosts.base_text(etc)
    try:
        hosts.write_files(
            directory,
            hosts=hosts.hosts_text(hostname, add_hosts=etc.add_hosts, base=base),
            hostname=hostname,
            resolv=hosts.resolv_text(etc, is_private=is_private),
        )
        _give_to_root(directory, users)
    except OSError as exc:
        raise StoreFailed(directory, exc.errno or 0) from exc


def _give_to_root(directory: str, users: GivenIds | None) -> None:
    """The shared files belong to who is root inside. Raises: OSError."""
    if users is not None:
        for name in os.listdir(directory):
            os.chown(f"{directory}/{name}", *users.root(), follow_symlinks=False)


def _write(path: str, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
    except OSError as exc:
        raise StoreFailed(path, exc.errno or 0) from exc


def open_plan(ctx: Context, record: ContainerRecord) -> int:
    """A descriptor of the container's plan, which is made again if another version wrote it.

    Raises: NotFound, StoreFailed, and what `compile_plan` raises.
    """
    path = ctx.layout.plan(record.id)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if is_of_this_version(os.pread(fd, HEADER.size, 0)):
            return fd
        os.close(fd)
        files.write_atomically(path, _compile_again(ctx, record), 0o600)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise NotFound("file", path) from exc
    except OSError as exc:
        raise StoreFailed(path, exc.errno or 0) from exc


def _compile_again(ctx: Context, record: ContainerRecord) -> bytes:
    with open(ctx.layout.spec(record.id), "rb") as file:
        spec = msgspec.json.decode(file.read(), type=Spec)
    if record.config.rootfs:
        return _compile(ctx, record, spec, BindRoot(record.config.rootfs))
    found = ctx.store.tables.get(ImageRecord, record.image_id)
    if found is None:
        raise NotFound("image", record.config.image)
    directory = ctx.layout.container(record.id)
    rootfs = describe_rootfs(ctx.layout.images_dir, found.image, directory)
    return _compile(ctx, record, spec, _overlay(rootfs))
