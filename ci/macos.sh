#!/bin/bash
# Builds and links Coracle and every test and benchmark for macOS on Apple silicon, on Debian:
#
#   ci/macos.sh                  everything: cargo zigbuild --workspace --all-targets
#   ci/macos.sh check            only what the compiler says; the quickest look
#   ci/macos.sh clippy | zigbuild ARGS...   another command with arguments of its own
#
# It needs rustc as ci/sysroot.sh says, and python3 with pip for zig, which is the C compiler and the
# linker. Everything it makes lies in the user's cache folder.
#
# Nothing is run: this machine has no macOS. Apple's frameworks may not be copied here, so the linker
# gets stubs that list the names which our dependencies declare; that a framework has them is the claim of
# those crates, which their own tests on macOS check.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=aarch64-apple-darwin
ZIGBUILD_VERSION=0.24.0
ZIG_VERSION=$(sed -n 's/.*VERSION: &str = "\(.*\)";/\1/p' xtask/src/guests/zig.rs)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/coracle-ci
mkdir -p "$cache"

say() { echo "macos: $*" >&2; }

# The same folder as `.ci/run` has it in.
get_zig() {
    local zig=$cache/ziglang-$ZIG_VERSION zigbuild=$cache/cargo-zigbuild-$ZIGBUILD_VERSION
    [ -x "$zig/ziglang/zig" ] ||
        python3 -m pip install --quiet --root-user-action=ignore --upgrade --target "$zig" "ziglang==$ZIG_VERSION"
    [ -x "$zigbuild/bin/cargo-zigbuild" ] ||
        python3 -m pip install --quiet --root-user-action=ignore --upgrade --no-deps --target "$zigbuild" \
            "cargo-zigbuild==$ZIGBUILD_VERSION"
    export CARGO_ZIGBUILD_ZIG_PATH=$zig/ziglang/zig
    export PATH=$zigbuild/bin:$PATH
}

# make_stubs FOLDER: writes `NAME.framework/NAME.tbd` for the frameworks that dependencies link with.
make_stubs() {
    cargo metadata --format-version 1 --locked --filter-platform $TARGET | python3 -c '
import json, pathlib, re, sys

FRAMEWORKS = {
    "CoreFoundation": ["core-foundation-sys", "objc2-core-foundation", "iana-time-zone"],
    "IOKit": ["objc2-io-kit"],
    "Security": ["security-framework-sys"],
}
packages = json.load(sys.stdin)["packages"]
for framework, crates in FRAMEWORKS.items():
    names = set()
    for package in packages:
        if package["name"] in crates:
            for source in pathlib.Path(package["manifest_path"]).parent.rglob("*.rs"):
                text = source.read_text()
                names.update(re.findall(r"\bfn\s+([A-Z_]\w+)\s*\(", text))
                names.update(re.findall(r"\bstatic\s+(?:mut\s+)?(\w+)\s*:", text))
    folder = pathlib.Path(sys.argv[1], framework + ".framework")
    folder.mkdir(parents=True, exist_ok=True)
    symbols = ", ".join("_" + name for name in sorted(names))
    (folder / (framework + ".tbd")).write_text(f"""--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos ]
install-name: "/System/Library/Frameworks/{framework}.framework/Versions/A/{framework}"
exports:
  - targets: [ arm64-macos ]
    symbols: [ {symbols} ]
...
""")
' "$1"
}

# count_executables: counts what was linked just now, and fails when something is no program for macOS.
count_executables() {
    python3 -c '
import json, sys

MACH_O_ARM64 = bytes.fromhex("cffaedfe0c000001")
found = set()
for line in sys.stdin:
    if line.startswith("{"):
        found.add(json.loads(line).get("executable"))
found.discard(None)
foreign = [path for path in found if open(path, "rb").read(8) != MACH_O_ARM64]
assert found and not foreign, foreign
print(f"{len(found)} programs for macOS were built and linked")
'
}

command=${1:-zigbuild}
[ $# -eq 0 ] || shift
get_zig
toolchain=$(ci/sysroot.sh $TARGET | tail -n 1)
export PATH=$toolchain/bin:$PATH
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
stubs=$cache/frameworks
rm -rf "$stubs"
make_stubs "$stubs"
export CARGO_TARGET_AARCH64_APPLE_DARWIN_RUSTFLAGS="-Clink-arg=-F$stubs"
[ $# -gt 0 ] || set -- --workspace --all-targets
case $command in
    zigbuild)
        cargo-zigbuild zigbuild --release --target $TARGET --message-format json-render-diagnostics "$@" |
            count_executables ;;
    check | clippy)
        # Build scripts compile C even for a check.
        exec cargo-zigbuild "$command" --release --target $TARGET "$@" ;;
    *) say "no such command: $command"; exit 2 ;;
esac
