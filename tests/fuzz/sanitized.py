"""podrt's Cython modules built with AddressSanitizer and UndefinedBehaviorSanitizer.

A Python that has the sanitizers' libraries preloaded can import them; `preload` says how to start
one, `take_over` puts the modules into it before anything else imports the ordinary ones.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "src"
FAST = SOURCE / "podrt/_fast"
MODULES = ("frames", "locktable")
FLAGS = [
    "-std=gnu11",
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-shared",
    "-fPIC",
]
LIBRARIES = ("libasan.so", "libubsan.so")
OPTIONS = {
    # Python itself never frees all it has.
    "ASAN_OPTIONS": "detect_leaks=0:max_allocation_size_mb=512:hard_rss_limit_mb=1500",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    # Each object an allocation of its own, so that reading behind it is seen.
    "PYTHONMALLOC": "malloc",
}


class NoSanitizers(Exception):
    """This machine cannot build or run them; the text says what is missing."""


def libraries() -> list[str]:
    """The sanitizers' shared libraries. Raises: NoSanitizers."""
    if shutil.which("gcc") is None:
        raise NoSanitizers("fuzzing needs gcc with its sanitizers (on Debian: gcc)")
    found = []
    for name in LIBRARIES:
        command = ["gcc", f"-print-file-name={name}"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if not os.path.isfile(path) or Path(path).read_bytes()[:4] != b"\x7fELF":
            raise NoSanitizers(
                f"fuzzing needs {name}, and the gcc here has none (on Debian it comes with gcc, "
                "on Fedora with libasan and libubsan)"
            )
        found.append(path)
    return found


def build(below: Path) -> Path:
    """The folder below `below` with the modules of the sources as they are; made if need be."""
    libraries()
    digest = hashlib.sha256(repr((FLAGS, sys.version, gcc_version())).encode())
    for path in sorted(FAST.glob("*")):
        if path.suffix in (".pyx", ".pxd", ".h"):
            digest.update(path.read_bytes())
    folder = below / f"built.{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    below.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=below))
    try:
        for name in MODULES:
            compile_module(name, fresh)
        for old in below.glob("built.*"):
            shutil.rmtree(old, ignore_errors=True)
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():  # another run may have been faster
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def gcc_version() -> str:
    command = ["gcc", "-dumpfullversion"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compile_module(name: str, folder: Path) -> None:
    made = folder / f"{name}.c"
    cython = [sys.executable, "-m", "cython", "-3", f"-I{SOURCE}", "-o", str(made)]
    subprocess.run([*cython, str(FAST / f"{name}.pyx")], check=True)
    includes = [f"-I{FAST}", f"-I{sysconfig.get_path('include')}"]
    target = ["-o", str(folder / f"{name}.so")]
    subprocess.run(["gcc", *FLAGS, *includes, str(made), *target], check=True)


def preload() -> dict[str, str]:
    """The environment of a Python that can import the modules. Raises: NoSanitizers."""
    import podrt

    installed = str(Path(podrt.__file__).resolve().parents[1])
    paths = [str(PROJECT / "tests"), installed]
    return {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": ":".join(libraries()),
        "PYTHONPATH": ":".join(paths),
    }


def take_over(folder: Path) -> None:
    """Import the modules in `folder` under the names of the ordinary ones."""
    package = importlib.import_module("podrt._fast")
    for name in MODULES:
        full = f"podrt._fast.{name}"
        loader = importlib.machinery.ExtensionFileLoader(full, str(folder / f"{name}.so"))
        spec = importlib.util.spec_from_loader(full, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        loader.exec_module(module)
        setattr(package, name, module)
