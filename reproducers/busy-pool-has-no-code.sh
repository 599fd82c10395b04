#!/bin/sh
# libvirt: while a volume is being made a refresh of its pool fails, with the code of any internal error
# (1, VIR_ERR_INTERNAL_ERROR). A client can neither tell that it should try again, nor wait.
#
# Needs: virsh, a libvirtd at $LIBVIRT_DEFAULT_URI (else qemu:///system), root, 1 GiB in /tmp.
# Exit code: 0 the fault is there, 1 it is not, 2 something else went wrong.
set -eu
fault=2
trap 'exit $fault' EXIT
work=$(mktemp -d)
name=reproducer-${work##*.}  # of nobody else's
trap 'rm -rf "$work"; exit $fault' EXIT
virsh -q pool-create-as "$name" dir --target "$work"
trap 'wait; virsh -q pool-destroy "$name" || :; rm -rf "$work" "$work".*; exit $fault' EXIT
virsh -q vol-create-as "$name" source 512M --format raw --allocation 512M
cat >"$work.xml" <<'END'
<volume><name>copy</name><capacity>536870912</capacity><target><format type='raw'/></target></volume>
END
virsh -q vol-create-from "$name" "$work.xml" source --inputpool "$name" &
copying=$!
said=
while kill -0 "$copying" 2>/dev/null && [ -z "$said" ]; do
    said=$(virsh -q pool-refresh "$name" 2>&1 || :)
done
echo "$said"
case $said in *"internal error"*"asynchronous jobs running"*) fault=0 ;; *) fault=1 ;; esac
