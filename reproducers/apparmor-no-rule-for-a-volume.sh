#!/bin/sh
# libvirt with AppArmor: virt-aa-helper writes no rule for the image of a <disk type='volume'>, since it
# gets the domain before libvirtd has asked the pool for the path. Such a guest cannot start.
# (No AppArmor is needed to see it: the helper prints the rules that it would write.)
#
# Needs: virt-aa-helper, virsh, a libvirtd at $LIBVIRT_DEFAULT_URI (else qemu:///system), root.
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
fault=2
trap 'exit $fault' EXIT
work=$(mktemp -d)
name=reproducer-${work##*.}  # of nobody else's
trap 'rm -rf "$work"; exit $fault' EXIT
virsh -q pool-create-as "$name" dir --target "$work"
trap 'virsh -q pool-destroy "$name" || :; rm -rf "$work"; exit $fault' EXIT
virsh -q vol-create-as "$name" disk.img 1M --format raw
uuid=3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11
rules() {
    cat >"$work/guest.xml" <<END
<domain type='qemu'>
  <name>$name</name>
  <uuid>$uuid</uuid>
  <memory>16384</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <disk type='$1'><driver name='qemu' type='raw'/><source $2/><target dev='vda'/></disk>
  </devices>
</domain>
END
    /usr/lib/libvirt/virt-aa-helper -d -c -u "libvirt-$uuid" <"$work/guest.xml" 2>&1 |
        grep -c "$work/disk.img" || :
}
file=$(rules file "file='$work/disk.img'")
volume=$(rules volume "pool='$name' volume='disk.img'")
echo "rules for the image: $file as a file, $volume as a volume"
[ "$file" -gt 0 ] || exit
if [ "$volume" -eq 0 ]; then fault=0; else fault=1; fi
