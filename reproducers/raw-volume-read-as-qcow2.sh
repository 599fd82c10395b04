#!/bin/sh
# libvirt: a raw volume into which its guest has written a qcow2 header is a qcow2 volume to libvirt
# after a refresh of its pool, and virsh vol-create-from copies the file that the header names.
#
# Needs: virsh, qemu-img, a libvirtd at $LIBVIRT_DEFAULT_URI (else qemu:///system), root.
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
fault=2
trap 'exit $fault' EXIT
work=$(mktemp -d)
name=reproducer-${work##*.}  # of nobody else's
trap 'rm -rf "$work"; exit $fault' EXIT
chmod 755 "$work"
virsh -q pool-create-as "$name" dir --target "$work"
trap 'virsh -q pool-destroy "$name" || :; rm -rf "$work" "$work".*; exit $fault' EXIT

head -c 65536 /dev/zero | tr '\0' 'S' >"$work/secret-of-the-host"
virsh -q vol-create-as "$name" disk 1M --format raw
# what a guest can write to its disk: the header of an overlay, with a path of its choice
qemu-img create -q -u -f qcow2 -b "$work/secret-of-the-host" -F raw "$work/header" 64K
dd if="$work/header" of="$work/disk" conv=notrunc status=none
rm "$work/header"
virsh -q pool-refresh "$name"

virsh vol-dumpxml --pool "$name" disk >"$work.xml"
cat >"$work.new.xml" <<'END'
<volume><name>copy</name><capacity>65536</capacity><target><format type='raw'/></target></volume>
END
virsh -q vol-create-from "$name" "$work.new.xml" disk --inputpool "$name" || :
grep -E "<format|<path" "$work.xml"
copied=$(head -c 4 "$work/copy" 2>/dev/null || :)
echo "the copy begins with: $copied"
if [ "$copied" = SSSS ]; then fault=0; else fault=1; fi
