#!/bin/bash
# Makes a copy of the Rust toolchain that can build for another target on a machine where rustup may
# download nothing, and prints its folder as the last line on stdout:
#
#   ci/sysroot.sh wasm32-wasip2 | x86_64-pc-windows-gnu | aarch64-apple-darwin
#
# The standard library is built from Debian's package of its source; wasm32-wasip2 takes its C library
# from another one, the others link with tools of their own.
#
# The packages are pinned by checksum, since the committed components are compared with what this
# toolchain builds. When they have left the mirror, their nearest relatives there are taken and the
# file `rebuilt` is left in the folder: what it builds then is sound but has other checksums.
set -euo pipefail

RUST_VERSION=1.95.0
RUST_SRC=pool/main/r/rustc/rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb
RUST_SRC_SHA256=7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b
WASI_LIBC=pool/main/w/wasi-libc/wasi-libc_0.0~git20260423.161b319-2_all.deb
WASI_LIBC_SHA256=1051dbb0a5e6d3f709de83b6afb423e07a8ab19a9e9f12ef20ff902131e7b8bc
TARGET=${1:-}
case $TARGET in
    wasm32-wasip2 | x86_64-pc-windows-gnu | aarch64-apple-darwin) ;;
    *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

cache=${XDG_CACHE_HOME:-$HOME/.cache}/coracle-ci
packages=$cache/packages
host_sysroot=$(rustc --print sysroot)
stamp=$( (rustc -vV; cat "$0") | sha256sum | cut -c1-16)
toolchain=$cache/toolchain-$TARGET-$stamp

say() { echo "sysroot: $*" >&2; }

# The first Debian archive this machine is configured for, in either format of apt's sources.
mirror() {
    { cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *\([^ ]*\).*/\1/p'
      cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
          sed -n 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\).*/\2/p'
    } | sed 's,/*$,,' | grep '/debian$' | head -n 1
}

# download PATH SHA256 FILE: gets a package; 1 when the mirror no longer has it or it is another one.
download() {
    echo "$2  $3" | sha256sum --check --status 2>/dev/null && return
    curl -fsSL --retry 3 -o "$3.part" "$(mirror)/$1" || return 1
    echo "$2  $3.part" | sha256sum --check --status || return 1
    mv "$3.part" "$3"
}

# packages SUITE: prints a suite's list of packages, which is as good as the archive's signature.
packages() {
    local list=main/binary-amd64/Packages.xz keys=/usr/share/keyrings/debian-archive-keyring.gpg sha256
    curl -fsSL --retry 3 -o "$work/InRelease" "$(mirror)/dists/$1/InRelease" &&
        gpgv --quiet --keyring $keys --output "$work/Release" "$work/InRelease" &&
        sha256=$(awk -v list="$list" '/^SHA256:/ {on = 1} on && $3 == list {print $1; exit}' "$work/Release") &&
        curl -fsSL --retry 3 -o "$work/Packages.xz" "$(mirror)/dists/$1/$list" &&
        echo "$sha256  $work/Packages.xz" | sha256sum --check --status &&
        xz -dc "$work/Packages.xz"
}

# nearest PACKAGE VERSION FILE: gets the last package whose version begins so from the suites that may have it.
nearest() {
    local suite found
    for suite in trixie-backports sid; do
        found=$(packages $suite | awk -v name="$1" -v version="$2" '
            /^Package: / {here = $2 == name}
            /^Version: / {here = here && index($2, version) == 1}
            here && /^Filename: / {path = $2}
            here && /^SHA256: / {sha256 = $2}
            END {if (path) print path, sha256}') || continue
        [ -n "$found" ] || continue
        say "taking $found in place of the pinned $1"
        # shellcheck disable=SC2086  # two words: path and checksum
        download $found "$3" && return
    done
    say "no $1 $2 on the mirror"
    return 1
}

get_packages() {
    mkdir -p "$packages"
    rust_src=$packages/rust-src.deb wasi_libc=$packages/wasi-libc.deb rebuilt=
    download "$RUST_SRC" "$RUST_SRC_SHA256" "$rust_src" || {
        rebuilt=yes rust_src=$packages/rust-src-other.deb
        say "the pinned rust-src is not on the mirror"
        nearest rust-src "$RUST_VERSION+" "$rust_src"
    }
    [ "$TARGET" = wasm32-wasip2 ] || return 0
    download "$WASI_LIBC" "$WASI_LIBC_SHA256" "$wasi_libc" || {
        rebuilt=yes wasi_libc=$packages/wasi-libc-other.deb
        say "the pinned wasi-libc is not on the mirror"
        nearest wasi-libc 0.0~git202 "$wasi_libc"
    }
}

# finish ROOT CLONE LIB: adds what the target needs beside std's own libraries.
finish() {
    local libc=$work/libc object
    case $TARGET in
        wasm32-wasip2)
            dpkg -x "$wasi_libc" "$libc"
            libc=$libc/usr/lib/wasm32-wasip2
            cp "$libc"/{crt1-command.o,crt1-reactor.o,libc.a} "$3/self-contained/" ;;
        x86_64-pc-windows-gnu)
            # rustc links every program with these two and no build of std makes them.
            for object in rsbegin rsend; do
                RUSTC_BOOTSTRAP=1 "$2/bin/rustc" --target $TARGET --emit=obj -O \
                    -o "$3/$object.o" "$1/usr/src/rustc-$RUST_VERSION/library/rtstartup/$object.rs"
            done ;;
    esac
}

# A real copy: rustup writes some files of a toolchain in place, so links would change under us.
build() {
    local root=$work/root clone=$work/toolchain lib library
    dpkg -x "$rust_src" "$root"
    library=$root/usr/src/rustc-$RUST_VERSION/library
    mkdir -p "$clone/lib/rustlib"
    cp -a "$host_sysroot/bin" "$clone/"
    find "$host_sysroot/lib" -maxdepth 1 -type f -exec cp -a -t "$clone/lib" {} +
    cp -a "$host_sysroot/lib/rustlib/$(rustc --print host-tuple)" "$clone/lib/rustlib/"
    # Only the static form of std is used, and the shared one would need the target's linker.
    [ "$TARGET" != aarch64-apple-darwin ] ||
        sed -i 's/^crate-type = .*/crate-type = ["rlib"]/' "$library/std/Cargo.toml"
    # The embedded paths become the same on every machine, as in an official std.
    RUSTC_BOOTSTRAP=1 RUSTC=$clone/bin/rustc __CARGO_DEFAULT_LIB_METADATA=stablestd \
        CARGO_TARGET_DIR=$work/target CARGO_INCREMENTAL=0 \
        RUSTFLAGS="-Zforce-unstable-if-unmarked -Cembed-bitcode=yes --remap-path-prefix=$root/usr/src/rustc-$RUST_VERSION=/rustc --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        "$clone/bin/cargo" build --quiet --release --target $TARGET --features panic-unwind,backtrace \
        --manifest-path "$library/sysroot/Cargo.toml" >&2
    lib=$clone/lib/rustlib/$TARGET/lib
    mkdir -p "$lib/self-contained"
    cp "$work/target/$TARGET/release/deps/"*.rlib "$lib/"
    finish "$root" "$clone" "$lib"
    [ -z "$rebuilt" ] || touch "$clone/rebuilt"
}

if [ ! -d "$toolchain" ]; then
    rustc --version | grep -q "^rustc $RUST_VERSION " || {
        say "std must match the compiler: rustc $RUST_VERSION is needed, this is $(rustc --version)"
        exit 1
    }
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    get_packages
    say "building std for $TARGET, which takes a minute of two cores"
    build
    mv -T "$work/toolchain" "$toolchain" 2>/dev/null || [ -d "$toolchain" ]
fi
echo "$toolchain"
