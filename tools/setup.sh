# shellcheck shell=sh disable=SC2154
# Sourced by ./extmem, ./test and tools/test_drivers.sh, which set $root.

venv=$root/.venv
stamp=$venv/ready
log=$venv/setup.log

# One pip for all machines: Debian's Python brings none, and older ones do not look at the system's
# certificates. The checksum is what makes this download trustworthy, because a fresh machine may
# have no certificates at all (pip carries its own).
pip_url=https://files.pythonhosted.org/packages/07/25/ee8c38ae72d66b844ce8eb9711ba905dba21ca1a8a0c960057c41cd23337/pip-26.3-py3-none-any.whl
pip_sha256=f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13

say() { printf 'extmem: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# Runs a long command quietly; if it fails, shows what it said last.
logged() {
    printf '\n+ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null && return
    say "this failed: $*"
    tail -n 15 "$log" >&2
    say "all that was said is in $log"
    return 1
}

# One at a time: whoever comes second waits, and finds the work done. The lock sits on a file that
# is there anyway and falls with the process, so a killed run leaves nothing to clean up.
locked() {
    (
        if command -v flock >/dev/null; then
            flock -n 9 || { say "waiting for another set-up of this checkout"; flock 9; }
        fi
        "$@"
    ) 9<"$root/pyproject.toml"
}

# The machine's own packages, only as root or where sudo asks nothing.
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
may_apt() { command -v apt-get >/dev/null && as_root true 2>/dev/null; }
apt_install() {
    # Some other source of this machine may be out of order, and the lists may do as they are.
    as_root apt-get -q update >>"$log" 2>&1 || :
    logged as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "$@"
}

# Prints a Python that can run extmem. A name on PATH proves nothing (version managers leave stubs
# there) and a minimal Python lacks modules, so each one is asked.
find_python() {
    for python in ${EXTMEM_PYTHON:+"$EXTMEM_PYTHON"} \
        python3.14 python3.13 python3.12 python3.11 python3; do
        "$python" -Ic 'import ctypes, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null && echo "$python" && return
    done
    return 1
}

get_pip() {
    wheel=$venv/${pip_url##*/}
    if "$venv/bin/python" -I - "$pip_url" "$pip_sha256" "$wheel" >>"$log" 2>&1 <<'PYTHON'; then
import hashlib, ssl, sys, urllib.request
url, sha256, path = sys.argv[1:]
unverified = ssl._create_unverified_context()
data = urllib.request.urlopen(url, timeout=20, context=unverified).read()
if hashlib.sha256(data).hexdigest() != sha256:
    sys.exit(f"{url} is not the file that it should be")
open(path, "wb").write(data)
PYTHON
        logged "$venv/bin/python" -I "$wheel/pip" install --no-index --no-deps "$wheel" && return
    fi
    # A network with an index of its own: whatever pip there is knows the way.
    "$venv/bin/python" -Im ensurepip >>"$log" 2>&1 && return
    "$1" -Im pip --python "$venv/bin/python" install pip >>"$log" 2>&1 && return
    may_apt || return
    say "installing python3-venv"
    apt_install python3-venv && logged "$venv/bin/python" -Im ensurepip
}

# The stamp is written last, so what is there without one is half-made. It says where the checkout
# lay (a .venv cannot be moved), what pyproject.toml was, and which extras are in.
read_stamp() {
    [ -f "$stamp" ] && [ -x "$venv/bin/python" ] &&
        { IFS= read -r place && read -r sum && read -r extras; } <"$stamp" && [ "$place" = "$root" ]
}
has_extra() { case ,,$extras, in *",$1,"*) ;; *) false ;; esac; } # ",,": nothing is always there
venv_ready() {
    read_stamp && [ "$sum" = "$(cksum <"$root/pyproject.toml")" ] && has_extra "$1"
}

make_venv() {
    venv_ready "$1" && return # by the run that we waited for
    # Settings that would ask, or lead pip out of .venv.
    export PIP_NO_INPUT=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
    cd "$root" || return
    if read_stamp; then
        say "bringing .venv up to date"
        has_extra "$1" || extras=${extras:+$extras,}$1
        mv "$stamp" "$stamp.old" || die "cannot write to $venv: remove it, or ask its owner to"
    else
        extras=$1
        rm -rf "$venv"
        mkdir "$venv" || die "cannot write to $root: copy the checkout to a folder of yours"
        if ! python=$(find_python) && may_apt; then
            say "installing Python"
            apt_install python3 python3-venv
            python=$(find_python)
        fi
        [ "$python" ] || die "needs Python 3.11 or newer with its whole standard library:" \
            "install it (Debian, Ubuntu: apt-get install python3 python3-venv)," \
            "or name one in EXTMEM_PYTHON"
        say "making .venv with $("$python" --version), once (half a minute or so)"
        logged "$python" -Im venv --without-pip "$venv" || return
        get_pip "$python" || die "found no pip: on Debian or Ubuntu install python3-venv," \
            "elsewhere see $log"
    fi
    logged "$venv/bin/python" -Im pip install --editable ".${extras:+[$extras]}" || {
        # pip undoes what it could not finish (the network was away, say): the old state still runs.
        [ -f "$stamp.old" ] && mv "$stamp.old" "$stamp"
        return 1
    }
    printf '%s\n%s\n%s\n' "$root" "$(cksum <"$root/pyproject.toml")" "$extras" >"$stamp"
}

# Makes .venv have the package, and the extra $1 if one is named.
set_up() { venv_ready "${1-}" || locked make_venv "${1-}" || exit 1; }
