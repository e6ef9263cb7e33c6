"""Lays CPython for Windows out as its installer does; tools/windows.sh adds python.exe to it.

    unpack_windows.py WHEEL FOLDER

The wheel is panda3d's, which carries CPython's DLL and extension modules for the programs that are
built with it. The modules in Python are those of the Python that runs this. Both are of one minor
version; the last part of the version may differ, which nothing here has minded.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

# Wine has its own of the first two; nothing here needs the next four; the last, which `platform`
# can do without, needs what Wine 8 lacks.
LEFT_OUT = ("api-ms-win-", "ucrtbase", "tcl", "tk", "_tkinter", "winsound", "_msi", "_wmi")
# Not Python's, or another system's.
NOT_COPIED = shutil.ignore_patterns(
    *("site-packages", "dist-packages", "lib-dynload", "config-*", "_sysconfigdata*"),
    *("test", "tests", "idlelib", "turtledemo", "EXTERNALLY-MANAGED", "__pycache__"),
)


def main(wheel: str, folder: Path) -> None:
    library = f"python{sys.version_info.major}{sys.version_info.minor}.dll"
    shutil.copytree(sysconfig.get_path("stdlib"), folder / "Lib", ignore=NOT_COPIED)
    (folder / "DLLs").mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            directory, _, name = entry.rpartition("/")
            if directory != "deploy_libs" or name.lower().startswith(LEFT_OUT):
                continue
            beside_program = name == library or name.lower().startswith("vcruntime")
            place = folder if beside_program else folder / "DLLs"
            (place / name).write_bytes(archive.read(entry))
    if not (folder / library).exists():
        sys.exit(f"{wheel} holds no {library}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
