"""The words in which a fault is told: what a value should be, what was meant, where to read on.

Laws
- A value is described by what it is for, as the schema's define names it, then by its type; a
  regular expression is never shown.
- The nearest name comes first; what is not near is not suggested.
- A table that knows nothing of a define is no harm: words are all that depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from lxml import etree

from xmlkit.validation.datatypes import INTEGERS, translated
from xmlkit.validation.pattern import Algebra, Data, Leaf, Listing, Pattern, Text, Value

__all__ = [
    "alike",
    "cause",
    "distance",
    "hint",
    "identity",
    "link",
    "near",
    "quoted",
    "refusal",
    "types",
    "values",
]

_MACS = {"mac", "macAddr", "addrMAC", "uniMacAddr"}
_MAC = "a MAC address such as 52:54:00:12:34:56"
_NUMBER_16 = "a number from 0 to 65535, or 0x0000 to 0xffff"
_NUMBER_32 = "a number of 32 bits, decimal or hexadecimal such as 0x1f"

# The defines of libvirt's basictypes.rng, domaincommon.rng and their like, in words.
_DEFINES = {
    "BurstSize": "a number of KiB, 1 or more",
    "IscsiQualifiedName": "an iSCSI name such as iqn.2013-06.com.example:disk",
    "PortNumber": "a port number up to 65535, or -1",
    "UUID": "a UUID (32 hexadecimal digits, 8-4-4-4-12)",
    "absDirPath": "an absolute path",
    "absFilePath": "an absolute path",
    "addrIP": "an IPv4 address such as 192.168.122.1",
    "addrIPv6": "an IPv6 address such as fd00::1",
    "addrMAC": _MAC,
    "addrMask": "an IPv4 netmask, or a number from 0 to 32",
    "addrMaskv6": "an IPv6 netmask, or a number from 0 to 128",
    "aliasName": "an alias: letters, digits and _ - .",
    "apDomainRange": "a number from 0 to 255, or hexadecimal such as 0x1f",
    "ccwCssidRange": "a number from 0 to 254, or hexadecimal such as 0xfe",
    "ccwDevnoRange": _NUMBER_16,
    "ccwSsidRange": "a number from 0 to 3, or hexadecimal such as 0x3",
    "checkpointName": "a name of letters, digits and _ - .",
    "countCPU": "a number of CPUs, 1 or more",
    "cpuperiod": "a number of microseconds from 1000 to 1000000",
    "cpuquota": "a number of microseconds, or -1",
    "cpuset": "a list of CPU numbers such as 0-3,^2,8",
    "createMode": "an octal number such as 0755",
    "deviceName": "a device name: letters, digits and _ . - \\ : /",
    "dirPath": "a path",
    "diskSerial": "a serial number: letters, digits, blanks and _ . + -",
    "diskTargetDev": "a disk's name such as vda, sda, hdc or fda",
    "dnsName": "a host name: letters, digits, . and -",
    "driveBus": "a number of one or two digits",
    "driveController": "a number of one or two digits",
    "driveTarget": "a number of one or two digits",
    "driveUnit": "a number of up to five digits",
    "driveSCSITarget": "a number of up to ten digits",
    "driveSCSIUnit": "a number of up to twenty digits",
    "featureName": "a feature's name: letters, digits and - _ .",
    "filePath": "a path",
    "genericName": "a name of letters, digits and _ + -",
    "hexuint": "a hexadecimal number such as 0x1f, in small letters",
    "ipv4Addr": "an IPv4 address such as 192.168.122.1",
    "ipv4Prefix": "a number from 0 to 32",
    "ipv6Addr": "an IPv6 address such as fd00::1",
    "ipv6Prefix": "a number from 0 to 128",
    "mac": _MAC,
    "macAddr": _MAC,
    "memoryKB": "KiB as a number, or with a unit: unit='GiB'",
    "objectName": "a name, without / and line breaks",
    "objectNameWithSlash": "a name, without line breaks",
    "octalMode": "an octal number such as 0755",
    "path": "an absolute path of letters, digits and _ + - / %",
    "pciBus": "a PCI bus from 0x00 to 0xff",
    "pciDomain": "a PCI domain from 0x0000 to 0xffff",
    "pciFunc": "a PCI function, a number from 0x0 to 0x7",
    "pciSlot": "a PCI slot, a number from 0x00 to 0x1f",
    "spaprvioReg": "a hexadecimal number such as 0x2000",
    "timestamp": "seconds since 1970, a number",
    "timeDelta": "a number of seconds",
    "timeZone": "a time zone such as Europe/Berlin",
    "uint16": _NUMBER_16,
    "uint16range": _NUMBER_16,
    "uint24": "a number of 24 bits, decimal or hexadecimal such as 0x1f",
    "uint32": _NUMBER_32,
    "uint32range": _NUMBER_32,
    "uint8": "a number from 0 to 255, or 0x00 to 0xff",
    "uint8range": "a number from 0 to 255, or 0x00 to 0xff",
    "uniMacAddr": "a unicast MAC address such as 52:54:00:12:34:56",
    "unit": "a unit such as bytes, KiB, MiB, GiB or TiB",
    "usbAddr": "a USB address, a number or hexadecimal such as 0x1f",
    "usbClass": "a USB class, hexadecimal such as 0x08",
    "usbId": "a USB id, hexadecimal such as 0x1d6b",
    "usbIdDefault": "-1",
    "usbPort": "USB ports such as 1 or 1.2.3",
    "usbVersion": "a USB version such as 2.0",
    "variable-name-type": "a variable such as $IP",
    "virtioserialPort": "a number of one or two digits",
    "vmwarePath": "a VMware path such as [datastore] directory/disk.vmdk",
    "volName": "a volume's name, without /",
    "wwn": "a world wide name: 16 hexadecimal digits",
}
_TYPES = {
    "anyURI": "a URI",
    "dateTime": "a time such as 2030-01-31T12:00:00",
    "decimal": "a number",
    "double": "a number",
    "float": "a number",
    "NCName": "a name that begins with a letter",
    "string": "a text",
    "token": "a text",
}
# One class of characters and how many of them, which is what most patterns are.
_CLASS = re.compile(r"(\[(?:[^\]\\]|\\.)*\])([+*]|\{\d+(?:,\d*)?\})?")

# What libxml2 says of a file that is not well-formed, and what is likely to have happened.
_CAUSES = (
    (
        r"Opening and ending tag mismatch: (\S+) line (\d+) and (\S+)",
        r"<\1> of line \2 has no end tag before </\3>",
    ),
    (r"Premature end of data in tag (\S+) line (\d+)", r"<\1> of line \2 has no end tag"),
    (r"Couldn't find end of Start Tag (\S+).*", r"the tag <\1 has no > at its end"),
    (r"AttValue: \" or ' expected", "an attribute's value has no quotes around it"),
    (r"Specification mandates value for attribute (\S+)", r"the attribute \1 has no value"),
    (r"Attribute (\S+) redefined", r"the attribute \1 stands twice"),
    (
        "attributes construct error",
        "a tag is not closed by >, or a blank is missing between its attributes",
    ),
    (
        "Unescaped '<' not allowed in attributes values",
        "an attribute's value has no closing quote, or has a < in it: write &lt;",
    ),
    ("StartTag: invalid element name", "a < that begins no tag: write &lt;"),
    (r"xmlParseEntityRef: no name|EntityRef: expecting ';'", "an & by itself: write &amp;"),
    (
        "Extra content at the end of the document",
        "something stands behind the end of the root element",
    ),
    ("Start tag expected, '<' not found", "it does not begin with a tag: is it an XML file?"),
    ("Document is empty", "it is empty"),
    (
        r"Namespace prefix (\S+) (?:for \S+ )?on \S+ is not defined",
        r'the prefix \1 is not declared: the root needs xmlns:\1="..."',
    ),
    (r"Double hyphen within comment.*", "a comment has -- in it"),
    ("Comment not terminated.*", "a comment has no --> at its end"),
    ("XML declaration allowed only at the start of the document", "<?xml is not at the beginning"),
    ("expected '>'", "a tag has no > at its end"),
    (
        r"Invalid bytes in character encoding|Input is not proper UTF-8.*",
        "bytes that are not UTF-8",
    ),
    (r"PCDATA invalid Char value (\d+)", r"a control character (\1), which XML cannot have"),
    (r"CData section not finished[\s\S]*", "a section <![CDATA[ has no ]]> at its end"),
)

_SAME = (
    frozenset(("yes", "on", "true", "1", "enabled", "enable")),
    frozenset(("no", "off", "false", "0", "disabled", "disable", "none")),
)

# What people write, in small letters, for what libvirt calls otherwise: names and values.
_CALLED = {
    "addr": ("address",),
    "cd": ("cdrom",),
    "ceph": ("rbd",),
    "cpus": ("vcpu",),
    "disk": ("hd",),
    "display": ("graphics",),
    "drive": ("disk",),
    "dvd": ("cdrom",),
    "floppy": ("fd", "fdc"),
    "format": ("type",),
    "gmt": ("utc",),
    "gpu": ("video",),
    "guest": ("domain",),
    "harddisk": ("hd", "disk"),
    "hdd": ("hd", "disk"),
    "host": ("host-passthrough",),
    "iso": ("cdrom",),
    "local": ("localtime", "file"),
    "lvm": ("logical",),
    "macvtap": ("direct",),
    "mem": ("memory",),
    "nat": ("network",),
    "net": ("network",),
    "nfs": ("netfs",),
    "nic": ("interface",),
    "passthrough": ("host-passthrough",),
    "path": ("file", "dev", "dir"),
    "pxe": ("network",),
    "qemu-kvm": ("kvm",),
    "ram": ("memory",),
    "size": ("capacity",),
    "slirp": ("user",),
    "snapshot": ("domainsnapshot",),
    "vhd": ("vpc",),
    "virtio-blk": ("virtio",),
    "virtio-scsi": ("scsi",),
    "vm": ("domain",),
}
_FORMAT = "the format of an image is the attribute type of <driver>"
_BOOT = "to boot from one device write <boot order='1'/> in that"
_FEATURE = "it is a child of <features>"
# What no schema knows of a mistake: by element and parent, by attribute, or by its value, too.
_HINTS = {
    "address/text()": "a PCI address is domain='0x0000' bus='0x00' slot='0x00' function='0x0'",
    "boot/@dev": _BOOT,
    "boot/@order": "order is for the <boot> of a device, dev for that of <os>",
    "devices/cdrom": "a CD-ROM is a <disk> with device='cdrom'",
    "devices/floppy": "a floppy is a <disk> with device='floppy'",
    "disk/@format": _FORMAT,
    "disk/@type=qcow": _FORMAT,
    "disk/@type=qcow2": _FORMAT,
    "disk/@type=raw": _FORMAT,
    "disk/@type=vmdk": _FORMAT,
    "disk/format": _FORMAT,
    "disk/size": "an image is as large as its file or volume; the <capacity> is a volume's",
    "domain/acpi": _FEATURE,
    "domain/apic": _FEATURE,
    "domain/hyperv": _FEATURE,
    "domain/pae": _FEATURE,
    "domain/commandline": "QEMU's is <qemu:commandline>, with xmlns:qemu=\"http://libvirt.org/"
    'schemas/domain/qemu/1.0" at <domain>',
    "secret/value": "what a secret is worth is told by virsh secret-set-value",
}


def hint(parent: str, child: str = "", attribute: str = "", value: str = "") -> str:
    """What a person should do instead, where a mistake is a usual one; else empty.

    parent: the element's name, or with child that of its parent.
    """
    if child:
        return _HINTS.get(f"{parent}/{child}", "")
    name = f"{parent}/@{attribute}"
    return _HINTS.get(f"{name}={value}") or _HINTS.get(name, "")


def cause(reason: str) -> str:
    """What libxml2 says of a file that is not well-formed, with the likely cause."""
    said = reason.removeprefix("not well-formed: ")
    for pattern, likely in _CAUSES:
        if found := re.fullmatch(pattern, said):
            return f"not well-formed: {found.expand(likely)}"
    return reason


def quoted(value: str) -> str:
    """A value as it is shown: whatever it holds, on one line."""
    shown = value if len(value) <= 60 else value[:57] + "..."
    for char, name in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        shown = shown.replace(char, name)
    return f'"{shown}"'


def values(patterns: Iterable[Pattern]) -> list[str]:
    """The texts that are named as possible."""
    found = {leaf.text for each in patterns for leaf in each.leaves if isinstance(leaf, Value)}
    found |= {
        text
        for each in patterns
        for leaf in each.leaves
        if isinstance(leaf, Listing)
        for text in values([leaf.part])
    }
    return sorted(found)


def types(patterns: Iterable[Pattern]) -> list[str]:
    """What else is possible, in words; in the schema's order."""
    leaves = sorted(
        (leaf for each in patterns for leaf in each.leaves), key=lambda leaf: leaf.number
    )
    return list(dict.fromkeys(filter(None, (_type(leaf) for leaf in leaves))))


def _type(leaf: Leaf) -> str:
    if isinstance(leaf, Text):
        return "a text"
    if isinstance(leaf, Listing):
        return "a list of words"
    if not isinstance(leaf, Data):
        return ""
    if leaf.define in _DEFINES:
        return _DEFINES[leaf.define]
    if leaf.type in INTEGERS:
        return _integer(leaf)
    pattern = next((value for name, value in leaf.facets if name == "pattern"), "")
    if not pattern:
        return _TYPES.get(leaf.type, "a text")
    literal = re.fullmatch(r"\(?[\w|() .-]+\)?", pattern)
    if literal and "|" in pattern:
        return " or ".join(re.findall(r"[^()|]+", pattern))
    if re.search(r"0x|a-f", pattern) and "A-Z" not in pattern:
        return "a hexadecimal number such as 0x1f"
    if re.fullmatch(r"[\[\]0-9{},+*?().\\-]+", pattern):
        return "a number"
    whole = _CLASS.fullmatch(pattern)
    return _characters(whole) if whole is not None else "a text of another form"


def _integer(leaf: Data) -> str:
    least, greatest = INTEGERS[leaf.type]
    for name, value in leaf.facets:
        if name == "minInclusive":
            least = int(value)
        elif name == "maxInclusive":
            greatest = int(value)
    if greatest is not None and greatest >= 2**31 - 1:
        greatest = None
    if least is not None and least < -(2**30):
        least = None
    if least is not None and greatest is not None:
        return f"a whole number from {least} to {greatest}"
    if least is not None:
        return f"a whole number, {least} or more"
    return f"a whole number up to {greatest}" if greatest is not None else "a whole number"


def _characters(match: re.Match[str]) -> str:
    inner = match[1][1:-1]
    counted = match[2] or ""
    number = ""
    if counted.startswith("{"):
        low, _, high = counted[1:-1].partition(",")
        number = f"{low} " if not high else f"up to {high} "
    if inner.startswith("^"):
        named = [_named(char) for char in re.findall(r"\\?(.)", inner[1:])]
        return (
            f"{number}characters without {', '.join(named)}"
            if number
            else (f"a text without {', '.join(named)}")
        )
    ranges = {"a-z": "small letters", "A-Z": "capitals", "0-9": "digits"}
    said = []
    if "a-z" in inner and "A-Z" in inner:
        said.append("letters")
        inner = inner.replace("a-z", "").replace("A-Z", "")
    for each, name in ranges.items():
        if each in inner:
            said.append(name)
            inner = inner.replace(each, "")
    if inner == " -~":
        return f"{number}printable ASCII characters"
    signs = re.sub(r"\\s", " ", inner)
    signs = re.sub(r"\\(.)", r"\1", signs)
    if " " in signs:
        said.append("blanks")
    rest = " ".join(signs.replace(" ", ""))
    return f"{number}{', '.join(said)}" + (f" and {rest}" if rest else "")


def _named(char: str) -> str:
    return {"n": "line breaks", " ": "blanks", ",": "commas"}.get(char, char)


def refusal(patterns: Sequence[Pattern], value: str, algebra: Algebra) -> str:
    """Why a value is refused, where that can be said closer than by its type; else empty."""
    stripped = value.strip()
    if not value:
        return "it is empty"
    if not stripped:
        return "it is blank"
    if stripped != value and any(algebra.accepts(each, stripped) for each in patterns):
        return "it has blanks at its ends"
    leaves = [leaf for each in patterns for leaf in each.leaves if isinstance(leaf, Data)]
    defines = {leaf.define for leaf in leaves}
    mac = re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", value)
    if mac and "uniMacAddr" in defines:
        return "its first byte must be even"
    if _MACS & defines and re.fullmatch(r"[0-9a-fA-F]{2}([-.]?[0-9a-fA-F]{2}){5}", value):
        return "its bytes are not separated by :"
    if {"ipv4Addr", "ipv6Addr", "addrIP", "addrIPv6"} & defines and "/" in value:
        return "what is behind the / is an attribute of its own, prefix"
    if "diskTargetDev" in defines and value.startswith("/dev/"):
        return f"it is a name without /dev/: {quoted(value[5:])}"
    if "UUID" in defines:
        digits = value.replace("-", "")
        if wrong := re.search(r"[^0-9a-fA-F]", digits):
            return f"{quoted(wrong[0])} is no hexadecimal digit"
        if len(digits) != 32:
            return f"it has {len(digits)} digits"
        return "its groups are not 8-4-4-4-12"
    if {"absFilePath", "absDirPath"} & defines and not value.startswith("/"):
        return "it does not start with /"
    unit = re.fullmatch(r"\d+ ?([kKMGTPE]i?[bB]?|bytes|[bB])", value)
    if unit and any(leaf.type in INTEGERS for leaf in leaves):
        return f"the unit is an attribute: unit='{unit[1]}'"
    if re.fullmatch(r"\d*[.,]\d+", value) and any(leaf.type in INTEGERS for leaf in leaves):
        return "it has a fraction: say it in a smaller unit"
    for leaf in leaves:
        for name, facet in leaf.facets:
            if name == "pattern" and (found := _CLASS.fullmatch(facet)) is not None:
                one = re.compile(translated(found[1]))
                bad = next((char for char in value if not one.fullmatch(char)), "")
                if bad and any(one.fullmatch(char) for char in value):
                    return f"{quoted(bad)} cannot stand in it"
    return ""


@lru_cache(maxsize=20_000)
def distance(one: str, other: str) -> float:
    """How far apart two words are: Damerau and Levenshtein's, case and - _ counting less."""
    if one == other:
        return 0
    a, b = one.lower(), other.lower()
    if a == b:
        return 0.4
    if re.sub(r"[-_.]", "", a) == re.sub(r"[-_.]", "", b):
        return 0.5
    if abs(len(a) - len(b)) > 3:
        return 9
    previous: list[int] = []
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        before, previous, row = previous, row, [i]
        for j, each in enumerate(b, 1):
            cost = min(row[-1] + 1, previous[j] + 1, previous[j - 1] + (char != each))
            if i > 1 and j > 1 and char == b[j - 2] and a[i - 2] == each:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
    # a slip within the word is likelier than at its beginning
    return row[-1] + (0.1 if a[:1] != b[:1] else 0)


def alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginnings and ends."""
    least = min(len(one), len(other))
    begin = next((at for at in range(least) if one[at] != other[at]), least)
    end = next((at for at in range(least) if one[-1 - at] != other[-1 - at]), least)
    return min(begin + end, least)


def near(word: str, known: Iterable[str], *, begun: bool = False, called: bool = True) -> list[str]:
    """Those of the known words that may be meant, the nearest first.

    begun: also those that the word is the beginning of, or that are the beginning of the word.
    called: also those that others call so.
    """
    limit = 1.2 if len(word) < 5 else 2.2 if len(word) < 10 else 3.2
    found = []
    for number, each in enumerate(known):
        far = distance(word, each)
        if far > limit and any(word.lower() in same and each in same for same in _SAME):
            far = 1.5
        if called and far > limit and each in _CALLED.get(word.lower(), ()):
            far = 1.4
        elif far > limit and begun and min(len(word), len(each)) > 2:
            far = 1.5 if each.startswith(word) or word.startswith(each) else far
        if far <= min(limit, max(len(each) - 1, 1)) or far in (1.4, 1.5):
            found.append((far, number, each))
    return [each for _, _, each in sorted(found)]


# libvirt's pages, and the headings on the page of domains and of networks.
_PAGES = {
    "capabilities": "formatcaps",
    "device": "formatnode",
    "domain": "formatdomain",
    "domainCapabilities": "formatdomaincaps",
    "domainbackup": "formatbackup",
    "domaincheckpoint": "formatcheckpoint",
    "domainsnapshot": "formatsnapshot",
    "filter": "formatnwfilter",
    "filterbinding": "formatnwfilter",
    "network": "formatnetwork",
    "networkport": "formatnetworkport",
    "pool": "formatstorage",
    "secret": "formatsecret",
    "storagepoolCapabilities": "formatstoragecaps",
    "volume": "formatstorage",
}
_HEADINGS = {
    "pool": {
        "": "storage-pool-xml",
        "source": "source-elements",
        "target": "storage-pool-target-elements",
        "features": "features",
        "refresh": "refresh-overrides",
    },
    "volume": {
        "": "storage-volume-xml",
        "target": "storage-volume-target-elements",
        "backingStore": "backing-store-elements",
    },
    "network": {
        "": "element-and-attribute-overview",
        "forward": "connectivity",
        "bridge": "connectivity",
        "bandwidth": "quality-of-service",
        "vlan": "setting-vlan-tag-on-supported-network-types-only",
        "portgroup": "portgroups",
        "route": "static-routes",
        "ip": "addressing",
        "dns": "addressing",
        "mac": "addressing",
    },
    "domain": {
        "": "element-and-attribute-overview",
        **dict.fromkeys(("name", "uuid", "genid", "title", "description"), "general-metadata"),
        "metadata": "general-metadata",
        **dict.fromkeys(("os", "bootloader", "bootloader_args"), "operating-system-booting"),
        "sysinfo": "smbios-system-information",
        **dict.fromkeys(("vcpu", "vcpus"), "cpu-allocation"),
        **dict.fromkeys(("iothreads", "iothreadids"), "iothreads-allocation"),
        "cputune": "cpu-tuning",
        **dict.fromkeys(("memory", "currentMemory", "maxMemory"), "memory-allocation"),
        "memoryBacking": "memory-backing",
        "memtune": "memory-tuning",
        "numatune": "numa-node-tuning",
        "blkiotune": "block-i-o-tuning",
        "resource": "resource-partitioning",
        "cpu": "cpu-model-and-topology",
        **dict.fromkeys(("on_poweroff", "on_reboot", "on_crash"), "events-configuration"),
        "on_lockfailure": "events-configuration",
        "pm": "power-management",
        "features": "hypervisor-features",
        "clock": "time-keeping",
        "perf": "performance-monitoring-events",
        "seclabel": "security-label",
        "keywrap": "key-wrap",
        "launchSecurity": "launch-security",
        "devices": "devices",
    },
    "devices": {
        "disk": "hard-drives-floppy-disks-cdroms",
        "filesystem": "filesystems",
        "controller": "controllers",
        "lease": "device-leases",
        "hostdev": "host-device-assignment",
        "redirdev": "redirected-devices",
        "redirfilter": "redirected-devices",
        "smartcard": "smartcard-devices",
        "interface": "network-interfaces",
        "input": "input-devices",
        "hub": "hub-devices",
        "graphics": "graphical-framebuffers",
        "video": "video-devices",
        **dict.fromkeys(
            ("console", "serial", "parallel", "channel"),
            "consoles-serial-parallel-channel-devices",
        ),
        "sound": "sound-devices",
        "audio": "audio-backends",
        "watchdog": "watchdog-device",
        "memballoon": "memory-balloon-device",
        "rng": "random-number-generator-device",
        "tpm": "tpm-device",
        "nvram": "nvram-device",
        "panic": "panic-device",
        "shmem": "shared-memory-device",
        "memory": "memory-devices",
        "iommu": "iommu-devices",
        "vsock": "vsock",
    },
}


def link(element: etree._Element) -> str:
    """libvirt's page on an element, at the heading that it comes under."""
    path = [element, *element.iterancestors()]
    names = [str(each.tag).rpartition("}")[2] for each in reversed(path)]
    # a domain within a snapshot, and one by itself
    for word in ("inactiveDomain", "domain"):
        if word in names:
            names = ["domain", *names[names.index(word) + 1 :]]
    if names[0] in _HEADINGS["devices"]:
        names = ["domain", "devices", *names]
    page = _PAGES.get(names[0], "format")
    if names[0] == "domain" and names[1:2] == ["devices"] and len(names) > 2:
        heading = _HEADINGS["devices"].get(names[2], "devices")
    else:
        known = _HEADINGS.get(names[0], {})
        heading = (known.get(names[1], "") if len(names) > 1 else "") or known.get("", "")
    return f"https://libvirt.org/{page}.html" + (f"#{heading}" if heading else "")


def identity(element: etree._Element) -> str:
    """The device that an element belongs to, as a person would name it; empty if there is none."""
    for each in (element, *element.iterancestors()):
        parent, tag = each.getparent(), str(each.tag)
        alone = parent is None and tag in _HEADINGS["devices"]
        if alone or (parent is not None and parent.tag == "devices"):
            said = _identified(each)
            return f"{tag} {said}" if said else tag
    return ""


def _identified(device: etree._Element) -> str:
    for path, attribute in (
        ("mac", "address"),
        ("target", "dev"),
        (".", "dev"),
        ("alias", "name"),
        ("target", "name"),
        ("target", "dir"),
        (".", "model"),
        (".", "type"),
    ):
        found = device if path == "." else device.find(path)
        value = "" if found is None else str(found.get(attribute, ""))
        value = value.strip()
        if value and len(value) <= 60:
            if path == "." and attribute == "type" and device.get("index"):
                return f"{value} {device.get('index')}"
            return value
    return ""
