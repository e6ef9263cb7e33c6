"""What is installed: a wheel that holds all, and compiles nothing; what an import loads."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import extmem

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Packages that only some users have; each is loaded when it is first used.
OPTIONAL = ("torch", "cuda", "starlette", "uvicorn", "moderngl", "cupy", "jax", "PIL")
# What every user has, and not every program needs.
INSTALLED = ("numpy", "msgspec", "rich", "typer")


def run(*words: str | Path, **more: Any) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=110, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without what is made in it; a copy, which nobody changes meanwhile."""
    copy = tmp_path_factory.mktemp("tree") / "extmem"
    made = shutil.ignore_patterns("__pycache__", ".[!g]*", ".git")
    shutil.copytree(ROOT, copy, ignore=made)
    return copy


def build(kind: str, folder: Path, tree: Path) -> Path:
    """With the pinned tool of this environment, and nothing from the network."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=tree)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"), tree)


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


# -- what is in it --------------------------------------------------------------------------------


def test_it_is_for_every_system(wheel: Path) -> None:
    assert wheel.name == f"extmem-{extmem.__version__}-py3-none-any.whl"


def test_it_holds_the_whole_package_and_no_more(tree: Path, wheel: Path) -> None:
    ours = {
        path.relative_to(tree / "src").as_posix()
        for path in (tree / "src" / "extmem").rglob("*")
        if path.is_file()
    }
    held = {each for each in names_in(wheel) if ".dist-info/" not in each}
    assert held == ours
    kinds = {Path(each).suffix for each in held}
    assert not kinds & {".so", ".pyd", ".dll", ".a", ".lib", ".exe"}
    assert "extmem/py.typed" in held
    assert "extmem/cli/schemas/devices.json" in held


def test_what_it_says_of_itself(tree: Path, wheel: Path) -> None:
    told = metadata(wheel)
    assert told["Version"] == extmem.__version__
    assert told["Requires-Python"] == ">=3.11"
    assert {"cuda", "view", "all"} <= set(told.get_all("Provides-Extra"))
    plain = [each for each in told.get_all("Requires-Dist") if "extra ==" not in each]
    assert {each.split(">=")[0] for each in plain} == set(INSTALLED)
    assert not any("==" in each or "<" in each for each in plain)  # users' own are not pinned
    readme = told.get_payload()
    assert readme.strip() == (tree / "README.md").read_text(encoding="utf-8").strip()
    assert set(told.get_all("License-File")) == {"LICENSE", "NOTICE"}
    classifiers = told.get_all("Classifier")
    for version in ("3.11", "3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in classifiers


def test_all_is_every_extra_for_users_but_the_largest() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == ["extmem[cuda,view]"]
    assert set(extras) >= {"cuda", "view", "all", "torch"}
    for name in ("cuda", "view", "torch"):
        assert not any("==" in each for each in extras[name])


def test_tools_are_pinned() -> None:
    for name in ("test", "dev"):
        for each in PROJECT["optional-dependencies"][name]:
            assert "==" in each.split(";")[0], each


def test_the_version_is_semantic() -> None:
    parts = extmem.__version__.split(".")
    assert len(parts) == 3
    assert all(each.isdecimal() for each in parts)


def test_the_sdist_makes_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", tmp_path / "sdist", tree)
    with tarfile.open(archive) as opened:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in 3.11.2
        opened.extractall(tmp_path / "tree", **safely)
    [unpacked] = (tmp_path / "tree").iterdir()
    for name in ("README.md", "LICENSE", "NOTICE", "SECURITY.md", "examples/camera.py"):
        assert (unpacked / name).is_file()
    again = build("wheel", tmp_path / "wheel", unpacked)
    assert again.read_bytes() == wheel.read_bytes()


# -- installed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A Python that has the wheel, and no way to this checkout; and a folder far from it.

    What extmem depends on comes from this environment, so that no network is needed.
    """
    folder = tmp_path_factory.mktemp("installed")
    here = [each for each in sys.path if each.endswith("site-packages")]
    if sys.platform == "win32":  # whose Python for tests makes no virtual environments
        target = folder / "packages"
        pip = (sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile")
        run(*pip, "--target", target, wheel)
        start = f"import sys; sys.path[:] = [{str(target)!r}] + [each for each in sys.path if "
        start += "'site-packages' in each or 'src' not in each]; "
        start += "import runpy; sys.argv[:1] = []; runpy.run_module(sys.argv[0], alter_sys=True, "
        start += "run_name='__main__')"
        return [sys.executable, "-c", start], folder
    clean = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", clean)
    python = clean / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install")
    run(*pip, "--no-index", "--no-deps", wheel)
    [packages] = clean.glob("lib/python*/site-packages")
    # Names of folders alone: what links this checkout into its own environment is not followed.
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    return [str(python), "-m"], folder


def outside(folder: Path) -> dict[str, Any]:
    """Away from the checkout, with nothing that points to it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {"cwd": folder, "env": environment}


def test_an_installed_one_lists_devices(installed: tuple[list[str], Path]) -> None:
    start, folder = installed
    more = outside(folder)
    assert run(*start, "extmem", "--version", **more) == f"extmem {extmem.__version__}\n"
    said = run(*start, "extmem", "devices", "--driver", "embedded", "--json", **more)
    assert [each["name"] for each in json.loads(said)["devices"]] == [
        "extmem embedded 0",
        "extmem embedded 1",
    ]
    assert "0 it worked" in " ".join(run(*start, "extmem", "--help", **more).split())
    # It is the wheel's, with its data, and not the checkout's.
    (folder / "where.py").write_text(
        "import extmem\nprint(extmem.__file__)\n"
        "from extmem.rules import catalogue\nprint(len(catalogue.entries()))\n"
        "with extmem.open_device(driver='embedded') as gpu, gpu.allocate(64) as memory:\n"
        "    memory.numpy()[0] = 7\n    print(memory.numpy()[0])\n"
    )
    where, rules, seven = run(*start, "where", **more).splitlines()
    assert Path(where).is_relative_to(folder)
    assert (rules, seven) == ("533", "7")


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: a script of a POSIX environment")
def test_the_command_is_installed(installed: tuple[list[str], Path]) -> None:
    start, folder = installed
    command = Path(start[0]).with_name("extmem")
    assert run(command, "--version", **outside(folder)) == f"extmem {extmem.__version__}\n"
    said = run(command, "demo", "--driver", "embedded", "--seconds", "0.2", "--picture",
               folder / "x.png", "--json", **outside(folder))  # fmt: skip
    assert json.loads(said)["frames_wrong"] == 0


# -- what an import loads -------------------------------------------------------------------------


def loaded(program: str) -> set[str]:
    """The modules that a program has loaded beyond what a bare Python has."""
    report = "import sys; before = set(sys.modules)\n{}\nprint(*sorted(set(sys.modules) - before))"
    return set(run(sys.executable, "-c", report.format(program)).split())


def roots(modules: set[str]) -> set[str]:
    return {each.partition(".")[0] for each in modules}


def test_an_import_loads_the_errors_and_nothing_else() -> None:
    found = loaded("import extmem")
    assert {each for each in found if each.startswith("extmem")} == {"extmem", "extmem.errors"}
    assert not roots(found) & {*OPTIONAL, *INSTALLED, "ctypes", "asyncio", "socket", "subprocess"}
    # dataclasses alone brings some thirty of the standard library; the count is what makes it slow.
    assert len(found) <= 50


_USE = """
import extmem
with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64, export="opaque_win32") as one:
    one.numpy()[0] = 1
    one.export().close()
    stream = extmem.publish({name!r}, shape=3, dtype="uint8", device=gpu)
    with stream, extmem.subscribe({name!r}, device=gpu) as frames, stream.frame() as frame:
        frame.numpy()[:] = 1
    done = gpu.semaphore()
    done.signal(1)
    done.close()
"""
_EVERY_NAME = "import extmem\nfor name in extmem.__all__: getattr(extmem, name)"


@pytest.mark.parametrize("program", [_EVERY_NAME, _USE], ids=["every name", "use"])
def test_what_is_optional_is_loaded_by_those_who_use_it(program: str) -> None:
    name = f"packaging-{os.getpid()}"
    found = roots(loaded(program.format(name=name)))
    assert not found & {*OPTIONAL, "rich", "typer"}
    assert "numpy" in found or program is _EVERY_NAME


@pytest.mark.parametrize(
    "words", [["--help"], ["devices", "--driver", "embedded"], ["rules"]], ids=" ".join
)
def test_the_command_line_needs_nothing_optional(words: Sequence[str]) -> None:
    """As where none of it is installed: a finder before all others says that it is not there."""
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {OPTIONAL}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"sys.argv = ['extmem', *{list(words)}]\n"
        "from extmem.cli import main\nmain()\n"
    )
    assert run(sys.executable, "-c", program)
