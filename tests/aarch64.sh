#!/bin/bash
# Build for aarch64 and run it under qemu-user: `make aarch64`, on Debian, as root; some minutes.
#
# Needs gcc-aarch64-linux-gnu and qemu-user-static. Debian's own python3.11 of arm64 is unpacked
# beside the build and not installed; msgspec and numpy are PyPI's wheels. What is compiled is the C
# that Cython has written for the release build. qemu has no io_uring, so disks are in memory here.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin
place=build/aarch64
root=$place/root
site=$place/site
mkdir -p "$root" "$site" "$place/debs" "$place/wheels"

if [ ! -x "$root/usr/bin/python3.11" ]; then
  had=$(dpkg --print-foreign-architectures)
  dpkg --add-architecture arm64
  apt-get update -qq
  (cd "$place/debs" && apt-get download -qq \
    {python3.11-minimal,libpython3.11-{minimal,stdlib,dev},libc6,libgcc-s1,libstdc++6}:arm64 \
    {zlib1g,libexpat1,libffi8,libssl3,libbz2-1.0,liblzma5,libuuid1,libcrypt1}:arm64)
  case " $had " in *arm64*) ;; *) dpkg --remove-architecture arm64 ;; esac
  for package in "$place"/debs/*.deb; do dpkg -x "$package" "$root"; done
fi
if [ ! -d "$site/numpy" ]; then
  "$bin/pip" download --quiet --only-binary=:all: --no-deps --dest "$place/wheels" \
    --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_28_aarch64 --python-version 311 --implementation cp --abi cp311 \
    msgspec numpy
  for wheel in "$place"/wheels/*.whl; do "$bin/python" -m zipfile -e "$wheel" "$site"; done
fi

rm -rf "$site/vbdev"
cp -r src/vbdev "$site/vbdev"
for source in $(find build/release/src/vbdev/core -name '*.pyx.c'); do
  name=$(basename "$source" .pyx.c)
  family=$(dirname "$(dirname "${source#build/release/src/vbdev/core/}")")
  object=$place/${family//\//_}_$name.o
  if [ "$source" -nt "$object" ]; then
    ${CCACHE:-} aarch64-linux-gnu-gcc -c -fPIC -O1 -w -std=gnu11 -I"$root/usr/include/python3.11" \
      -I"$root/usr/include" -o "$object" "$source"
  fi
  aarch64-linux-gnu-gcc -shared -o "$site/vbdev/core/$family/$name.cpython-311-aarch64-linux-gnu.so" \
    "$object"
done

PYTHONPATH=$site qemu-aarch64-static -L "$root" "$root/usr/bin/python3.11" tests/aarch64_run.py
