#!/usr/bin/env bash
# Builds the release of the last commit again, in a new folder with a path of another length, and
# compares every file with those of `make release` in this folder. Also looks in the binary for the
# folders of this machine. `make test-release` calls this.
#
# Exit status: 0 if all files are the same and no folder is in them.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
git -C "$root" diff --quiet HEAD || { echo "commit or stash your changes first" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
other=$work/a/longer/path/mailslot
git clone --quiet "$root" "$other"
make -C "$other" release > "$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }

diff "$root/target/dist/SHA256SUMS" "$other/target/dist/SHA256SUMS"
(cd "$root/target/dist" && sha256sum --quiet -c SHA256SUMS)

mkdir "$work/files"
tar -xzf "$root"/target/dist/*.tar.gz -C "$work/files"
cp "$root"/target/dist/*.cdx.json "$work/files"
for folder in "$root" "$other" "$HOME/" "$(rustc --print sysroot)" "$(uname -n)"; do
    if grep -rlF -- "$folder" "$work/files"; then
        echo "these files name $folder" >&2
        exit 1
    fi
done
echo "the same files from $root and from another folder; none names a folder of this machine"
