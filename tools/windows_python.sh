#!/bin/sh
# Runs the Windows Python that tools/windows.sh makes, on this checkout's package and in its folder:
#   tools/windows_python.sh -m extmem devices
# The environment is passed on, but for PATH, HOME, TEMP, TMP and what begins with VK_ or WINE:
# those are read by Wine itself.
root=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
windows=$root/.windows
if ! [ -f "$windows/python/python.exe" ]; then
    echo "extmem: there is no Windows Python here: run tools/windows.sh" >&2
    exit 1
fi

# Wine 8 cannot tell a program anything about a standard stream that is a file, and Python does not
# start without. A pipe in between will do.
if [ -f /dev/stdin ]; then
    cat | "$0" "$@"
    exit
fi
if [ -f /dev/stdout ] || [ -f /dev/stderr ]; then
    {
        status=$({ { {
            "$0" "$@" 3>&- 4>&- 5>&- 6>&-
            echo $? >&3
        } 2>&1 >&6 | cat >&5; } 6>&1 | cat >&4; } 3>&1)
    } 4>&1 5>&2
    exit "$status"
fi

# A path of this machine, as Wine shows it: the drive Z: is all of the file system.
seen() { printf 'Z:%s' "$1" | tr / '\\'; }

# Wine writes to its prefix and to the home folder, so it gets one of its own. (While it runs, its
# server has a socket in /tmp.) No entries in menus, no .NET, no browser, no debugger; and no
# desktop: the first program to ask for a graphics card would start it, and it keeps that one's
# pipes open.
export WINEPREFIX="$windows/prefix" WINEARCH=win64 HOME="$windows/home" WINEDEBUG=-all
export WINEDLLOVERRIDES='winemenubuilder.exe,explorer.exe,winedbg.exe,mscoree,mshtml='
unset DISPLAY WAYLAND_DISPLAY PYTHONHOME PYTHONSTARTUP
# Whoever wants no compiled modules among the sources gets none there, and a start is twice as quick.
unset PYTHONDONTWRITEBYTECODE
PYTHONPATH=$(seen "$root/src")
# The compiled modules stay out of the checkout's folders, where they would be taken for its own.
PYTHONPYCACHEPREFIX=$(seen "$windows/pycache")
export PYTHONPATH PYTHONPYCACHEPREFIX PYTHONUTF8=1 PYTHONNOUSERSITE=1
cd "$root" || exit
# 9 is the lock of a set-up, and Wine's server outlives it.
exec wine "$windows/python/python.exe" "$@" 9<&-
