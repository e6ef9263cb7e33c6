#!/bin/sh
# Gets a Windows Python to run tests in: Wine and a compiler for Windows from the distribution,
# where it may install any, and all else in .windows/, which takes no rights. Ends with 77 where it
# cannot be had, having said what is missing and what that costs. Once it is there, later runs only
# look.
# tools/windows_python.sh runs what this makes.
#
#   .windows/python    CPython for Windows, of the same minor version as .venv's, with packages
#   .windows/prefix    Wine's registry and its drive C:
#   .windows/home      what Wine takes for the home folder
#   .windows/wheels    what was downloaded, and is not downloaded again

root=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
# shellcheck source=tools/setup.sh
. "$root/tools/setup.sh"
windows=$root/.windows
stamp=$windows/ready
log=$windows/setup.log
compiler=x86_64-w64-mingw32-gcc
panda3d=1.10.16 # which carries CPython, see unpack_windows.py
packages='wine wine64 gcc-mingw-w64-x86-64-win32'

cannot() { say "skipped, the tests on Windows' Python:" "$@"; exit 77; }

tools_there() {
    for tool in wine wineserver "$compiler"; do command -v "$tool" >/dev/null || return; done
}

# The version of .venv's Python, as 3.11.7.
version() { sed -n 's/^version = //p' "$venv/pyvenv.cfg"; }

# What the result was made of.
state() {
    echo "$root" && version &&
        cat "$root/tools/windows.sh" "$root/tools/unpack_windows.py" "$root/pyproject.toml" | cksum
}
ready() { [ "$(state)" = "$(cat "$stamp" 2>/dev/null)" ] && tools_there; }

get_tools() {
    tools_there && return
    [ "$(uname -m)" = x86_64 ] || cannot "they need a processor that runs Windows' programs"
    may_apt || cannot "they need Wine and a compiler for Windows (on Debian and Ubuntu, as root:" \
        "apt-get install --no-install-recommends $packages)"
    say "installing $packages"
    # shellcheck disable=SC2086 # one word for each package
    apt_install $packages && tools_there
}

# What the tests need: pyproject.toml's, without what is there for Linux alone. pip resolves for the
# system that it runs on, so what only Windows needs (colorama) is named here.
requirements() {
    "$venv/bin/python" -I - "$root/pyproject.toml" <<'PYTHON'
import sys, tomllib

project = tomllib.load(open(sys.argv[1], "rb"))["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["test"]
# These versions are the last that Wine 8 can run: later ones need functions of Windows that it
# lacks (typer through pydantic). For 3.13, 2.1 is the first NumPy.
print("pip", "colorama", "typer<0.26", sep="\n")
print("numpy<2.1" if sys.version_info < (3, 13) else "numpy<2.2")
print(*(each for each in wanted if not each.startswith(("atheris", "selenium", "vulkan"))), sep="\n")
PYTHON
}

download() {
    logged "$venv/bin/python" -Im pip download --dest "$windows/wheels" --only-binary=:all: \
        --platform win_amd64 --python-version "$minor" "$@"
}

get_python() {
    requirements >"$windows/requirements.txt" || return
    download --no-deps "panda3d==$panda3d" &&
        download --requirement "$windows/requirements.txt" || {
        say "no network, or no CPython $minor for Windows there (EXTMEM_PYTHON names another)"
        return 1
    }
    tag=cp$(echo "$minor" | tr -d .)
    logged "$venv/bin/python" -I "$root/tools/unpack_windows.py" \
        "$windows/wheels/panda3d-$panda3d-$tag-$tag-win_amd64.whl" "$python" || return
    logged "$venv/bin/python" -Im pip install --no-index --find-links "$windows/wheels" \
        --platform win_amd64 --python-version "$minor" --only-binary=:all: --no-compile \
        --target "$python/Lib/site-packages" --requirement "$windows/requirements.txt"
}

# Windows tells its version only to programs whose manifest knows it; others are told 6.2.
build_program() {
    cat >"$windows/python.c" <<'C' &&
int Py_Main(int, wchar_t **);
int wmain(int count, wchar_t **words) { return Py_Main(count, words); }
C
        cat >"$windows/python.manifest" <<'XML' &&
<assembly xmlns="urn:schemas-microsoft-com:asm.v1" manifestVersion="1.0">
<compatibility xmlns="urn:schemas-microsoft-com:compatibility.v1"><application>
<supportedOS Id="{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"/>
</application></compatibility>
</assembly>
XML
        echo "1 24 \"$windows/python.manifest\"" >"$windows/python.rc" &&
        logged "${compiler%gcc}windres" "$windows/python.rc" "$windows/manifest.o" &&
        logged "$compiler" -municode -include wchar.h -s -o "$python/python.exe" \
            "$windows/python.c" "$windows/manifest.o" "$python/python${minor%.*}${minor#*.}.dll"
}

in_windows() { logged "$root/tools/windows_python.sh" "$@"; }

# Wine makes its prefix when it first runs something; Debian's makes a Windows 7.
make_prefix() {
    in_windows -c 'import subprocess; subprocess.run(["winecfg", "-v", "win10"], check=True)' &&
        in_windows -c 'import sys, numpy, pytest; assert sys.getwindowsversion() >= (10,)' &&
        # What is new in the registry lies in the memory of Wine's server until that ends.
        logged env WINEPREFIX="$windows/prefix" HOME="$windows/home" wineserver --wait
}

# Programs of before may still run there, and write a little until they notice that they are ended.
remove_old() {
    [ ! -d "$windows/prefix" ] || WINEPREFIX="$windows/prefix" wineserver --kill
    for _ in 1 2 3 4 5; do
        rm -rf "$python" "$windows/prefix" "$windows/pycache" 2>>"$log" && return
        sleep 1
    done
    say "cannot remove $windows/prefix: does something use it?"
    return 1
}

make_windows() {
    ready && return # by the run that we waited for
    export PIP_NO_INPUT=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
    export PIP_ROOT_USER_ACTION=ignore
    mkdir -p "$windows/wheels" "$windows/home" && : >"$log" || return
    rm -f "$stamp"
    get_tools || return
    python=$windows/python
    minor=$(version | cut -d. -f1,2)
    say "making .windows with CPython $minor, once (a minute or so)"
    remove_old || return
    get_python && build_program && make_prefix && state >"$stamp"
}

[ -f "$venv/pyvenv.cfg" ] || die "run ./test --windows, which makes .venv first"
ready || locked make_windows
