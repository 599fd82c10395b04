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
            "Check that the file is a libvirt document, or a device of a domain such as <disk>.",
        ),
        Rule(
            "profile-volume-disk",
            "a volume disk, for a host that cannot have any",
            "libvirt before 1.0.5 refuses type='volume'; later ones accept it where the guest "
            "cannot start with it (AppArmor, Xen). This also counts for the domains within "
            "snapshots and checkpoints, which a revert would bring back.",
            "Turn the disk into one with a path: xmlkit transform --to path.",
            "docs/formatdomain.rst: since 1.0.5; the schema of 0.10.2",
        ),
        # What the policy refuses in documents that libvirt shall create (schemas/*.xsd).
        Rule(
            "policy-name",
            "a name that libvirt refuses or loses",
            "A volume's name becomes the last part of a path, a pool's name that of its file. A "
            "pool's refresh leaves out files with control characters.",
            "Choose a name without '/' and control characters, other than '.' and '..'.",
            "basictypes.rng, define volName; virStorageBackendRefreshLocal, libvirt 9.0.0",
        ),
        Rule(
            "policy-name-path",
            "the volume's name is not the last part of its path",
            "libvirt makes the path from the pool's and the volume's name and ignores the one that "
            "is written: the volume would not be where the document says.",
            "Make the two agree, or leave out the path.",
            "virStorageBackendVolCreateLocal, libvirt 9.0.0",
        ),
        Rule(
            "policy-lvm-name",
            "a name that LVM refuses or keeps for itself",
            "libvirt checks nothing here; lvcreate and vgcreate take a-z A-Z 0-9 + _ . - and no "
            "'-' in front, and keep names such as snapshot..., pvmove... and ..._mlog to "
            "themselves. Only volumes whose path is /dev/GROUP/NAME are known to be logical.",
            "Choose another name.",
            "lvm(8), section valid names, and lvm2 2.03.16",
        ),
        Rule(
            "policy-capacity",
            "a volume without a capacity",
            "Only a backing store could give it one; without either libvirt refuses to create the "
            "volume, or makes an empty one.",
            "State <capacity>.",
            "virStorageVolDefParseXML, libvirt 9.0.0",
        ),
        Rule(
            "policy-allocation",
            "a volume is allocated more than its capacity",
            "Mostly one of the two has the wrong unit. libvirt's KB is 1000 bytes, KiB and k are "
            "1024, and no unit is bytes.",
            "Correct the number or its unit; 0 makes a sparse volume.",
            "virScaleInteger, libvirt 9.0.0",
        ),
        Rule(
            "policy-path",
            "a path that is relative, or has a '..' in it",
            "What it is relative to depends on who reads it, and '..' leads out of the pool.",
            "Write the whole path.",
        ),
        Rule(
            "policy-compat",
            "a qcow2 volume does not state its version",
            "libvirt up to 9.0 at the least makes 0.10, which has no bitmaps, hence no incremental "
            "backup; 11.3 and later make 1.1.",
            "State <compat>1.1</compat> in <target>.",
            "seen on 7.0, 9.0 (0.10), 11.3 and 12.8 (1.1)",
        ),
        Rule(
            "policy-backing-format",
            "a backing store does not state its format",
            "libvirt takes raw, and the guest reads a qcow2 image's header as its disk; an older "
            "one probes the bytes, which a guest may have written.",
            "State the format of the backing store.",
            "seen on 7.0 to 12.8: raw is written, whatever the base is",
        ),
        Rule(
            "policy-secret",
            "a secret in plain text",
            "Whoever may read the document, its copy in /etc/libvirt or a log has the secret.",
            "Define a libvirt secret, and name it by uuid or usage in <secret>.",
        ),
        Rule(
            "policy-nova-name",
            "a volume of Nova's is not named {uuid}_{name}",
            "By its name the volume is found again, and its instance by the volume.",
            "Name it by the instance's UUID, '_' and the disk's name: {uuid}_disk.",
            'Nova\'s specification "Use libvirt Storage Pools"',
        ),
        Rule(
            "policy-instance",
            "an attribute of XML Schema (xsi:) in the document",
            "xsi:type and its like tell a validator by which rules to judge, which is not for the "
            "document to say; libvirt knows none of them.",
            "Remove the attribute.",
        ),
    )
}
