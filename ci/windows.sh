#!/bin/bash
# Builds Coracle for Windows on Debian and runs its tests as Windows programs under wine:
#
#   ci/windows.sh                         all tests of all packages, with a summary at the end
#   ci/windows.sh test -p coracle-store   any arguments of `cargo test` in place of `--workspace`
#   ci/windows.sh check                   only what the compiler says, of every target; the quickest look
#   ci/windows.sh COMMAND ARGS...         another command of cargo, such as `clippy` or `build`
#
# It needs rustc as ci/sysroot.sh says, gcc-mingw-w64-x86-64, wine and wine64; root gets the packages
# installed, others are told which. Everything it makes lies in the user's cache folder.
#
# Wine is not Windows, and this target is `gnu` where the published binary's is `msvc`: what passes here
# is known to hold for the Windows API as wine understands it. docs/platforms.md lists what it cannot show.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=x86_64-pc-windows-gnu
WINE=/usr/lib/wine/wine64
# A test binary that takes longer hangs.
TEST_BINARY_SECONDS_MAX=3600

cache=${XDG_CACHE_HOME:-$HOME/.cache}/coracle-ci
mkdir -p "$cache"

say() { echo "windows: $*" >&2; }

get_packages() {
    local packages=()
    command -v x86_64-w64-mingw32-gcc >/dev/null || packages+=(gcc-mingw-w64-x86-64)
    [ -x $WINE ] || packages+=(wine wine64)
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "missing packages: apt-get install --no-install-recommends ${packages[*]}"
        exit 1
    fi
    apt-get update -qq || say "apt's lists stay as they are"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# Rust's standard library takes random numbers from a DLL that wine has only since version 9. The shim
# asks the older interface for them, of which every wine has an implementation.
make_shim() {
    [ ! -e "$1/bcryptprimitives.dll" ] || return 0
    x86_64-w64-mingw32-gcc -x c -shared -O2 -o "$1/bcryptprimitives.dll" - -ladvapi32 <<'SHIM'
#include <windows.h>
#include <ntsecapi.h>

/* RtlGenRandom is SystemFunction036 of advapi32. */
BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
    while (length > 0) {
        ULONG part = length > 0x10000000 ? 0x10000000 : (ULONG)length;
        if (!RtlGenRandom(buffer, part))
            return FALSE;
        buffer += part;
        length -= part;
    }
    return TRUE;
}
SHIM
}

# Sets WINEPREFIX to a Windows of our own: nothing of the user's is read or changed.
make_prefix() {
    local work
    export WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" DISPLAY=
    prefix=$cache/$($WINE --version | tr -cs 'a-zA-Z0-9.\n' -)
    if [ ! -d "$prefix" ]; then
        say "making a Windows in $prefix (700 MB)"
        work=$(mktemp -d "$cache/work.XXXXXX")
        # shellcheck disable=SC2064  # the folder of now
        trap "rm -rf '$work'" EXIT
        WINEPREFIX=$work $WINE wineboot --init >&2
        WINEPREFIX=$work wineserver -w
        make_shim "$work/drive_c/windows/system32"
        mv -T "$work" "$prefix" 2>/dev/null || [ -d "$prefix" ]
    fi
    export WINEPREFIX=$prefix
    # Temporary folders of tests that were killed.
    rm -rf "$prefix"/drive_c/users/*/{Temp,AppData/Local/Temp}/*
}

# summary LOG: adds up what every test binary said about itself.
summary() {
    awk '/^test result:/ {
             for (i = 2; i <= NF; i++) {
                 if ($i ~ /^passed;?$/) passed += $(i - 1)
                 if ($i ~ /^failed;?$/) failed += $(i - 1)
             }
             binaries++
         }
         /not applicable under wine:/ {skipped[$0]}
         /^test .* FAILED$/ {print "failed: " $2}
         END {
             for (line in skipped) {print line; n++}
             printf "%d test binaries: %d tests passed, %d failed, %d of the passed not applicable under wine\n",
                 binaries, passed, failed, n
         }' "$1"
}

command=${1:-test}
[ $# -eq 0 ] || shift
get_packages
toolchain=$(ci/sysroot.sh $TARGET | tail -n 1)
export PATH=$toolchain/bin:$PATH
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}

case $command in
    test)
        make_prefix
        export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER="timeout --kill-after=10 $TEST_BINARY_SECONDS_MAX $WINE"
        # Tests ask for it where wine is known to be no Windows.
        export CORACLE_TEST_WINE=1
        [ $# -gt 0 ] || set -- --workspace
        log=$(mktemp "${TMPDIR:-/tmp}/coracle-windows.XXXXXX")
        # No pipe: it would be held open by whatever a test that was killed leaves behind.
        tail --follow --lines=+1 "$log" &
        # shellcheck disable=SC2064  # the process and the file of now
        trap "kill $! 2>/dev/null; rm -f '$log'" EXIT
        code=0
        cargo test --release --no-fail-fast --target $TARGET "$@" >"$log" 2>&1 || code=$?
        # What was written last is still to be shown.
        sleep 1
        summary "$log" >&2
        exit $code
        ;;
    check | clippy)
        [ $# -gt 0 ] || set -- --workspace --all-targets
        exec cargo "$command" --release --target $TARGET "$@"
        ;;
    *) exec cargo "$command" --release --target $TARGET "$@" ;;
esac
