"""Containers that another OCI runtime makes: crun, runc, youki, runsc, any with runc's command.

They live under the same monitor as the native ones, which executes a short plan: the root is
mounted in a child's own mount namespace, where `RUNTIME create` and `RUNTIME start` run
(_native/engine.c). What is signalled, waited for, frozen and limited is the process itself, so no
more of the runtime is asked than to `delete` what it made.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import shutil
import subprocess

import msgspec
import trio

from podrt.config import SEARCH_PATH
from podrt.errors import EngineFailed, InvalidConfig
from podrt.linux import caps
from podrt.linux.mounts import read_mounts
from podrt.model import runtimespec as oci

from . import plan_namespaces
from .plan import Root, root_op
from .plan_namespaces import Held
from .plan_ops import Op, OpCode, encode_plan

# The oldest version that has all we write: older runtimes refuse a number they do not know.
_OCI_VERSION = "1.0.2"
_PUBLIC = ("/media", "/mnt", "/srv", "/opt")
_BPF = "run.oci.seccomp_bpf_data"
# Of a hybrid layout, which crun refuses, and where runc would make cgroups that podrt does not
# use. Without it all agree that this is v1.
_UNIFIED = "/sys/fs/cgroup/unified"
# How crun and runc say that a command cannot be executed.
_COMMAND = (
    (re.compile(r"executable file.*not found|\bexec: .*no such file", re.I), errno.ENOENT),
    (re.compile(r"(exec: |open executable).*(denied|not permitted)", re.I), errno.EACCES),
)


class Engine(msgspec.Struct, frozen=True):
    """One OCI runtime: the absolute path of its program."""

    path: str

    @property
    def name(self) -> str:
        """What it is called."""
        return os.path.basename(self.path)


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container's parts are: its bundle `directory` and the runtime's state of all
    containers, `state_dir`."""

    container_id: str
    directory: str
    state_dir: str

    @property
    def config(self) -> str:
        """The specification as the runtime gets it."""
        return f"{self.directory}/config.json"

    @property
    def log(self) -> str:
        """What the runtime complains of."""
        return f"{self.directory}/engine.log"

    @property
    def pid_file(self) -> str:
        """Where it says which process is the container's."""
        return f"{self.directory}/engine.pid"

    @property
    def state(self) -> str:
        """What it keeps about the container."""
        return f"{self.state_dir}/{self.container_id}"

    @property
    def is_made(self) -> bool:
        """Whether the runtime has made the container, or begun to."""
        return os.path.exists(self.state)


def prepare_bundle(engine: Engine, bundle: Bundle, spec: oci.Spec, *, filter_path: str) -> None:
    """Write the bundle of a container. `filter_path` is its compiled seccomp filter.

    Raises: OSError, InvalidConfig.
    """
    os.makedirs(bundle.state_dir, mode=0o700, exist_ok=True)
    place = root_place(bundle, spec)
    if place.startswith(bundle.directory):
        os.makedirs(place, mode=0o700, exist_ok=True)
    annotations = dict(spec.annotations)
    if engine.name == "crun" and filter_path:
        # It would compile the profile anew at each start, which takes longer than all the rest.
        with open(filter_path, "rb") as file:
            annotations[_BPF] = base64.b64encode(file.read()).decode()
    given = msgspec.structs.replace(
        spec,
        oci_version=_OCI_VERSION,
        annotations=annotations,
        process=_granted(spec.process),
        root=oci.Root(path=place, readonly=bool(spec.root and spec.root.readonly)),
    )
    with open(bundle.config, "wb", opener=_private) as file:
        file.write(oci.encode(given))


def _granted(process: oci.Process | None) -> oci.Process | None:
    """Without capabilities that this host has not: runtimes fail over them, and the
    specification asks for no more than a warning."""
    if process is None or process.capabilities is None:
        return process
    found = caps.names_of(caps.current("Bnd"))
    sets = {
        kind: tuple(name for name in names if name in found)
        for kind, names in msgspec.structs.asdict(process.capabilities).items()
    }
    return msgspec.structs.replace(process, capabilities=oci.Capabilities(**sets))


def root_place(bundle: Bundle, spec: oci.Spec) -> str:
    """Where the root is mounted, in the namespace of its own in which the runtime works.

    Whoever is root in a user namespace cannot get at the bundle, so that has its root in a
    directory of the host that all may search. Raises: InvalidConfig when there is none.
    """
    linux = spec.linux or oci.Linux()
    if not any(one.type == "user" for one in linux.namespaces):
        return f"{bundle.directory}/merged"
    for place in _PUBLIC:
        is_used = any(mount.source.startswith(place) for mount in spec.mounts)
        if not is_used and os.path.isdir(place) and os.stat(place).st_mode & 0o001:
            return place
    raise InvalidConfig("--userns", f"none of {', '.join(_PUBLIC)} is there for the root")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def compile_engine_plan(
    engine: Engine,
    bundle: Bundle,
    spec: oci.Spec,
    *,
    root: Root,
    log_path: str,
    log_max_bytes: int = 0,
) -> bytes:
    """The plan file of a container that `engine` makes. Raises: InvalidConfig, LimitReached."""
    linux = spec.linux or oci.Linux()
    found = plan_namespaces.find_namespaces(linux.namespaces, Held())
    user = spec.process.user if spec.process is not None else oci.User()
    owner = plan_namespaces.to_host(linux.uid_mappings, user.uid)
    ops = [
        *plan_namespaces.map_ids(linux, found, is_layered=True),
        Op(OpCode.LOG, (log_path, log_max_bytes, owner)),
        root_op(root, linux, found),
        Op(
            OpCode.ENGINE,
            (
                root_place(bundle, spec), bundle.pid_file, bundle.state, _unmounts(),
                _words(engine, bundle, "delete", "--force"),
                _words(
                    engine, bundle,
                    "create", "--bundle", bundle.directory, "--pid-file", bundle.pid_file,
                ),
            ),
        ),
        # ENGINE does what these do, at its own time.
        Op(OpCode.SEAL, (0,)),
        Op(OpCode.HOLD),
        Op(OpCode.EXEC, (_words(engine, bundle, "start"), (f"PATH={SEARCH_PATH}",), ())),
    ]  # fmt: skip
    return encode_plan(ops, clone_flags=plan_namespaces.CLONE_FLAGS["mount"])


def _unmounts() -> tuple[str, ...]:
    """In the namespace of its own in which the runtime works."""
    return (_UNIFIED,) if any(mount.target == _UNIFIED for mount in read_mounts()) else ()


def _words(engine: Engine, bundle: Bundle, *verb: str) -> tuple[str, ...]:
    log = ("--log", bundle.log, "--log-format", "json")
    return (engine.path, "--root", bundle.state_dir, *log, *verb, bundle.container_id)


def forget_complaints(bundle: Bundle) -> None:
    """Before a start: what the runtime says from now on is about that."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(bundle.log)


def read_failure(engine: Engine, bundle: Bundle, error: EngineFailed) -> EngineFailed:
    """`error` of a start in the runtime's own words, or podman's for a wrong command."""
    if error.stage != "run OCI runtime":
        return error
    said = _last_error(bundle.log)
    for pattern, number in _COMMAND:
        if pattern.search(said):
            return EngineFailed("exec", number, _command(bundle.config))
    return EngineFailed(engine.name, 0, said) if said else error


def _command(path: str) -> str:
    with open(path, "rb") as file:
        process = oci.decode(file.read()).process
    return process.args[0] if process is not None and process.args else ""


def _last_error(path: str) -> str:
    """The last message of a log in JSON lines; the last line of one that is not."""
    try:
        with open(path, "rb") as file:
            lines = file.read(1 << 20).splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            said = msgspec.json.decode(line, type=_Said)
        except msgspec.DecodeError:
            return line.decode("utf-8", "replace").strip()
        if said.level in ("error", "fatal", "panic"):
            return " ".join(said.msg.split())
    return ""


class _Said(msgspec.Struct):
    msg: str = ""
    level: str = ""


async def delete(engine: Engine, bundle: Bundle) -> None:
    """Let the runtime delete what it made, with whatever process of it is left.

    One that was cut off while it made a container may not know its own remains, and may be no
    longer there: what it keeps is removed all the same. Processes are left to the cgroup then.
    """
    if not bundle.is_made:
        return
    with contextlib.suppress(OSError):
        await trio.run_process(
            _words(engine, bundle, "delete", "--force"),
            env={"PATH": SEARCH_PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    shutil.rmtree(bundle.state, ignore_errors=True)
