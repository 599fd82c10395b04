"""What libvirt reads in a document: values, identities and order, whatever the spelling.

Laws
- Two spellings mean the same only where libvirt's parser makes one value of both. What it would
  refuse, and what stands in no table here, means its letters.
- Two siblings with an identity each are one and the same only if their identities agree.
- The tables are read from src/conf/*.c of libvirt 9.0.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

__all__ = [
    "DEFAULTS",
    "DEFAULT_TEXTS",
    "IDENTITIES",
    "ORDERED",
    "Value",
    "attribute_values",
    "size_attribute",
    "size_of_text",
    "text_value",
]

# A spelling that no table knows is a str; what it reads as is never one, so that they don't meet.
Value = str | tuple[object, ...]
Reader = Callable[[str], Value]

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_XEN = "{http://libvirt.org/schemas/domain/xen/1.0}"
_BHYVE = "{http://libvirt.org/schemas/domain/bhyve/1.0}"

_DECIMAL = re.compile(r"[ \t\n\r]*([+-]?[0-9]{1,20})")
_HEX = re.compile(r"[ \t\n\r]*([+-]?(?:0[xX])?[0-9a-fA-F]{1,16})")
_OCTAL = re.compile(r"[0-7]{1,22}")
_ANY_BASE = re.compile(
    r"[ \t\n\r]*([+-]?)(?:0[xX]([0-9a-fA-F]{1,16})|(0[0-7]{1,22})|(0|[1-9][0-9]{0,19}))"
)
_MAC = re.compile(r"(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")
_UUID = re.compile(r"[ \t\n\r]*(?:[- ]*[0-9a-fA-F]{2}){16}[ \t\n\r]*")
_CPUS = re.compile(
    r"[ ]*\^?[0-9]{1,5}(?:-[0-9]{1,5})?[ ]*(?:,[ ]*\^?[0-9]{1,5}(?:-[0-9]{1,5})?[ ]*)*"
)
_UNIT = re.compile(r"([kmgtpe])(|ib|b)", re.IGNORECASE)
_CPUS_AT_MOST = 16384  # VIR_DOMAIN_CPUMASK_LEN


def decimal(text: str) -> Value:
    """virStrToLong_ull(base 10): leading blanks, a sign and zeros do not count."""
    found = _DECIMAL.fullmatch(text)
    return (int(found.group(1)),) if found else text


def hexadecimal(text: str) -> Value:
    """The same with base 16: 0x may stand in front."""
    found = _HEX.fullmatch(text)
    return (int(found.group(1), 16),) if found else text


def octal(text: str) -> Value:
    """The same with base 8, as file modes are."""
    return (int(text, 8),) if _OCTAL.fullmatch(text) else text


def any_base(text: str) -> Value:
    """The same with base 0: 0x is hexadecimal, a leading 0 octal."""
    found = _ANY_BASE.fullmatch(text)
    if not found:
        return text
    sign, sixteen, eight, ten = found.groups()
    number = int(sixteen, 16) if sixteen else int(eight, 8) if eight else int(ten)
    return (-number if sign == "-" else number,)


def mac(text: str) -> Value:
    """virMacAddrParse: six hexadecimal numbers of one or two digits."""
    if not _MAC.fullmatch(text):
        return text
    return (":".join(part.zfill(2) for part in text.lower().split(":")),)


def uuid(text: str) -> Value:
    """virUUIDParse: 16 pairs of hexadecimal digits, hyphens and blanks between them anywhere."""
    return (re.sub(r"[-\s]", "", text).lower(),) if _UUID.fullmatch(text) else text


def cpus(text: str) -> Value:
    """virBitmapParse: a set of numbers such as 0-3,^2, as the ranges that it consists of."""
    if not _CPUS.fullmatch(text):
        return text
    chosen: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, _, last = part.removeprefix("^").partition("-")
        low, high = int(first), int(last or first)
        if low > high or high >= _CPUS_AT_MOST:
            return text
        if part.startswith("^"):
            if low not in chosen or last:
                return text
            chosen.discard(low)
        else:
            chosen.update(range(low, high + 1))
    return ("cpus", *sorted(chosen))


def scale(unit: str | None, default: int) -> int | None:
    """Bytes in a unit as virScaleInteger reads it; None for one that it refuses.

    `default` is what a number without a unit counts.
    """
    if not unit:
        return default
    if unit.lower() in ("b", "byte", "bytes"):
        return 1
    found = _UNIT.fullmatch(unit)
    if not found:
        return None
    base = 1000 if found.group(2).lower() == "b" else 1024
    return int(base ** ("kmgtpe".index(found.group(1).lower()) + 1))


KIB: Final = 1024

# Elements whose text is a size with a `unit`: (bytes in a number without one, rounded up to).
# virDomainParseMemory counts in KiB, virParseScaledValue and virStorageSize in bytes.
_MEMORY = (KIB, KIB)
_BYTES = (1, 1)
_SIZES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("memory", "currentMemory", "maxMemory", "tb-cache"), _MEMORY),
    **dict.fromkeys(("hard_limit", "soft_limit", "swap_hard_limit", "min_guarantee"), _MEMORY),
    **dict.fromkeys(("pagesize", "alignsize", "block", "requested", "current"), _MEMORY),
    **dict.fromkeys(("target/size", "label/size"), _MEMORY),
    **dict.fromkeys(("capacity", "allocation", "available", "physical", "clusterSize"), _BYTES),
    **dict.fromkeys(("shmem/size", "metadata_cache/max_size"), _BYTES),
    **dict.fromkeys(("space_hard_limit", "space_soft_limit"), _BYTES),
    "maxpagesize": (KIB, 1),
    "pcihole64": (KIB, KIB),
    "smm/tseg": (KIB * KIB, 1),
}
# Attributes that are sizes, each with the attribute that holds its unit.
_SIZE_ATTRIBUTES: Mapping[str, tuple[str, str, tuple[int, int]]] = {
    "hugepages/page": ("size", "unit", _MEMORY),
    "numa/cell": ("memory", "unit", _MEMORY),
    "cachetune/cache": ("size", "unit", (KIB, 1)),
    "interconnects/bandwidth": ("value", "unit", _MEMORY),
    "filesystem/source": ("usage", "units", (KIB, 1)),
}


def _size(number: str, unit: str | None, counting: tuple[int, int]) -> Value | None:
    found = _DECIMAL.fullmatch(number)
    factor = scale(unit, counting[0])
    if not found or factor is None or int(found.group(1)) < 0:
        return None
    return ("bytes", -(-int(found.group(1)) * factor // counting[1]) * counting[1])


def size_of_text(parent: str, tag: str, text: str, unit: str | None) -> Value | None:
    """The size that an element's text and its `unit` say, in bytes; None if it is none."""
    counting = _SIZES.get(f"{parent}/{tag}") or _SIZES.get(tag)
    return None if counting is None else _size(text, unit, counting)


def size_attribute(
    parent: str, tag: str, attributes: Mapping[str, str]
) -> tuple[str, str, Value] | None:
    """The attribute of an element that is a size, the one with its unit, and the size in bytes."""
    known = _SIZE_ATTRIBUTES.get(f"{parent}/{tag}")
    if known is None or known[0] not in attributes:
        return None
    name, unit, counting = known
    value = _size(attributes[name], attributes.get(unit), counting)
    return None if value is None else (name, unit, value)


# By an address's type: virPCIDeviceAddressParseXML and the like.
_NUMBERED = ("controller", "bus", "target", "unit", "port", "slot")
_BASE_0 = ("domain", "bus", "slot", "function", "cssid", "ssid", "devno", "device")
_PCI: Mapping[str, Reader] = dict.fromkeys(_BASE_0, any_base)
_ADDRESSES: Mapping[str, Mapping[str, Reader]] = {
    "drive": dict.fromkeys(_NUMBERED, decimal),
    "usb": {"bus": decimal},
    "virtio-serial": dict.fromkeys(_NUMBERED, decimal),
    "ccid": dict.fromkeys(_NUMBERED, decimal),
    "isa": {"iobase": hexadecimal, "irq": hexadecimal},
    "dimm": {"slot": decimal, "base": hexadecimal},
    "spapr-vio": {"reg": hexadecimal},
}

_ATTRIBUTES: Mapping[str, Mapping[str, Reader]] = {
    "mac": {"address": mac},
    "zpci": {"uid": any_base, "fid": any_base},
    "boot": {"order": decimal},
    "controller": dict.fromkeys(("index", "ports", "vectors"), decimal),
    "driver": dict.fromkeys(
        (
            *("queues", "queue_size", "rx_queue_size", "tx_queue_size", "iothread"),
            *("cmd_per_lun", "max_sectors", "aw_bits"),
        ),
        decimal,
    ),
    "blockio": dict.fromkeys(("logical_block_size", "physical_block_size"), decimal),
    "geometry": dict.fromkeys(("cyls", "heads", "secs"), decimal),
    "graphics": dict.fromkeys(("port", "tlsPort", "websocket"), decimal),
    "topology": dict.fromkeys(("sockets", "dies", "clusters", "cores", "threads"), decimal),
    "cell": {"id": decimal, "cpus": cpus},
    "sibling": {"id": decimal, "value": decimal},
    "vcpu": {"current": decimal, "cpuset": cpus, "id": decimal, "order": decimal},
    "vcpupin": {"vcpu": decimal, "cpuset": cpus},
    "emulatorpin": {"cpuset": cpus},
    "iothreadpin": {"iothread": decimal, "cpuset": cpus},
    "iothread": {"id": decimal},
    "vcpusched": {"vcpus": cpus, "priority": decimal},
    "iothreadsched": {"iothreads": cpus, "priority": decimal},
    "emulatorsched": {"priority": decimal},
    "cachetune": {"vcpus": cpus},
    "memorytune": {"vcpus": cpus},
    "memory": {"nodeset": cpus},
    "memnode": {"cellid": decimal, "nodeset": cpus},
    "page": {"nodeset": cpus},
    "timer": {"frequency": decimal},
    "model": dict.fromkeys(("vram", "vgamem", "ram", "vram64", "heads"), decimal),
    "spinlocks": {"retries": any_base},
    "vendor": {"id": any_base},
    "product": {"id": any_base},
    "maxMemory": {"slots": decimal},
    "mtu": {"size": decimal},
    "filesystem": {"fmode": octal, "dmode": octal},
    "usbdev": dict.fromkeys(("class", "vendor", "product"), any_base),
    "cid": {"address": decimal},
    "bios": {"rebootTimeout": decimal},
    "bootmenu": {"timeout": decimal},
    "secret": {"uuid": uuid},
    "tag": {"id": decimal},
}

_TEXTS: Mapping[str, Reader] = {
    "uuid": uuid,
    "vcpu": decimal,
    "iothreads": decimal,
    "target/node": decimal,
    "nodemask": cpus,
    **dict.fromkeys(("cputune/shares", "cputune/period", "cputune/quota"), decimal),
    **dict.fromkeys(("cputune/global_period", "cputune/global_quota"), decimal),
    **dict.fromkeys(("cputune/emulator_period", "cputune/emulator_quota"), decimal),
    **dict.fromkeys(("cputune/iothread_period", "cputune/iothread_quota"), decimal),
    **{
        f"iotune/{who}_{what}_sec{more}": decimal
        for who in ("total", "read", "write")
        for what in ("bytes", "iops")
        for more in ("", "_max", "_max_length")
    },
    "iotune/size_iops_sec": decimal,
    **dict.fromkeys(("blkiotune/weight", "device/weight"), decimal),
    **dict.fromkeys(("permissions/owner", "permissions/group"), decimal),
}


def attribute_values(tag: str, attributes: Mapping[str, str]) -> dict[str, Value]:
    """What libvirt reads in the attributes of an element."""
    if tag == "address":
        readers = _ADDRESSES.get(attributes.get("type", ""), _PCI)
    else:
        known = _ATTRIBUTES.get(tag)
        if known is None:
            return dict(attributes)
        readers = known
    return {
        name: readers[name](value) if name in readers else value
        for name, value in attributes.items()
    }


def text_value(parent: str, tag: str, text: str) -> Value:
    """What libvirt reads in the text of an element."""
    reader = _TEXTS.get(tag) or _TEXTS.get(f"{parent}/{tag}")
    return text if reader is None else reader(text)


# What tells siblings of one name apart: PARENT/TAG, or TAG alone -> attributes, of itself or of a
# child. Where one is missing it may be any: libvirt will choose it.
IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "devices/disk": ("target/@dev",),
    "disks/disk": ("@name",),
    "devices/interface": ("mac/@address",),
    "devices/controller": ("@type", "@index"),
    "devices/filesystem": ("target/@dir",),
    "devices/channel": ("target/@type", "target/@name", "target/@address", "target/@port"),
    "devices/serial": ("target/@port",),
    "devices/parallel": ("target/@port",),
    "devices/audio": ("@id",),
    "cpu/feature": ("@name",),
    "firmware/feature": ("@name",),
    "clock/timer": ("@name",),
    "initenv": ("@name",),
    "cputune/vcpupin": ("@vcpu",),
    "cputune/iothreadpin": ("@iothread",),
    "iothreadids/iothread": ("@id",),
    "vcpus/vcpu": ("@id",),
    "numa/cell": ("@id",),
    "distances/sibling": ("@id",),
    "numatune/memnode": ("@cellid",),
    "sysinfo": ("@type",),
    "system/entry": ("@name",),
    "bios/entry": ("@name",),
    "chassis/entry": ("@name",),
    "sysinfo/entry": ("@name",),
    "keywrap/cipher": ("@name",),
    "domain/seclabel": ("@model",),
    "source/seclabel": ("@model",),
    "network/portgroup": ("@name",),
    "filterref/parameter": ("@name",),
    f"{_QEMU}commandline/{_QEMU}env": ("@name",),
    f"{_QEMU}override/{_QEMU}device": ("@alias",),
    f"{_QEMU}frontend/{_QEMU}property": ("@name",),
}

# Siblings whose order libvirt keeps and acts by.
ORDERED = frozenset(
    (
        *("os/boot", "os/initarg", "oemStrings/entry", "source/host", "dns/forwarder"),
        *("filter/rule", "devices/console"),
        f"{_QEMU}commandline/{_QEMU}arg",
        f"{_XEN}commandline/{_XEN}arg",
        f"{_BHYVE}commandline/{_BHYVE}arg",
    )
)

# What a document without the attribute, or without the element, means all the same.
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "devices/disk": {"type": "file", "device": "disk"},
    "disk/target": {"tray": "closed"},
    "vcpu": {"placement": "static"},
    "domain/cpu": {"match": "exact"},
    "cpu/model": {"fallback": "allow"},
    "address": {"multifunction": "off"},
    "clock": {"offset": "utc"},
    "devices/graphics": {"autoport": "no"},
    "video/model": {"primary": "no"},
    "protocol": {"type": "raw"},
    "usbdev": dict.fromkeys(("class", "vendor", "product", "version"), "-1"),
}
DEFAULT_TEXTS: Mapping[str, str] = {
    "domain/on_poweroff": "destroy",
    "domain/on_reboot": "restart",
    "domain/on_crash": "destroy",
}
