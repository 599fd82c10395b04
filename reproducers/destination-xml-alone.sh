#!/bin/sh
# libvirt: a live migration that persists the guest, with a destination XML (virsh migrate --xml) whose disk
# is a volume, defines it at the destination with the disk of the source: it runs from the volume and
# would start from the file. --persistent-xml has to say the same once more.
#
# Needs: virsh, qemu-img, root, two libvirtds that see the same /tmp and reach each other at 127.0.0.1:
# $SOURCE and $DESTINATION are their URIs. qemu.conf: remember_owner = 0.
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
exec 3>&2
fault=2
trap 'exit $fault' EXIT
source="virsh -q -c $SOURCE" destination="virsh -q -c $DESTINATION"
work=$(mktemp -d)
name=reproducer-${work##*.}  # of nobody else's
trap 'rm -rf "$work"; exit $fault' EXIT
chmod 755 "$work"
for each in "$source" "$destination"; do
    if $each dominfo "$name" || $each pool-info "$name"; then
        echo "there is a $name already" >&3
        exit
    fi >/dev/null 2>&1
done
trap 'for each in "$source" "$destination"; do
    $each destroy "$name" || :
    $each undefine "$name" || :
    $each pool-destroy "$name" || :
done >/dev/null 2>&1
rm -rf "$work"
exit $fault' EXIT
qemu-img create -q -f raw "$work/disk" 1M
chmod 666 "$work/disk"
$source pool-create-as "$name" dir --target "$work"
$destination pool-create-as "$name" dir --target "$work"
cat >"$work/guest.xml" <<END
<domain type='qemu'>
  <name>$name</name>
  <memory>16384</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='$work/disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
END
$source define "$work/guest.xml"
$source start "$name"
$source dumpxml --migratable "$name" |
    sed -e "s|<disk type='file'|<disk type='volume'|" \
        -e "s|<source file='[^']*'[^>]*>|<source pool='$name' volume='disk'/>|" >"$work/there.xml"
grep -q "pool='$name'" "$work/there.xml"
$source migrate --live --persistent --unsafe --xml "$work/there.xml" \
    --migrateuri "tcp://127.0.0.1:${PORT:-49300}" "$name" "$DESTINATION"
echo "runs there from:  $($destination dumpxml "$name" | grep '<source ')"
echo "defined there as: $($destination dumpxml --inactive "$name" | grep '<source ')"
$destination dumpxml "$name" | grep -q "<source pool='$name'" || exit
if $destination dumpxml --inactive "$name" | grep -q "<source file='"; then fault=0; else fault=1; fi
