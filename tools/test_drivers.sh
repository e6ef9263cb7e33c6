#!/bin/sh
# Gets what the tests need beside Python: packages of the distribution, where it may install any,
# and two drivers in .drivers/, which takes no rights. Names what is missing, and what that costs;
# ends with 1 if it could be had. Once all is there, or could not be had, later runs only look.
#
#   .drivers/swiftshader/swiftshader_icd.json   SwiftShader, out of Debian's chromium-common
#   .drivers/lavapipe-25/lvp_icd.json           Mesa 25.0 beside Debian 12's own 22.3

root=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
# shellcheck source=tools/setup.sh
. "$root/tools/setup.sh"
drivers=$root/.drivers
log=$drivers/setup.log
apt=$drivers/apt
newline='
'

command -v dpkg-query >/dev/null || {
    say "missing: what the tests on Vulkan drivers need; only Debian and Ubuntu are known here"
    exit 0
}
. /etc/os-release # ID, VERSION_CODENAME

# What is wanted, and which tests it costs if it is not there.
packages='libvulkan1: all tests on Vulkan drivers
mesa-vulkan-drivers: the tests on lavapipe
vulkan-validationlayers: the comparison with the validation layers
gcc: the tests that compile C
libc6-dev: the tests that compile C
libvulkan-dev: the comparison with the Vulkan headers
gcc-mingw-w64-x86-64-win32: the comparison with the Windows headers'
wanted_drivers=
case $ID in
debian)
    wanted_drivers='swiftshader: the tests on SwiftShader, which alone exports semaphores'
    # 121 MB to get and 435 MB on disk. Elsewhere it is a snap, which runs in no container.
    packages="$packages
chromium: the tests of the inspector in a browser
chromium-driver: the tests of the inspector in a browser"
    ;;
*) say "missing: SwiftShader and Chromium, which only Debian packages (no tests on them)" ;;
esac
# Other releases have a newer Mesa of their own, and nothing older to hold it against.
[ "$VERSION_CODENAME" = bookworm ] && wanted_drivers="$wanted_drivers
lavapipe-25: the tests on lavapipe 25 and on two Mesas in one process"

missing_packages() {
    there=$newline$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null)$newline
    echo "$packages" | while read -r line; do
        case $there in *"${newline}installed ${line%%:*}$newline"*) ;; *) echo "$line" ;; esac
    done
}
missing() {
    missing_packages
    echo "$wanted_drivers" | while read -r line; do
        [ -z "$line" ] || [ -f "$drivers/${line%%:*}/device" ] || echo "$line"
    done
}

install_packages() {
    names=$(missing_packages | sed 's/:.*//')
    [ "$names" ] && may_apt || return 0
    # shellcheck disable=SC2086 # one word for each package
    say installing $names && apt_install $names && return
    # One that this release lacks must not cost the others.
    for name in $names; do apt_install "$name"; done
}

# apt with lists and a cache of its own: it needs no rights, changes nothing of the system's, and
# checks the archive's signatures all the same. It looks past what is installed: a version that
# came from elsewhere (a security update) would be wanted, and is not in these lists.
private_apt() {
    logged apt-get -q -o Dir::Etc::SourceList="$apt/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$apt/lists" \
        -o Dir::State::status=/dev/null \
        -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::Retries=3 "$@"
}
private_lists() {
    [ -d "$apt" ] && return
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" || return
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "RELEASE: $VERSION_CODENAME" | head -n 1)
    for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-backports"; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
            "${mirror:-http://deb.debian.org/debian} $suite main"
    done >"$apt/sources.list"
    private_apt update
}

# get_driver NAME MANIFEST LIBRARY API PACKAGE: takes the library alone out of the package; what
# it links to is there, because the distribution's own mesa-vulkan-drivers needs the same.
get_driver() {
    say "getting .drivers/$1"
    folder=$drivers/$1
    library=$folder/$3
    rm -f "$folder/device"
    mkdir -p "$folder" || return
    if [ ! -f "$library" ]; then
        private_lists && (cd "$apt" && private_apt download "$5") || return
        dpkg-deb --fsys-tarfile "$apt/${5%/*}"_*.deb | tar -xO --wildcards "*/$3" >"$library.part"
        [ -s "$library.part" ] && mv "$library.part" "$library" || return
    fi
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "%s"}}\n' \
        "$library" "$4" >"$folder/$2"
    # Only a driver that was seen to work counts. Without the loader there is nothing to see it with,
    # but SwiftShader can be opened without one.
    if missing_packages | grep -q ^libvulkan1:; then
        echo "not tried" >"$folder/device"
    elif "$venv/bin/python" -I "$root/tools/probe_driver.py" "$folder/$2" \
        >"$folder/probe" 2>>"$log"; then
        mv "$folder/probe" "$folder/device"
    else
        say "it does not work: $(cat "$folder/probe") (see $log)"
        rm "$folder/$2"
    fi
}

# What was there when this last tried. While that is so, trying again is a waste of time.
state() { echo "$root" && cksum <"$root/tools/test_drivers.sh" && missing; }
settled() {
    [ "$(state)" = "$(cat "$drivers/state" 2>/dev/null)" ] &&
        { [ -z "${EXTMEM_TEST_STRICT-}" ] || [ -z "$(missing)" ]; }
}

get_all() {
    settled && return # by the run that we waited for
    mkdir -p "$drivers" && : >"$log" || return
    install_packages
    case $wanted_drivers in *swiftshader:*)
        get_driver swiftshader swiftshader_icd.json libvk_swiftshader.so 1.3.0 chromium-common ;;
    esac
    case $wanted_drivers in *lavapipe-25:*)
        get_driver lavapipe-25 lvp_icd.json libvulkan_lvp.so 1.4.305 \
            mesa-vulkan-drivers/bookworm-backports ;;
    esac
    rm -rf "$apt"
    state >"$drivers/state"
}

settled || locked get_all
missing=$(missing)
[ -z "$missing" ] && exit
echo "$missing" | while read -r line; do say "missing: $line"; done
names=$(missing_packages | sed 's/:.*//' | tr '\n' ' ')
[ -z "$names" ] || say "to have them, as root: apt-get install --no-install-recommends $names"
[ "$missing" = "$(missing_packages)" ] || say "to try the drivers again: rm -r $drivers (see $log)"
exit 1
