"""Every id that xmlkit answers with, and what it means: reasons, findings, rules.

Laws
- One namespace of lower-case ids; `xmlkit explain ID` prints what stands here.
- A message says what is so in this document; the text here says why it matters and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True)
class Rule:
    """One id: a title (one line), why it is so, what an operator can do, and who says so."""

    id: str
    title: str
    why: str
    remedy: str
    source: str = ""


RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        # Why a disk is not changed.
        Rule(
            "already",
            "the disk already has the form that is asked for",
            "A transition to volumes leaves volume disks alone, one to paths leaves file and "
            "block disks alone.",
            "Nothing to do.",
        ),
        Rule(
            "transient",
            "a <transient/> disk can only be a file",
            "libvirt refuses to define a transient disk of any type but file.",
            "Leave the disk as it is, or drop <transient/>.",
            "qemuValidateDomainDeviceDefDiskTransient, libvirt 9.0.0; seen on 7.0 to 12.8",
        ),
        Rule(
            "lun-reservations",
            "a LUN with <reservations> cannot be a volume disk",
            "libvirt's schema has no <reservations> in the source of a volume disk.",
            "Leave the disk as it is.",
            "domaincommon.rng, define diskSourceVolume; seen on 7.0 to 12.8",
        ),
        Rule(
            "lun-type",
            "a LUN is a block device",
            "libvirt refuses device='lun' on files.",
            "Make it a block disk, or device='disk'.",
            "virDomainDiskDefSourceLUNValidate, libvirt 9.0.0",
        ),
        Rule(
            "fdgroup",
            "a disk opened from passed file descriptors has no volume",
            "fdgroup exists for file disks only: libvirt opens no path at all.",
            "Leave the disk as it is.",
            "domaincommon.rng, define diskSourceFile, libvirt 9.0.0",
        ),
        Rule(
            "mirror",
            "a block job is running on the disk",
            "<mirror> is there while a block job runs; changing the address under it would send "
            "the job's result elsewhere.",
            "Finish or abort the job (virsh blockjob DOMAIN TARGET --abort), then plan again.",
        ),
        Rule(
            "live",
            "the document is a running domain's live XML",
            "Live XML has what libvirt filled in at start (aliases, ports, detected backing "
            "chains). Defined, it would freeze all that into the next boot.",
            "Use the persistent XML (virsh dumpxml --inactive), or --live if it is the "
            "destination XML of a migration.",
        ),
        Rule(
            "symlink",
            "the volume is a symbolic link",
            "libvirt follows links and compares paths as strings, so two names would lead to one "
            "image and a deleted volume would delete the link only.",
            "Put the image itself into the pool.",
            "virStorageBackendRefreshLocal, libvirt 9.0.0",
        ),
        Rule(
            "source-type",
            "the disk's source is of a type that has no counterpart",
            "Only file and block disks have a volume, and only volumes on a file system or block "
            "device have a path. Network disks (RBD, iSCSI, NBD ...) stay as they are.",
            "Nothing to do.",
        ),
        Rule(
            "pool-type",
            "libvirt has no volume disks on pools of this type",
            "libvirt turns a volume into a path or an address by the type of its pool, and "
            "refuses mpath, rbd, sheepdog and gluster.",
            "Keep the disk as it is, or move it to a pool of another type.",
            "virDomainStorageSourceTranslateSourcePool, libvirt 9.0.0; rbd seen on 9.0 and 11.3",
        ),
        Rule(
            "pool-inactive",
            "the pool is not active",
            "libvirt looks a volume up when the guest starts, and only in active pools.",
            "virsh pool-start POOL, and virsh pool-autostart POOL so that it comes back.",
            "seen on 7.0 to 12.8: error 67",
        ),
        Rule(
            "no-pool",
            "the host has no pool of this name",
            "Without the pool nobody can tell which path the volume has.",
            "Define and start the pool, or name it with --pool NAME=PATH.",
        ),
        Rule(
            "no-volume",
            "the pool does not know the volume",
            "libvirt finds a volume only in its list, which is as old as the pool's last refresh.",
            "virsh pool-refresh POOL, then plan again; if it still is not there, the image is "
            "missing.",
            "seen on 7.0 to 12.8: error 50",
        ),
        Rule(
            "bad-name",
            "the name cannot be a volume's or a pool's",
            "libvirt's schema refuses '/', '.' and '..', and a refresh leaves out names with "
            "control characters.",
            "Rename the image, then plan again.",
            "basictypes.rng, volName and objectName; virStorageBackendRefreshLocal, 9.0.0",
        ),
        Rule(
            "volume-taken",
            "the volume's name is taken",
            "A volume of this name exists in the pool, or another disk of the domain uses the "
            "image or wants the name; nothing is ever overwritten.",
            "Look at what is there (virsh vol-info), move it away or choose another pool.",
        ),
        Rule(
            "cinder",
            "the disk is a Cinder volume",
            "Nova attaches, migrates and detaches it by its serial and its source; it is not in "
            "Nova's image store. Known by Nova's own rule: a <serial>, or an alias ua-...",
            "Nothing to do.",
            "nova.virt.libvirt.migration._update_rbd_xml, Nova 34.0.0",
        ),
        Rule(
            "config-drive",
            "the disk is Nova's config drive",
            "Nova makes it anew in the instance's directory and looks for it there, whatever "
            "images_type says.",
            "Nothing to do.",
        ),
        Rule(
            "rescue",
            "the instance is in rescue",
            "Nova keeps the XML from before as text in unrescue.xml and defines it again "
            "verbatim, which would bring the old addresses back.",
            "Unrescue the instance, then plan again.",
            "nova.virt.libvirt.driver.unrescue, Nova 34.0.0",
        ),
        Rule(
            "empty",
            "the drive has no medium",
            "There is no source that could be turned into a volume.",
            "Nothing to do.",
        ),
        Rule(
            "outside-pools",
            "the path lies in no pool",
            "Only an image directly in a pool's directory, volume group or disk is a volume; "
            "subdirectories are none.",
            "Name a pool over its directory (--pool), or, for a disk in Nova's instance "
            "directory, move it with --relocate POOL.",
        ),
        Rule(
            "apparmor",
            "AppArmor confines this host's guests",
            "The profile of a guest is made before libvirt asks the pool for the path, so a "
            "volume disk gets no rule and the guest cannot open it. And virt-aa-helper reads "
            "backing files only of images in a few places, so a moved overlay may lose its base.",
            "Such disks keep a path (done by itself). For a move: add lines such as "
            "'/var/lib/nova/instances/disks/* r,' to "
            "/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper, then --accept apparmor.",
            "seen with virt-aa-helper of libvirt 7.0, 9.0, 11.3 and 12.8",
        ),
        Rule(
            "libvirt-version",
            "this libvirt is too old for it",
            "Volume disks exist since libvirt 1.0.5; some of their details came later. The disk "
            "keeps a path: of the same volume, in the disk's own format.",
            "Upgrade libvirt; --assume-libvirt VERSION plans for another one.",
            "docs/formatdomain.rst; the schema of 0.10.2",
        ),
        Rule(
            "hypervisor",
            "this hypervisor driver has no volume disks",
            "Only the qemu and bhyve drivers turn a volume into a path; libxl, lxc and the others "
            "refuse it. The disk keeps a path.",
            "Nothing to do.",
            "callers of virDomainDiskTranslateSourcePool, libvirt 9.0.0",
        ),
        Rule(
            "format-unknown",
            "the disk's <driver type> is not an image format",
            "The format is taken from the domain and never guessed; this one cannot be carried "
            "over to another address.",
            "Write the image's format into <driver type=...> (qcow2, raw, ...).",
            "storagecommon.rng, define storageFormat",
        ),
        Rule(
            "format-disagrees",
            "the domain and the pool say different formats",
            "The pool's word is a probe of the image's first bytes, which the guest can write: a "
            "raw disk into which a guest wrote a qcow2 header looks like a qcow2 image, with the "
            "backing file that the guest chose. The probe never decides; if it disagrees, one of "
            "the two is wrong, and a guess could hand out other people's data.",
            "Find out what the image is (qemu-img info -f FORMAT as the disk says, on a copy), "
            "and correct <driver type> if the domain is wrong.",
            "shown on libvirt 9.0.0; CVE-class of Nova's LP 1221190",
        ),
        Rule(
            "no-target",
            "the disk has no <target dev> of its own",
            "A disk is named by its target; without one, or with one used twice, nothing can "
            "tell which disk is meant. libvirt refuses such a domain.",
            "Give each disk its own <target dev=...>.",
        ),
        # Why a volume, a snapshot or a pool is not made.
        Rule(
            "volume-name",
            "a volume cannot have this name",
            "It would become part of a path: no '/', '.', '..' or control characters. LVM takes "
            "letters, digits and +_.- and keeps names such as snapshot0 for itself; in a disk "
            "pool the name is the partition's.",
            "Choose another name, or another pool.",
            "basictypes.rng, define volName; lvm(8); seen on libvirt 9.0.0 for disk pools",
        ),
        Rule(
            "volume-exists",
            "there is a volume of this name",
            "Nothing is ever overwritten. A volume that was to be filled may be half full: nothing "
            "shows how far its content came.",
            "Look at it (virsh vol-info), and choose another name or remove it.",
        ),
        Rule(
            "volume-pool",
            "this pool cannot get a new volume",
            "In pools of type iscsi, iscsi-direct, scsi, mpath and gluster libvirt creates none.",
            "Choose another pool, or make the volume by the storage's own tools and refresh the "
            "pool (virsh pool-refresh).",
        ),
        Rule(
            "volume-format",
            "the format is missing or cannot be had here",
            "Formats are said, never guessed: libvirt takes a missing one for raw, and a probe "
            "reads bytes that a guest may have written. Volumes in pools of block devices and in "
            "rbd pools are raw.",
            "Say raw or qcow2, as the image is; for qcow2 choose a pool over a directory.",
        ),
        Rule(
            "volume-capacity",
            "the volume cannot have this size",
            "A size is that of whole 512-byte blocks; libvirt tells qemu-img KiB and rounds up "
            "without a word. A volume smaller than what it is made from would cut it off.",
            "Give a size that is a multiple of the unit that the message names, and large enough.",
            "virStorageBackendCreateQemuImgSetInfo, libvirt 9.0.0",
        ),
        Rule(
            "volume-backing",
            "this volume cannot have a backing file",
            "Only qcow2 images in pools over a directory have one. In a volume group libvirt would "
            "make an LVM snapshot, in an rbd pool it ignores the element without a word.",
            "Copy the image instead (xmlkit volume copy).",
            "seen on libvirt 9.0.0",
        ),
        Rule(
            "volume-option",
            "an option makes no sense for this volume",
            "libvirt would refuse it or, worse, ignore it without a word.",
            "Leave the option out, or choose the format and the pool that it is made for.",
            "storage_util.c, libvirt 9.0.0",
        ),
        Rule(
            "volume-version",
            "this libvirt is too old for an option",
            "An older libvirt refuses the element or, as 7.0 does with clusterSize, ignores it "
            "without a word.",
            "Leave the option out, or upgrade libvirt.",
            "docs/formatstorage.rst; clusterSize seen on libvirt 7.0.0",
        ),
        Rule(
            "volume-copy",
            "libvirt cannot make this copy, or must not",
            "createXMLFrom probes the source's bytes and follows the backing file that they name, "
            "so it is for base images that stand alone, never for a guest's disk. For an rbd pool "
            "it looks up the source's name among its own images and may clone the wrong one.",
            "Fill a new volume instead (xmlkit volume snapshot), or for rbd bring the content in "
            "with rbd import or qemu-img convert and refresh the pool.",
            "seen on libvirt 9.0.0 and 11.3.0",
        ),
        Rule(
            "volume-path",
            "a path that is not used",
            "Paths are absolute and plain; a symbolic link is not followed, since whoever can "
            "change it would choose what is read or written.",
            "Name the file itself.",
        ),
        Rule(
            "volume-chain",
            "an image leaves open how its data is to be read",
            "A backing file without a format is probed by QEMU, and its bytes may be a guest's. An "
            "image may also name a file of any kind for its data.",
            "Say the format in the image: qemu-img rebase -u -F FORMAT -b BACKING IMAGE.",
        ),
        Rule(
            "volume-fill",
            "the content could not be brought in",
            "qemu-img failed or cannot run here; the message has its words. It fails on an image "
            "that a guest has open, since what it read would not fit together.",
            "Shut the guest off or make an external snapshot first. The volume that was made for "
            "it is removed.",
        ),
        Rule(
            "snapshot-disk",
            "an external snapshot cannot have this disk",
            "It names a new qcow2 file for a disk. Of a volume disk libvirt before 9.0 keeps the "
            "old image in the persistent XML and loses what is written after the snapshot; no "
            "version can delete one that was made while the guest was off, nor revert to one.",
            "Name disks that the domain has; turn volume disks into paths first (xmlkit transform "
            "--to path).",
            "seen on libvirt 7.0, 9.0, 11.3 and 12.8",
        ),
        Rule(
            "pool-name",
            "a pool cannot have this name",
            "libvirt's schema has no '/' and no line break in it.",
            "Choose another name.",
            "basictypes.rng, define objectName",
        ),
        Rule(
            "pool-type",
            "xmlkit makes no pools of this type",
            "It makes dir, fs, netfs, logical, disk and rbd pools.",
            "Choose one of these, or write the document by hand and check it with xmlkit validate.",
        ),
        Rule(
            "pool-target",
            "the pool's target cannot be used",
            "A pool is seen at an absolute, plain path; an rbd pool is seen nowhere on the host.",
            "Give --target as an absolute path, and none for rbd.",
        ),
        Rule(
            "pool-source",
            "the pool's source does not fit its type",
            "fs: a device. netfs: HOST:/PATH. logical: a volume group. disk: a device and the "
            "format of its table. rbd: MONITOR[,MONITOR]/POOL. dir: none.",
            "Give --source, and --source-format, as the type needs them.",
            "storagepool.rng",
        ),
        Rule(
            "pool-auth",
            "the pool's authentication cannot be used",
            "Only rbd pools have one, and it names libvirt's secret by UUID. A key never stands in "
            "a document.",
            "Define the secret (virsh secret-define, secret-set-value), then give its UUID.",
        ),
        Rule(
            "pool-exists",
            "there is another pool of this name",
            "It has another type, source or target; nothing is ever overwritten.",
            "Compare both (virsh pool-dumpxml), and choose another name.",
        ),
        # What validation finds.
        Rule(
            "schema",
            "the document is not valid against libvirt's schema",
            "libvirt refuses it when asked to validate, and otherwise silently drops what it "
            "does not know.",
            "Correct the element that the message names.",
        ),
        Rule(
            "not-well-formed",
            "the file cannot be read as a document",
            "It is not well-formed XML, has a DOCTYPE, or is larger or deeper than allowed.",
            "Correct the place that the message names.",
        ),
        Rule(
            "unknown-kind",
            "the root element is none that libvirt has a schema for",
            "The schema is chosen by the root element: domain, pool, volume, network ...",
            "Check that the file is a libvirt document; fragments such as <disk> have no schema.",
        ),
    )
}
