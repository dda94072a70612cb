from typing import Final

AT_FDCWD: Final[int]
AT_EMPTY_PATH: Final[int]
AT_SYMLINK_NOFOLLOW: Final[int]
AT_RECURSIVE: Final[int]
RESOLVE_NO_XDEV: Final[int]
RESOLVE_NO_MAGICLINKS: Final[int]
RESOLVE_NO_SYMLINKS: Final[int]
RESOLVE_BENEATH: Final[int]
RESOLVE_IN_ROOT: Final[int]
OPEN_TREE_CLONE: Final[int]
MOVE_MOUNT_F_EMPTY_PATH: Final[int]
MOVE_MOUNT_T_EMPTY_PATH: Final[int]
MOUNT_ATTR_RDONLY: Final[int]
MOUNT_ATTR_NOSUID: Final[int]
MOUNT_ATTR_NODEV: Final[int]
MOUNT_ATTR_NOEXEC: Final[int]
CLONE_NEWNS: Final[int]
CLONE_NEWCGROUP: Final[int]
CLONE_NEWUTS: Final[int]
CLONE_NEWIPC: Final[int]
CLONE_NEWUSER: Final[int]
CLONE_NEWPID: Final[int]
CLONE_NEWNET: Final[int]

def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int: ...
def open_tree(dirfd: int, path: str | bytes, flags: int) -> int: ...
def move_mount(
    from_fd: int, from_path: str | bytes, to_fd: int, to_path: str | bytes, flags: int
) -> None: ...
def mount_setattr(
    fd: int, path: str | bytes, flags: int, attr_set: int, attr_clr: int, *, propagation: int = 0
) -> None: ...
def unshare(flags: int) -> None: ...
def setns(fd: int, kind: int = 0) -> None: ...
def umount_lazily(path: str | bytes) -> None: ...
def set_child_subreaper(on: bool = True) -> None: ...
def process_stat(pid: int) -> tuple[str, int]: ...
def start_ticks(pid: int) -> int: ...
