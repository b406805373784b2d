#!/bin/sh
# Install the NBD clients and the tools that the tests drive, where they are missing and apt can do it.
# In CI a client that is still missing afterwards is an error; elsewhere its tests are skipped.
missing() {
  for client in nbdinfo nbdcopy nbdfuse nbdsh qemu-img qemu-io nbdkit nbd-server fio mke2fs mkfs.vfat strace valgrind zsh fish; do
    command -v "$client" >/dev/null 2>&1 || PATH="$PATH:/sbin:/usr/sbin" command -v "$client" \
      >/dev/null 2>&1 || echo "$client"
  done
}
[ -z "$(missing)" ] && exit 0
echo "installing NBD clients for the tests; missing:" $(missing)
if command -v apt-get >/dev/null 2>&1; then
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  export DEBIAN_FRONTEND=noninteractive
  $sudo apt-get update -qq >/dev/null 2>&1
  for package in libnbd-bin fdisk gdisk nbdfuse python3-libnbd qemu-utils nbdkit nbd-server fio e2fsprogs dosfstools fuse3 strace valgrind zsh fish; do
    $sudo apt-get install -y -qq "$package" >/dev/null 2>&1 || echo "could not install $package"
  done
fi
[ -z "$(missing)" ] && exit 0
echo "still missing:" $(missing)
[ -z "$CI" ]
