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
            "a symbolic link stands for the image, or in its path",
            "libvirt follows links and compares paths as strings, so two names would lead to one "
            "image and a deleted volume would delete the link only. And who may change the link "
            "decides which file is meant.",
            "Put the image itself into the pool; in place of a linked directory, mount the "
            "directory there (mount --bind), or use its real path.",
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
        # Why an image cannot be linked, copied or removed.
        Rule(
            "no-image",
            "the image, or the directory for it, is not there",
            "A file system may not be mounted, or somebody has moved the image.",
            "Mount or make what the message names, or correct the path in the domain.",
        ),
        Rule(
            "not-an-image",
            "the path leads to something that is no image",
            "An image is a regular file or a block device, and only a file can be linked or "
            "copied; all before it are directories.",
            "Correct the path. A disk on a block device moves by its XML alone.",
        ),
        Rule(
            "bad-path",
            "the path is not absolute and plain",
            "A path with '.', '..' or '//' has several spellings, and what is compared and "
            "opened has to have one.",
            "Write the path from '/' on, without these.",
        ),
        Rule(
            "target-exists",
            "there is a file where the image is to go",
            "Nothing is ever overwritten: it may be another guest's disk.",
            "Look at the file (ls -li, and which domain names it), and move it away.",
        ),
        Rule(
            "other-file-system",
            "the image and its place are on different file systems",
            "A second name (hard link) exists only within one file system and one mount of it; a "
            "bind mount counts as another one.",
            "Use a pool on the image's file system, or --copy.",
            "link(2): EXDEV",
        ),
        Rule(
            "no-links",
            "the image can have no second name",
            "The file system has no hard links (vfat, exfat, some of FUSE), or the image is marked "
            "as immutable or append-only.",
            "Use --copy, or remove the mark (chattr -i -a).",
            "link(2): EPERM",
        ),
        Rule(
            "too-many-links",
            "the image has as many names as the file system allows",
            "ext4 allows 65,000 names of a file.",
            "Remove names that nobody uses, or use --copy.",
            "link(2): EMLINK",
        ),
        Rule(
            "image-in-use",
            "somebody has the image open",
            "QEMU, qemu-img and qemu-nbd lock the images that they use. A copy of a disk that is "
            "written to is not a copy of any of its states.",
            "End the program (fuser -v IMAGE shows it), then start again.",
            "block/file-posix.c, QEMU 2.10 and later",
        ),
        Rule(
            "image-changed",
            "the image is not the file that was looked at before",
            "Inode, size and time of the last change tell whether it still is the same file in the "
            "same state. What is not is neither copied nor removed.",
            "Find out who uses the image, then plan again.",
        ),
        Rule(
            "no-space",
            "the file system has not enough space",
            "A copy needs as much as the image has allocated; quotas count, and what is reserved "
            "for root is not used.",
            "Make room, or choose a pool on another file system.",
        ),
        Rule(
            "read-only",
            "the file system is mounted read-only",
            "It may be so on purpose, or because the kernel found an error in it.",
            "Look at the kernel's log (dmesg), then mount it for writing.",
        ),
        Rule(
            "not-permitted",
            "the system does not permit it",
            "xmlkit is not root, or an export, an attribute (lsattr) or a security module forbids "
            "it even to root.",
            "Run as root, on the host that may; see lsattr, and for NFS no_root_squash.",
        ),
        Rule(
            "attributes",
            "the copy cannot have all attributes of the image",
            "Access lists and labels are attributes of a file, and some file systems have none. "
            "Without them others could read the disk, or QEMU could not.",
            "Choose another file system, or remove the attribute from the image (setfattr -x).",
        ),
        Rule(
            "copy-differs",
            "the copy is not equal to the image",
            "Both were read again after the copy, from their disks. The copy was removed.",
            "Look for a failing disk in the kernel's log (dmesg), and for who writes to the image.",
        ),
        Rule(
            "io-error",
            "the system failed to read or write",
            "What it said is in the message.",
            "Look at the kernel's log (dmesg).",
        ),
        Rule(
            "disk-info",
            "Nova's disk.info cannot be used",
            "Nova takes the formats of an instance's disks from it, by their absolute paths, so "
            "that it need not guess them from what a guest has written.",
            "Correct the file that the message names: an object of JSON, paths to formats.",
            "nova.virt.libvirt.imagebackend, Image.resolve_driver_format, Nova 34.0.0",
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
