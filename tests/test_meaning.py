"""What libvirt reads in a value: spellings that mean the same, and those that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAWS

from xmlkit import meaning


@pytest.mark.parametrize(
    ("unit", "default", "expected"),
    [
        (None, 1024, 1024),
        ("", 1, 1),
        ("b", 1024, 1),
        ("bytes", 1024, 1),
        ("Byte", 1024, 1),
        ("k", 1, 1024),
        ("KiB", 1, 1024),
        ("KB", 1, 1000),
        ("mB", 1, 1000**2),
        ("MIB", 1, 1024**2),
        ("g", 1, 1024**3),
        ("TB", 1, 1000**4),
        ("PiB", 1, 1024**5),
        ("E", 1, 1024**6),
        ("Kib ", 1, None),
        ("kbit", 1, None),
        ("kilo", 1, None),
        ("ib", 1, None),
        ("Z", 1, None),
    ],
)
def test_a_unit_is_what_virscaleinteger_makes_of_it(
    unit: str | None, default: int, expected: int | None
) -> None:
    """Letters of any case, 1024 for a letter alone or with iB, 1000 for B; others are refused."""
    assert expected == meaning.scale(unit, default)


@pytest.mark.parametrize(
    ("place", "text", "unit", "expected"),
    [
        ("domain/memory", "1048576", None, 1024**3),
        ("domain/memory", " 1", "GiB", 1024**3),
        ("domain/memory", "1", "b", 1024),
        ("domain/memory", "1025", "b", 2048),
        ("domain/currentMemory", "3", "KB", 3 * 1024),
        ("volume/capacity", "5", None, 5),
        ("volume/allocation", "0", "G", 0),
        ("shmem/size", "4", "M", 4 * 1024**2),
        ("smm/tseg", "48", None, 48 * 1024**2),
        ("target/size", "1", None, 1024),
    ],
)
def test_a_size_is_in_bytes(place: str, text: str, unit: str | None, expected: int) -> None:
    """Without a unit memory is in KiB, a volume in bytes; memory is rounded up to KiB."""
    parent, tag = place.split("/")
    assert ("bytes", expected) == meaning.size_of_text(parent, tag, text, unit)


@pytest.mark.parametrize(
    ("place", "text", "unit"),
    [
        ("domain/memory", "-1", None),
        ("domain/memory", "many", None),
        ("domain/memory", "1.5", "GiB"),
        ("domain/memory", "1", "heap"),
        ("domain/memory", "1 ", None),
        ("domain/memory", "9" * 21, None),
        ("domain/name", "1", "GiB"),
    ],
)
def test_what_libvirt_refuses_is_no_size(place: str, text: str, unit: str | None) -> None:
    """Nor is a number that stands where no size does."""
    parent, tag = place.split("/")
    assert meaning.size_of_text(parent, tag, text, unit) is None


@LAWS
@given(st.integers(0, 2**64 // 1024**2), st.sampled_from(["", "M", "MiB", "mib"]))
def test_a_size_is_the_same_in_every_unit(number: int, unit: str) -> None:
    """However it is counted, up to the 2**64 bytes that libvirt can count."""
    small = meaning.size_of_text("domain", "memory", str(number * 1024), "KiB")
    assert small == meaning.size_of_text("domain", "memory", str(number), unit or "MiB")
    other = meaning.size_of_text("domain", "memory", str(number + 1), unit or "MiB")
    assert small != other


@pytest.mark.parametrize(
    ("tag", "attributes", "same"),
    [
        ("mac", {"address": "52:54:00:AB:CD:0F"}, {"address": "52:54:0:ab:cd:f"}),
        ("address", {"type": "pci", "slot": "0x05"}, {"type": "pci", "slot": "5"}),
        ("address", {"type": "pci", "slot": "0x0A"}, {"type": "pci", "slot": "012"}),
        ("address", {"type": "drive", "unit": "010"}, {"type": "drive", "unit": "10"}),
        ("address", {"type": "isa", "iobase": "0x505"}, {"type": "isa", "iobase": "505"}),
        ("address", {"type": "ccw", "cssid": "0xfe"}, {"type": "ccw", "cssid": "254"}),
        ("address", {"bus": "0x06", "slot": "0x1"}, {"bus": "6", "slot": "1"}),
        ("vcpupin", {"cpuset": "0-3,^2"}, {"cpuset": "3,0,1"}),
        ("vcpupin", {"cpuset": " 1 , 2 "}, {"cpuset": "1-2"}),
        ("secret", {"uuid": "AA" * 16}, {"uuid": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"}),
        ("filesystem", {"fmode": "644"}, {"fmode": "0644"}),
        ("vendor", {"id": "0x04b3"}, {"id": "0x4B3"}),
        ("controller", {"index": "+1"}, {"index": "01"}),
    ],
)
def test_spellings_of_a_value(tag: str, attributes: dict[str, str], same: dict[str, str]) -> None:
    """Two spellings that libvirt's parser makes one value of."""
    read = meaning.attribute_values(tag, attributes)
    assert read == meaning.attribute_values(tag, same)
    # but what no table knows means its letters
    unknown = meaning.attribute_values("other", attributes)
    assert attributes == unknown != same


@pytest.mark.parametrize(
    ("tag", "attributes", "other"),
    [
        ("address", {"type": "drive", "unit": "010"}, {"type": "drive", "unit": "8"}),
        ("address", {"type": "pci", "slot": "010"}, {"type": "pci", "slot": "10"}),
        ("address", {"type": "pci", "slot": "09"}, {"type": "pci", "slot": "9"}),
        ("address", {"type": "pci", "slot": "-5"}, {"type": "pci", "slot": "5"}),
        ("vcpupin", {"cpuset": "0-3,^2"}, {"cpuset": "0-3"}),
        ("vcpupin", {"cpuset": "3-1"}, {"cpuset": "1-3"}),
        ("vcpupin", {"cpuset": "^1"}, {"cpuset": ""}),
        ("vcpupin", {"cpuset": "0-99999"}, {"cpuset": "0-99998"}),
        ("mac", {"address": "52:54:00:ab:cd"}, {"address": "52:54:00:AB:CD"}),
        ("mac", {"address": "52:54:00:ab:cd:111"}, {"address": "52:54:00:ab:cd:11"}),
        ("secret", {"uuid": "AA" * 15}, {"uuid": "aa" * 15}),
        ("controller", {"index": "0x1"}, {"index": "1"}),
        ("filesystem", {"fmode": "649"}, {"fmode": "0649"}),
    ],
)
def test_other_values(tag: str, attributes: dict[str, str], other: dict[str, str]) -> None:
    """Values that differ, and spellings that libvirt refuses: those mean their letters."""
    assert meaning.attribute_values(tag, attributes) != meaning.attribute_values(tag, other)


def test_a_set_of_cpus_is_bounded() -> None:
    """No list of thousands of millions of CPUs is ever made."""
    text = "0-99999,0-4294967295"
    assert {"cpuset": text} == meaning.attribute_values("vcpupin", {"cpuset": text})


@pytest.mark.parametrize(
    ("place", "text", "same"),
    [
        ("domain/uuid", "AA" * 16, " aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa\n"),
        ("domain/vcpu", "04", "4"),
        ("cputune/quota", "-1", " -01"),
        ("iotune/read_iops_sec_max", "9", "+9"),
    ],
)
def test_spellings_of_a_text(place: str, text: str, same: str) -> None:
    """The same in the text of an element."""
    parent, tag = place.split("/")
    assert meaning.text_value(parent, tag, text) == meaning.text_value(parent, tag, same)
    assert text == meaning.text_value(parent, "other", text)


def test_a_size_may_be_an_attribute() -> None:
    """Of huge pages, NUMA cells and the like, with the unit beside it."""
    page = {"size": "2", "unit": "M", "nodeset": "0"}
    assert ("size", "unit", ("bytes", 2 * 1024**2)) == meaning.size_attribute(
        "hugepages", "page", page
    )
    assert meaning.size_attribute("hugepages", "page", {"size": "two"}) is None
    assert meaning.size_attribute("hugepages", "page", {"nodeset": "0"}) is None
    assert meaning.size_attribute("other", "page", page) is None
