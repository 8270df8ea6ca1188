# What build-deb and build-rpm share. Sourced by them; sets:
#   checkout   the top of the checkout
#   dist       where results go: $DIST, else dist/ of the checkout
#   version    of the project, with $PACKAGE_SUFFIX (such as "~previous") for a build that must differ
#   work       a directory outside the checkout, removed at the end
# and SOURCE_DATE_EPOCH, from which every time stamp in a package comes: as given, else the date of
# the newest entry of the changelog, so that the same files always make the same package.
# shellcheck shell=sh

say() { printf 'packaging: %s\n' "$*"; }
fail() { printf 'packaging: %s\n' "$*" >&2; exit 1; }

checkout=$(cd "$here/.." && pwd)
dist=${DIST:-$checkout/dist}
changelog=$here/debian/changelog
umask 022
export LC_ALL=C TZ=UTC
# The distribution's own tools: a python3 of somebody else on PATH is not what packages are built with.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

version=$(sed -n '1s/^[^(]*(\([^)]*\)).*/\1/p' "$changelog")
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(date -d "$(sed -n '/^ -- /{s/^.*>  //p;q}' "$changelog")" +%s)
fi
export SOURCE_DATE_EPOCH
grep -qx "__version__ = \"$version\"" "$checkout/k3s_ha_agent/__init__.py" ||
    fail "packaging/debian/changelog says $version, k3s_ha_agent/__init__.py something else"
version=$version${PACKAGE_SUFFIX:-}

mkdir -p "$dist"
dist=$(cd "$dist" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/k3s-ha-agent-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# Copy what a package is made of; tests and tools of the checkout stay behind.
stage() { # target directory
    mkdir -p "$1"
    (cd "$checkout" && tar -c --exclude=__pycache__ --exclude='*.pyc' --exclude='.*' \
        CHANGELOG.md LICENSE README.md docs k3s_ha_agent packaging setup.cfg systemd) | tar -x -C "$1" --no-same-owner
    cp "$1/packaging/pyproject.toml" "$1/pyproject.toml"
    chmod -R u=rwX,go=rX "$1"
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}
