"""libseccomp through ctypes: the same specification made into a filter by somebody else."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence

from podrt.model.runtimespec import Seccomp, SeccompArg
from podrt.spec.seccomp_rules import action_value
from podrt.spec.seccomp_tables import ARCHES

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
UNKNOWN = -1
EEXIST = 17


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def load_library() -> ctypes.CDLL | None:
    """libseccomp, None where it is not installed."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    return library


def export(library: ctypes.CDLL, seccomp: Seccomp, native: str) -> bytes:
    """The filter libseccomp makes of `seccomp` for the machine `native` ("SCMP_ARCH_X86_64")."""
    default = action_value(seccomp.default_action, seccomp.default_errno_ret, "default", "")
    context = ctypes.c_void_p(library.seccomp_init(default))
    try:
        _set_arches(library, context, [native, *seccomp.architectures])
        for rule in seccomp.syscalls:
            action = action_value(rule.action, rule.errno_ret, "rule", "")
            if action == default:
                continue
            for name in rule.names:
                number = _number(library, native, name)
                for args in _variants(rule.args) if number != UNKNOWN else ():
                    found = (Comparison * max(1, len(args)))(*map(_comparison, args))
                    code = library.seccomp_rule_add_array(
                        context, ctypes.c_uint32(action), number, len(args), found
                    )
                    assert code in (0, -EEXIST), (name, code)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _set_arches(library: ctypes.CDLL, context: ctypes.c_void_p, tokens: Sequence[str]) -> None:
    wanted = [_token(library, token) for token in tokens]
    for token in wanted:
        code = library.seccomp_arch_add(context, ctypes.c_uint32(token))
        assert code in (0, -EEXIST), code
    host = _token(library, "SCMP_ARCH_X86_64" if os.uname().machine == "x86_64" else "native")
    if host not in wanted:
        assert library.seccomp_arch_remove(context, ctypes.c_uint32(host)) == 0


def _token(library: ctypes.CDLL, name: str) -> int:
    arch = ARCHES[name].name if name in ARCHES else name
    return int(library.seccomp_arch_resolve_name(arch.encode()))


def _number(library: ctypes.CDLL, native: str, name: str) -> int:
    """The host's number: rules are given in those, and translated for each architecture."""
    return int(library.seccomp_syscall_resolve_name(name.encode()))


def _variants(args: Sequence[SeccompArg]) -> Iterator[Sequence[SeccompArg]]:
    if len({arg.index for arg in args}) == len(args):
        yield args
    else:
        yield from ((arg,) for arg in args)


def _comparison(arg: SeccompArg) -> Comparison:
    return Comparison(arg.index, OPERATORS[arg.op], arg.value, arg.value_two)


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    target = os.memfd_create("filter")
    try:
        code = library.seccomp_export_bpf(context, target)
        assert code == 0, code
        return os.pread(target, 1 << 20, 0)
    finally:
        os.close(target)
