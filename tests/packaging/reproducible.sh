#!/usr/bin/env bash
# Builds the release of the last commit again, in a new folder with a path of another length, and
# compares every file with those of `make release` in this folder. Also looks in the binary and the
# SBOM for the folders of this machine. `make test-release` calls this.
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

tar -xzf "$root"/target/dist/*.tar.gz -C "$work" --strip-components=1 --wildcards '*/mailslot'
for folder in "$root" "$other" "$HOME/" "$(rustc --print sysroot)"; do
    for file in "$work/mailslot" "$root"/target/dist/*.cdx.json; do
        ! grep -qF -- "$folder" "$file" || { echo "$file names $folder" >&2; exit 1; }
    done
done
echo "the same files from two folders, and none names a folder of this machine"
