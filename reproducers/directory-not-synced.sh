#!/bin/sh
# libvirt: a definition is written to a new file, synced and renamed over the old one, but the directory is
# not synced. After a power failure the old definition may be there, though virsh define has returned:
# who has removed what the old one needs has a guest that does not start.
#
# Needs: strace, virsh, a libvirtd at $LIBVIRT_DEFAULT_URI (else qemu:///system), root, and
# $LIBVIRTD: its PID (else that of the pidfile).
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
fault=2
trap 'exit $fault' EXIT
pid=${LIBVIRTD:-$(cat /run/libvirtd.pid)}
work=$(mktemp -d)
name=reproducer-${work##*.}  # of nobody else's
trap 'rm -rf "$work"; exit $fault' EXIT
cat >"$work/guest.xml" <<END
<domain type='qemu'>
  <name>$name</name>
  <memory>16384</memory>
  <os><type arch='x86_64'>hvm</type></os>
</domain>
END
virsh -q define "$work/guest.xml"
trap 'virsh -q undefine "$name" || :; rm -rf "$work"; exit $fault' EXIT
virsh dumpxml --inactive "$name" | sed 's/16384</32768</' >"$work/guest.xml"
strace -f -y -qq -p "$pid" -o "$work/calls" \
    -e trace=openat,fsync,fdatasync,sync,syncfs,rename,renameat,renameat2 &
tracing=$!
while ! grep -q 'TracerPid:.*[1-9]' "/proc/$pid/status"; do kill -0 "$tracing"; done
virsh -q define "$work/guest.xml"
kill "$tracing"
wait "$tracing" || :
calls=$(grep -E "rename.*$name\.xml|sync\(" "$work/calls")
echo "$calls"
# strace tells how a call ends in a line of its own where another thread calls something meanwhile
echo "$calls" | grep -q "sync(.*$name\.xml" || exit
# a sync behind the rename would have been the directory's
if [ -z "$(echo "$calls" | sed "1,/rename.*$name\.xml/d" | grep 'sync(' || :)" ]; then fault=0; else fault=1; fi
