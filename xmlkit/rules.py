"""Every id that xmlkit answers with, and what it means: reasons, findings, rules.

Laws
- One namespace of lower-case ids; `xmlkit explain ID` prints what stands here.
- A rule with a severity is one of preflight's: it says whether it stops a transition, whether the
  operator may accept it, and on which versions of libvirt it was seen.
- A message says what is so in this document; the text here says why it matters and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ACCEPTABLE", "RULES", "Rule", "Severity"]

Severity = Literal["", "refuse", "warn", "note"]

# The versions on which what libvirt does was tried.
_EACH = ("7.0.0", "9.0.0", "11.3.0", "12.8.0")


@dataclass(frozen=True)
class Rule:
    """One id: a title (one line), why it is so, what an operator can do, and who says so.

    severity: of a preflight rule; "" for reasons and findings. acceptable: whether the operator
    may accept it (--accept ID), so that it only warns. seen: the versions of libvirt on which it
    was tried and is so; "9.0.0 (not so)" where it is not.
    """

    id: str
    title: str
    why: str
    remedy: str
    source: str = ""
    severity: Severity = ""
    acceptable: bool = False
    seen: tuple[str, ...] = ()


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
            severity="refuse",
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
            "xmlkit makes no pools of this type",
            "It makes dir, fs, netfs, logical, disk and rbd pools.",
            "Choose one of these, or write the document by hand and check it with xmlkit validate.",
        ),
        Rule(
            "pool-inactive",
            "the pool is not active",
            "libvirt looks a volume up when the guest starts, and only in active pools.",
            "virsh pool-start POOL, and virsh pool-autostart POOL so that it comes back.",
            "libvirt answers the start with error 67",
            severity="refuse",
            seen=_EACH,
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
            "other-image",
            "the volume is not the image that the disk uses",
            "A volume of the right name may be a copy, or left over from an earlier migration; a "
            "guest that came over onto it would lose what it has written.",
            "Make the volume a second name of the image (ln IMAGE POOL-DIRECTORY/UUID_NAME) and "
            "refresh the pool, or copy the disks with xmlkit migrate.",
        ),
        Rule(
            "volume-taken",
            "the volume's name is taken",
            "A volume of this name exists in the pool, or another disk of the domain uses the "
            "image or wants the name; nothing is ever overwritten.",
            "Look at what is there (virsh vol-info), move it away or choose another pool.",
            severity="refuse",
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
            severity="refuse",
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
            "qemuSecurityGenLabel comes before qemuProcessPrepareDomainStorage, libvirt 11.3",
            severity="refuse",
            acceptable=True,
            seen=_EACH,
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
            severity="refuse",
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
        # Why a plan is not carried out, and why it is not known how it ended.
        Rule(
            "stale-plan",
            "the plan is not about what is there now",
            "A plan is bound to the domain's persistent XML, to itself and to the host that made "
            "it. One of them is not as it was, and what was decided may no longer be right.",
            "Plan again on this host, and look at the new plan: xmlkit plan --connect URI, then "
            "xmlkit diff --plan.",
        ),
        Rule(
            "journal",
            "the journal could not be written on",
            "No step is taken that is not in the journal first, so nothing more was done. The "
            "domain boots from what is defined.",
            "Make room or mend what the message names, then xmlkit recover.",
        ),
        # Why a transition did not end as it was meant to.
        Rule(
            "no-domain",
            "there is no such domain any more",
            "Somebody has undefined it since it was planned for. Its images are left as they are, "
            "under their old names if these are there.",
            "If that was meant: nothing to do. Otherwise define it again from a copy of its XML, "
            "then plan again.",
        ),
        Rule(
            "disk-changed",
            "a planned disk was changed by somebody else",
            "The plan was made for the disk as it was. What somebody has made of it since is "
            "theirs and is kept, and no image is removed that the domain names now.",
            "Look at it (virsh dumpxml --inactive DOMAIN), then plan again. If the outcome is "
            "pending: bring all planned disks to their old or to their new addresses (virsh "
            "edit), then xmlkit recover.",
        ),
        Rule(
            "pool-refresh",
            "libvirt could not read the pool again",
            "Without that libvirt does not know of an image that was put there, and would not "
            "start the domain. A pool that is busy (a volume is being made or uploaded, code 1) "
            "is asked again for ten seconds.",
            "Wait until it is not busy, start it (virsh pool-start POOL), or look for what the "
            "message names; then plan again, or xmlkit recover if the outcome is pending.",
            "storagePoolRefresh, libvirt 9.0.0",
        ),
        Rule(
            "not-kept",
            "libvirt did not keep the definition that it was given",
            "The domain was read back and lacked something that it had before, or had it "
            "otherwise. The old definition was put back.",
            "Look at the place that the message names: correct it (virsh edit) so that libvirt "
            "keeps it, then plan again.",
        ),
        Rule(
            "libvirt",
            "libvirt refused, or could not be reached",
            "What it said, and the number of its error, is in the message. What had been done was "
            "taken back, or is pending where that needs libvirt too.",
            "Mend what the message names; then plan again, or xmlkit recover if the outcome is "
            "pending.",
        ),
        Rule(
            "failed",
            "a step failed",
            "What went wrong is in the message. What had been done was taken back, or is pending.",
            "Mend what the message names; then plan again, or xmlkit recover if the outcome is "
            "pending.",
        ),
        Rule(
            "not-stopped",
            "the guest did not shut down",
            "It was asked as the power button does, again and again until the time was over. Its "
            "plug was not pulled, and all is as it was. That it was asked cannot be taken back: if "
            "it shuts down later all the same, nobody is there to start it until xmlkit recover "
            "is run, which does so once, for a day.",
            "Look at the guest: is anything there that hears the button (acpid, systemd-logind, "
            "the QEMU guest agent)? Give it more time (--shutdown-timeout SECONDS), or shut it "
            "down yourself and run it again; if it is off later, xmlkit recover (or virsh start).",
            "qemuDomainShutdownFlags, libvirt 9.0.0",
        ),
        Rule(
            "why-off",
            "nobody knows why the guest is off",
            "It was asked to shut down for its restart, and is off by now. But libvirtd was "
            "restarted since, which makes it forget why, and the end of QEMU's log does not say it "
            "either (the log is another machine's, or gone); or the machine itself went down. "
            "Somebody may have switched the guest off on purpose, or it may run on another host: "
            "started here it would run twice, and no lock on its images is sure to prevent that.",
            "Look whether it runs on another host. If it does, undefine it here (virsh undefine). "
            "Otherwise virsh start, if it is to run. Then xmlkit recover, if it is pending.",
            "virDomainGetState; /var/log/libvirt/qemu, qemuProcessStop, libvirt 9.0.0",
        ),
        Rule(
            "not-started",
            "the guest does not start",
            "It was shut down to be restarted. If it does not start from its new addresses it gets "
            "its old ones back and is started from these; if that fails too, the outcome is "
            "pending, with what libvirt said to both.",
            "Mend what the message names (QEMU's log is in /var/log/libvirt/qemu); then run it "
            "again, or xmlkit recover if the outcome is pending: that starts the guest.",
        ),
        Rule(
            "interrupted",
            "somebody interrupted it",
            "What had been begun was brought to an end: a domain that had its new addresses keeps "
            "them, any other has its old ones.",
            "Run it again for those that are not done.",
        ),
        Rule(
            "max-failures",
            "others had failed before",
            "As many domains as --max-failures allows have failed, so no further one was changed, "
            "and what was prepared for this one was taken back.",
            "Look at the first failures; when they are mended, run it again.",
        ),
        # What preflight finds.
        Rule(
            "running",
            "the domain is running",
            "A running guest keeps its disks at the addresses that it was started with; what is "
            "defined counts from its next start. To move an image under it would lose what a "
            "restart of libvirt's daemon or a migration looks up.",
            "Shut it down (virsh shutdown DOMAIN), or let xmlkit apply --on-shutdown wait for it, "
            "or --restart shut it down and start it again; resume a paused one before.",
            "hosts whose daemon restarts kill such guests: rule pool-lost",
            severity="refuse",
        ),
        Rule(
            "on-poweroff",
            "the guest would not be off after it has shut down",
            "libvirt restarts it, or keeps it, instead of ending it (<on_poweroff>): its images "
            "stay in use, and there is no moment in which they can move.",
            "Set <on_poweroff> to destroy (virsh edit, then shut it down and start it once), or "
            "shut it down by other means (virsh destroy) and run xmlkit while it is off.",
            "libvirt's formatdomain, section events configuration",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "migrated-away",
            "the domain has migrated to another host",
            "It is off here because it went on elsewhere, and its definition was left (a migration "
            "without --undefinesource). Where both hosts see the same files, its images are in use "
            "there by the names that they have now; and started here it would run twice.",
            "Undefine it here (virsh undefine), and run xmlkit where it runs. If it does not run "
            "there any more, start it here and shut it down once.",
            "virDomainGetState, VIR_DOMAIN_SHUTOFF_MIGRATED; after a restart of it, QEMU's log",
            severity="refuse",
        ),
        Rule(
            "transient-domain",
            "the domain is transient",
            "libvirt forgets it when it stops, so there is no XML that could be defined anew.",
            "Make it persistent (virsh dumpxml DOMAIN, virsh define), or leave it.",
            severity="refuse",
        ),
        Rule(
            "managed-save",
            "the domain has a managed save image",
            "The image holds the domain's XML with the old addresses, and a start restores that. "
            "After a move the start fails (error 38, the image is kept); otherwise it silently "
            "brings the old addresses back.",
            "Start the domain and shut it down, or virsh managedsave-remove DOMAIN (its memory is "
            "lost), or --rewrite-metadata.",
            "virDomainManagedSaveDefineXML, since libvirt 3.7.0",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "snapshots",
            "the domain has snapshots that hold the old addresses",
            "A snapshot keeps the domain's XML as it was. Reverting brings the old addresses back, "
            "and libvirt runs qemu-img on the old path, which fails after a move.",
            "Delete them (virsh snapshot-delete), or --rewrite-metadata.",
            "snap->def->dom in libvirt 9.0.0; VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "external-snapshots",
            "the domain has external snapshots",
            "Their images are backed by each other through paths, and libvirt cannot revert or "
            "delete them where a disk is a volume (error 67, 84 or 9); after a move a revert finds "
            "no file.",
            "Merge them (virsh blockcommit) and delete them, then plan again.",
            "gitlab.com/libvirt/libvirt issue 631",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "old-snapshots",
            "this libvirt cannot revert snapshots of volume disks",
            "libvirt before 9.0 refuses to revert or delete a stopped guest's internal snapshot if "
            "one of its disks is a volume (error 55).",
            "Delete the snapshots, upgrade libvirt, or accept that they cannot be reverted.",
            severity="refuse",
            acceptable=True,
            seen=("7.0.0", "9.0.0 (not so)", "11.3.0 (not so)", "12.8.0 (not so)"),
        ),
        Rule(
            "live-snapshots",
            "this libvirt loses data after a live snapshot of a volume disk",
            "With libvirt before 9.0 an external snapshot or a block copy of a running guest "
            "leaves the persistent XML on the old volume: the next start silently drops all "
            "that was written since.",
            "Upgrade libvirt, or make no external snapshots and block copies of such guests.",
            severity="warn",
            seen=("7.0.0", "9.0.0 (not so)", "11.3.0 (not so)", "12.8.0 (not so)"),
        ),
        Rule(
            "checkpoints",
            "the domain has checkpoints that hold the old addresses",
            "A checkpoint keeps the domain's XML, and incremental backups rely on it.",
            "Delete them (virsh checkpoint-delete) and make a full backup, or --rewrite-metadata.",
            "virDomainCheckpointCreateXML with VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE",
            severity="refuse",
            seen=("9.0.0", "11.3.0", "12.8.0"),
        ),
        Rule(
            "block-job",
            "a block job is running on the disk",
            "A copy, commit or pull changes what the disk is backed by, and its end changes the "
            "disk's address.",
            "Finish or abort it (virsh blockjob DOMAIN TARGET --abort), then plan again.",
            severity="refuse",
        ),
        Rule(
            "nova-unaware",
            "Nova on this host does not know of pools",
            "Nova writes the domain's XML anew at each hard reboot, resize and migration, from the "
            "paths that it knows. An image that was moved is not there, and Nova would fail or "
            "make a new disk from Glance.",
            "Install xmlkit's seam for Nova on this host first; or leave the images where they are "
            "and put a pool over them.",
            "nova.virt.libvirt.driver._hard_reboot and finish_migration, Nova 34.0.0",
            severity="refuse",
            acceptable=True,
        ),
        Rule(
            "image-cache",
            "Nova's image cache would delete a base image in use",
            "Its manager counts a base image as used by the disks in the instances' directories. "
            "After a move it sees no user, and deletes the base 24 hours later (1 hour for a "
            "resized one) unless an instance in the database was made of the same image.",
            "Install xmlkit's image cache for Nova, or set remove_unused_base_images = False in "
            "nova.conf on each host that shares the directory.",
            "nova.virt.libvirt.imagecache.update, Nova 34.0.0; Launchpad bug 1732428",
            severity="refuse",
            acceptable=True,
        ),
        # What is to become of an image in Nova's cache.
        Rule(
            "cache-used",
            "a disk stands on this image",
            "The chain of a disk of a domain here ends in it or goes through it, by declared "
            "formats: as defined, as it runs, in a snapshot or in a managed save.",
            "Nothing to do: it stays.",
        ),
        Rule(
            "cache-undeclared",
            "an image that no domain here has stands on this one",
            "It is another host's, or was left behind. Nobody here says its format, so its header "
            "is believed one step far, which can only keep an image.",
            "Remove it if it is a leftover; else nothing: what it stands on stays.",
        ),
        Rule(
            "cache-protected",
            "somebody else says that this image is used",
            "--protect named it, or Nova's database has an instance that was made of it.",
            "Nothing to do: it stays.",
        ),
        Rule(
            "cache-foreign",
            "a file that is not named as Nova names images of its cache",
            "Nova leaves such files alone, and so does xmlkit: a download that is not complete, or "
            "somebody's own.",
            "Look at it, and remove it yourself if nobody needs it.",
            "nova.virt.libvirt.imagecache, _scan_base_images, Nova 34.0.0",
        ),
        Rule(
            "cache-link",
            "what stands in the cache is no plain file",
            "Links are not followed: what is behind one may be anybody's.",
            "Look at it, and put the file itself in its place or remove the link.",
        ),
        Rule(
            "cache-doubt",
            "this image may be used by a disk whose chain cannot be followed",
            "Somewhere in the chain an image is missing or cannot be read, so that it may end in "
            "any image of the cache.",
            "Mend that chain (xmlkit cache list names it) or undefine its domain; --accept "
            "cache-broken if what is missing is lost for good.",
        ),
        Rule(
            "cache-young",
            "this image is unused, but not yet for long enough",
            "Nova may be about to use it: it touches an image when it does. The time is Nova's, a "
            "day, and an hour for a resized one.",
            "Wait, or say another time with --min-age.",
            "remove_unused_original_minimum_age_seconds, Nova 34.0.0",
        ),
        Rule(
            "cache-unused",
            "no disk stands on this image, and none has for long enough",
            "Nova would fetch it again if it were needed.",
            "xmlkit cache prune removes it.",
        ),
        Rule(
            "cache-missing",
            "a disk stands on an image that is not in the cache",
            "The guest cannot start: its disk has only what differs from this image.",
            "Bring it back from another host or a backup; or have Nova fetch it, by a hard reboot.",
        ),
        Rule(
            "cache-broken",
            "a disk's chain of images is broken",
            "An image in it is missing, or names itself. What it stood on below that is not known.",
            "Find the image, mount what it was on; or undefine the domain if it is lost.",
        ),
        Rule(
            "cache-unread",
            "a disk's chain of images cannot be read to its end",
            "An image may not be read, is behind a link, or names what is no path; or its pool is "
            "not there or not active.",
            "Run as root on the host itself, start the pool, or give the image a plain path.",
        ),
        Rule(
            "pool-autostart",
            "the pool is not started by itself",
            "A directory pool comes back as long as its directory exists; but only autostart says "
            "that it shall, and a guest with volume disks cannot start without it.",
            "virsh pool-autostart POOL.",
            "virStoragePoolUpdateState and storageDriverAutostart, libvirt 9.0.0",
            severity="warn",
            seen=_EACH,
        ),
        Rule(
            "pool-lost",
            "the pool may not come back after a restart",
            "A guest with volume disks needs its pool at each start. When libvirt's daemon "
            "restarts and cannot resolve the volume of a running guest, libvirt 7 and 9 kill the "
            "guest; a file disk has no such dependency.",
            "Make the pool persistent (virsh pool-dumpxml, pool-define) and virsh pool-autostart "
            "POOL, and order its mount or its device before libvirt's daemon.",
            "qemuProcessReconnect, libvirt 9.0.0",
            severity="refuse",
            acceptable=True,
            seen=("7.0.0", "9.0.0", "11.3.0 (not so)", "12.8.0 (not so)"),
        ),
        Rule(
            "startup-policy",
            "a missing volume would boot without the disk",
            "startupPolicy='optional' of a volume disk means that the guest starts without the "
            "disk, silently, if the pool is not active or does not list the volume.",
            "Take startupPolicy away (virsh edit) unless that is what you want.",
            "qemuDomainCheckDiskStartupPolicy, libvirt 9.0.0",
            severity="warn",
            seen=_EACH,
        ),
        Rule(
            "unseen",
            "the images could not be looked at",
            "A move is made of links and renames on the host itself, by root; without a look at "
            "the files nothing can be promised.",
            "Run xmlkit as root on the host.",
            severity="refuse",
        ),
        Rule(
            "no-image",
            "there is no image at the path",
            "The file or one that it is backed by is missing, or it is no regular file. The guest "
            "could not start before, and could not afterwards.",
            "Bring the image back, or remove the disk from the domain.",
            severity="refuse",
        ),
        Rule(
            "hard-link",
            "the image has another name",
            "A move takes away one of the names of the image. With the others left, two names "
            "would lead to one image, and whoever uses the other name would not know.",
            "Find the other name (find DIRECTORY -samefile IMAGE) and remove it, or xmlkit recover "
            "if an interrupted transition left it.",
            severity="refuse",
        ),
        Rule(
            "path-shared",
            "another domain uses the image as well",
            "After a move the other domain points at nothing, and does not start (error 38).",
            "Remove the disk from one of the two domains.",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "overlay-base",
            "other images are backed by this one",
            "Their headers name the image by its path; after a move they find no backing file.",
            "Leave the image where it is, put a pool over its directory, or rebase the others "
            "first (qemu-img rebase -u -b NEW -F FORMAT OVERLAY).",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "relative-backing",
            "the image names its backing file relative to itself",
            "In another directory the name leads elsewhere or nowhere.",
            "qemu-img rebase -u -b /ABSOLUTE/PATH -F FORMAT IMAGE, with the guest shut off.",
            "bdrv_get_full_backing_filename, QEMU",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "other-file-system",
            "the pool is on another file system",
            "An image moves by a link, which leads nowhere else; across file systems it has to be "
            "copied, which takes time and space, and is done only when it is asked for.",
            "--copy, or a pool on the image's own file system.",
            severity="refuse",
        ),
        Rule(
            "space",
            "the pool has too little space",
            "Until a copy is verified both images are there.",
            "Make space in the pool, or choose another one.",
            severity="refuse",
        ),
        Rule(
            "read-only",
            "the pool's file system is read-only",
            "No image can be moved there.",
            "Mount it writable, or choose another pool.",
            severity="refuse",
        ),
        Rule(
            "directory-closed",
            "QEMU may not enter the pool's directory",
            "libvirt gives a guest's images to QEMU's user, but not the directories above them; "
            "without the right to search them the guest cannot open its disk.",
            "chmod o+x DIRECTORY, for each directory that is named.",
            severity="refuse",
            seen=_EACH,
        ),
        Rule(
            "remembered-owner",
            "libvirt remembers an owner for an image that is not in use",
            "The extended attributes trusted.libvirt.security.* are there while a guest runs; left "
            'over by a crash, the next start may fail ("Setting different DAC user or group") or '
            "the file's owner be wrong afterwards.",
            "If no host has the image open: setfattr -x trusted.libvirt.security.ref_dac IMAGE, "
            "and the same for the others that getfattr -m trusted -d shows.",
            severity="warn",
            seen=_EACH,
        ),
        Rule(
            "volume-limits",
            "what cannot be done with a volume disk",
            "External snapshots need a file name for each disk and make it a file disk; their "
            "revert is refused. A block copy cannot go to a volume. Live migration needs a pool of "
            "the same name on the other host. Tools that look for a path see none.",
            "Where such things are needed, leave the disk on its path.",
            "snapshot_conf.c and qemu_migration.c, libvirt 9.0.0",
            severity="note",
            seen=_EACH,
        ),
        Rule(
            "no-schemas",
            "libvirt's schemas are not installed",
            "Without them no document can be validated before it is defined.",
            "Debian: apt-get install libvirt0 (libvirt-common since Debian 13).",
            severity="warn",
        ),
        Rule(
            "no-pools",
            "the host has no storage pool",
            "Disks become volumes of pools; without one there is nothing that they could become.",
            "Define, start and autostart a pool over the images' directory (virsh pool-define-as).",
            severity="warn",
        ),
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
        # Why xmlkit snapshot makes none.
        Rule(
            "snapshot-running",
            "the domain is running, and its disk changes",
            "What a program reads from a disk that is written to is no state that the disk ever "
            "had. QEMU itself can copy it as it is at one moment while the guest goes on.",
            "Say --live, or shut the domain down (virsh shutdown DOMAIN).",
        ),
        Rule(
            "snapshot-source",
            "this disk cannot be copied",
            "Snapshots are made of raw and qcow2 disks that are files, block devices or volumes. A "
            "drive has no content of its own, a network disk is the network's to snapshot, and an "
            "encrypted disk would come out in clear.",
            "Name another disk, or use the storage's own snapshots.",
        ),
        Rule(
            "snapshot-failed",
            "QEMU or qemu-img did not complete the copy",
            "The message has their words. Often the file system is full, the guest ended, or its "
            "QEMU may not enter the directory that the snapshot is to go to. What was made is "
            "removed and the guest goes on.",
            "Look at the message and at the guest's log (/var/log/libvirt/qemu), make room, or "
            "choose another place, then start again.",
        ),
        Rule(
            "pool-name",
            "a pool cannot have this name",
            "libvirt's schema has no '/' and no line break in it.",
            "Choose another name.",
            "basictypes.rng, define objectName",
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
            "unexplained",
            "libxml2 refuses the document, and no reason is found",
            "The verdict is libxml2's, which libvirt uses too. The walk that explains it found "
            "nothing wrong, so only libxml2's words can be shown: mostly elements that the schema "
            "groups do not stand together.",
            "Put elements in the order of libvirt's own documents, and report the document if "
            "that does not help.",
        ),
        Rule(
            "misspelled-element",
            "an element's name is nearly one that could stand there",
            "libvirt refuses the document when asked to validate it, and otherwise silently drops "
            "what it does not know.",
            "Write the name that is suggested.",
        ),
        Rule(
            "unknown-element",
            "an element that nothing is known of at its place",
            "libvirt refuses the document when asked to validate it, and otherwise silently drops "
            "what it does not know.",
            "Remove it, or look at libvirt's page on the element around it.",
        ),
        Rule(
            "misplaced",
            "an element that belongs elsewhere",
            "libvirt refuses the document when asked to validate it, and otherwise silently drops "
            "what it does not know. Some elements have to stand in the order of the schema.",
            "Move it to where the message says.",
        ),
        Rule(
            "duplicate",
            "an element stands twice where it may stand once",
            "libvirt takes one of the two, mostly the first, and drops the other.",
            "Remove the one that is not meant.",
        ),
        Rule(
            "missing-child",
            "an element lacks a child",
            "libvirt refuses the document, or takes a default that may not be what is meant.",
            "Add the child that the message names.",
        ),
        Rule(
            "misspelled-attribute",
            "an attribute's name is nearly one that could stand there",
            "libvirt refuses the document when asked to validate it, and otherwise silently drops "
            "what it does not know.",
            "Write the name that is suggested.",
        ),
        Rule(
            "unknown-attribute",
            "an attribute that nothing is known of on its element",
            "libvirt refuses the document when asked to validate it, and otherwise silently drops "
            "what it does not know.",
            "Remove it, or look at libvirt's page on the element.",
        ),
        Rule(
            "missing-attribute",
            "an element lacks an attribute",
            "libvirt refuses the document, or takes a default, such as type='file' of a disk, "
            "that the rest does not fit.",
            "Add the attribute that the message names.",
        ),
        Rule(
            "bad-value",
            "a value is not one that is allowed there",
            "libvirt refuses the document, or takes a default in the place of the value.",
            "Write one of the values that the message names, or one of the form that it describes.",
        ),
        Rule(
            "conflict",
            "an element or attribute that what stands beside it excludes",
            "It is allowed there, but not together with what was chosen: by a type attribute, "
            "mostly.",
            "Remove one of the two, or choose the other type.",
        ),
        Rule(
            "text-not-allowed",
            "text where only elements or nothing may stand",
            "Mostly it is what is left of an edit, or a value that is to be an attribute. libvirt "
            "ignores it.",
            "Remove the text, or make it the attribute.",
        ),
        Rule(
            "wrong-namespace",
            "an element is in another namespace than libvirt's",
            "libvirt looks for its own names only: an element of another namespace is as good as "
            "not there.",
            "Remove or correct the xmlns attribute that the message names.",
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
        # What libvirt itself makes of a document that it accepts.
        Rule(
            "libvirt-dropped",
            "libvirt drops what stands here, without a word",
            "libvirt reads what it knows and forgets the rest, unless it is asked to validate: a "
            "misspelled attribute, what is only reported of running guests (id, alias, mirror), "
            "what does not go with the rest. What it would report later does not have it.",
            "If it was meant, correct it; if not, take it out. xmlkit validate without "
            "--through-libvirt tells what the schema does not know.",
            "virDomainDefParseXML and its like, read back with XMLDesc; libvirt 9.0.0",
        ),
        Rule(
            "libvirt-changed",
            "libvirt makes something else of what stands here",
            "A value is rounded, cut, normalised or overruled by another one. Two spellings of "
            "the same (1 GiB, 1048576 KiB) are no change.",
            "Write what libvirt makes of it, if that is what was meant.",
            "virDomainDefParseXML and its like, read back with XMLDesc; libvirt 9.0.0",
        ),
        Rule(
            "libvirt-refused",
            "libvirt refuses the document, in its own words",
            "It may be valid by the schema all the same: that does not know which things go "
            "together. Without --connect it was libvirt's test driver that was asked: what QEMU "
            "would refuse besides is not known.",
            "Do as the message says.",
        ),
        Rule(
            "libvirt-not-asked",
            "libvirt could not be asked about this",
            "The test driver has no such kind of document or guest, or the connection has none "
            "of this UUID or name to compare with. What belongs to one driver alone "
            "(qemu:commandline) the test driver does not read.",
            "Nothing is said of it, neither good nor bad. --connect URI compares with what is "
            "defined at URI.",
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
        # What stands in the way of a migration.
        Rule(
            "not-running",
            "the domain is not running",
            "Only a guest that runs migrates live; one that is paused or shut off has its XML and "
            "its images brought over by other means.",
            "Start or resume it, or define at the destination what xmlkit transform --host makes.",
            severity="refuse",
        ),
        Rule(
            "same-host",
            "source and destination are one host",
            "libvirt migrates between two hosts, which it tells apart by their UUIDs.",
            "Name another destination; hosts that were cloned need a host_uuid of their own "
            "(/etc/libvirt/libvirtd.conf).",
            "qemuMigrationCookieXMLParse, libvirt 9.0.0",
            severity="refuse",
        ),
        Rule(
            "domain-exists",
            "the destination has a domain of this name or UUID",
            "It may be a guest of its own, or the rest of a migration that went wrong.",
            "Look at it; undefine it there (virsh undefine) if nobody needs it.",
            severity="refuse",
        ),
        Rule(
            "older-libvirt",
            "the destination has an older libvirt",
            "libvirt promises migration to newer versions only; an older one may not know all that "
            "the domain has.",
            "Migrate to a host that is as new, or try it: if it is refused, the guest stays here.",
            severity="warn",
            seen=("9.0.0 (not so)", "12.8.0"),
        ),
        Rule(
            "unsafe-cache",
            "a disk's cache may keep what the other host has not seen",
            "With other caches than none and directsync the destination may read old content from "
            "its own page cache, unless the file system keeps both coherent.",
            "Set cache='none', or accept it where the file system is coherent.",
            "qemuMigrationSrcIsSafe, libvirt 9.0.0: error 81",
            severity="refuse",
            acceptable=True,
            seen=_EACH,
        ),
        Rule(
            "no-shared-storage",
            "the destination does not see the same files",
            "A name that was made here did not show in the destination's pool, or shows another "
            "file: a guest that migrated there would lose its disk.",
            "Copy the disks: --storage full, or --storage incremental where the destination has "
            "the same backing files.",
            severity="refuse",
        ),
        Rule(
            "base-unverified",
            "a backing file at the destination may be another one",
            "An incremental copy brings only what lies above the backing file; over other content "
            "that is a broken disk.",
            "Put the backing file into a pool of the destination, so that it can be compared; copy "
            "in full; or accept it if you know that the two are the same.",
            severity="refuse",
            acceptable=True,
        ),
        Rule(
            "two-running",
            "the hosts do not agree on where the guest is",
            "Two guests on one image destroy it, so xmlkit ends none of them by itself.",
            "Look at both (virsh domstate --reason), end the one that is not wanted, and run "
            "xmlkit recover.",
        ),
        Rule(
            "guest-lost",
            "the guest or its definition is gone",
            "Somebody has ended or undefined it while it migrated.",
            "Its images are untouched: define it again where it is to run, and run xmlkit recover.",
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
            "State <capacity>; only the document of a copy (virsh vol-create-from) needs none.",
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

# The ids that --accept takes.
ACCEPTABLE = tuple(rule.id for rule in RULES.values() if rule.acceptable)
