#!/bin/sh
# libvirt before 7.4.0: <clusterSize> in the XML of a new qcow2 volume is ignored without a word.
#
# Needs: virsh, qemu-img, a libvirtd at $LIBVIRT_DEFAULT_URI (else qemu:///system), root.
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
fault=2
trap 'exit $fault' EXIT
work=$(mktemp -d)
name=reproducer-${work##*.}  # of nobody else's
trap 'rm -rf "$work"; exit $fault' EXIT
virsh -q pool-create-as "$name" dir --target "$work"
trap 'virsh -q pool-destroy "$name" || :; rm -rf "$work"; exit $fault' EXIT
cat >"$work/new.xml" <<'END'
<volume>
  <name>disk</name>
  <capacity>1048576</capacity>
  <target><format type='qcow2'/><clusterSize unit='KiB'>128</clusterSize></target>
</volume>
END
virsh -q vol-create "$name" "$work/new.xml"
qemu-img info "$work/disk" | grep cluster_size
if qemu-img info "$work/disk" | grep -q "cluster_size: 65536"; then fault=0; else fault=1; fi
