#!/bin/sh
# libvirt: while a volume is being made a refresh of its pool fails, with the code of any internal error
# (1, VIR_ERR_INTERNAL_ERROR). A client can neither tell that it should try again, nor wait.
#
# Needs: virsh, a libvirtd at $LIBVIRT_DEFAULT_URI (else qemu:///system), root, 1 GiB in /tmp.
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
work=$(mktemp -d)
fault=2
trap 'wait; virsh -q pool-destroy reproducer || :; rm -rf "$work"; exit $fault' EXIT
virsh -q pool-create-as reproducer dir --target "$work"
virsh -q vol-create-as reproducer source 512M --format raw --allocation 512M
cat >"$work.xml" <<'END'
<volume><name>copy</name><capacity>536870912</capacity><target><format type='raw'/></target></volume>
END
virsh -q vol-create-from reproducer "$work.xml" source --inputpool reproducer &
copying=$!
said=
while kill -0 "$copying" 2>/dev/null && [ -z "$said" ]; do
    said=$(virsh -q pool-refresh reproducer 2>&1 || :)
done
rm -f "$work.xml"
echo "$said"
case $said in *"internal error"*"asynchronous jobs running"*) fault=0 ;; *) fault=1 ;; esac
