#!/usr/bin/env bash
# The stored manifests on machines that compute otherwise: Debian's NumPy over the reference BLAS, and arm64 under qemu.
# Needs Debian, root, and its packages; python3 with pip. What cannot be had is said to be "not tried"; exit status 1 only
# where a hash differs. Usage: tests/reproduce_elsewhere.sh blas (a minute), or: tests/reproduce_elsewhere.sh arm64 (five)
set -uo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
not_tried() { echo "not tried: $1"; }

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    not_tried "Debian's NumPy, arm64 (no apt-get, or not root)"
    exit 0
fi
apt-get -qq update >/dev/null 2>&1

debian() {
    echo "== Debian's python3-numpy over the reference BLAS"
    if apt-get -qq install -y python3-numpy libblas3 >"$work/log" 2>&1; then
        version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if python3 -m pip install -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$version" \
            --target "$work/extra" pillow safetensors >"$work/log" 2>&1; then
            PYTHONPATH="$work/extra" /usr/bin/python3 tests/golden_manifests.py || failed=1
        else
            not_tried "Debian's NumPy (no Pillow and safetensors for it): $(tail -1 "$work/log")"
        fi
    else
        not_tried "Debian's NumPy: $(tail -1 "$work/log")"
    fi
}

arm64() {
    echo "== arm64 under qemu: PyPI's NumPy (OpenBLAS), then Debian's (reference BLAS)"
    root="$work/arm64"
    wheels() { # the wheels of the named packages for arm64, unpacked
        python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
            --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 -d "$1.whl" "${@:2}" &&
            for wheel in "$1".whl/*.whl; do python3 -m zipfile -e "$wheel" "$1"; done
    }
    if apt-get -qq install -y qemu-user-static debootstrap >"$work/log" 2>&1 &&
        debootstrap --arch=arm64 --foreign --variant=minbase --include=python3-minimal,python3-numpy bookworm "$root" >"$work/log" 2>&1 &&
        wheels "$work/all" numpy pillow safetensors >"$work/log" 2>&1 && wheels "$work/pictures" pillow safetensors >"$work/log" 2>&1; then
        for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
        libraries="$root/usr/lib/aarch64-linux-gnu"
        cp "$libraries"/blas/libblas.so.3* "$libraries"/lapack/liblapack.so.3* "$libraries/"
        for path in "$work/all" "$work/pictures:$root/usr/lib/python3/dist-packages"; do
            PYTHONPATH="$path" qemu-aarch64-static -L "$root" "$root/usr/bin/python3.11" tests/golden_manifests.py || failed=1
        done
    else
        not_tried "arm64: $(tail -1 "$work/log")"
    fi
}

case "${1:-}" in
    blas) debian ;;
    arm64) arm64 ;;
    *) echo "say blas or arm64"; exit 2 ;;
esac
exit $failed
