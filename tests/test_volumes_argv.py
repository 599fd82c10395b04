"""libvirt runs the same qemu-img for our documents as for those of its own tests.

Rules
- tests/storagevolxml2argvtest.c says which command libvirt expects of which documents; each of its
  cases is here, as what it is meant to make, or in EXCLUDED with the reason.
- Only these differ: the paths, each size (4 MiB, so that no terabyte is encrypted), the files of
  secrets, and compat, which xmlkit always states, where libvirt's tests leave it out.
- What is compared is what a real libvirtd says that it is about to run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from xmlkit.host import Host, Pool
from xmlkit.testing import Libvirtd
from xmlkit.volumes import Creation, Target, VolumeError, blank, copy, overlay

MIB = 1 << 20
SIZE = 4 * MIB
HOST = Host()
RAW, QCOW2 = Target("raw"), Target("qcow2")

# What xmlkit does not make, or libvirt does not do where this test can run.
EXCLUDED = {
    "qcow2-zerocapacity": "a volume of no size is refused: the guest would have no disk",
    "iso": "xmlkit makes raw and qcow2; an ISO image is brought in, and libvirt makes it raw",
    "iso-input": "the test says iso of a file with other bytes; libvirtd, which looks, says raw",
    "luks-cipher": "xmlkit leaves the cipher to QEMU, whose default is aes-256-xts",
    "qcow2-encryption": "libvirt refuses it (expected to fail): QEMU's old encryption",
    "qcow2-0.10-lazy": "libvirt refuses it (expected to fail): xmlkit has compat 1.1 only",
    "logical-from-qcow2": "a volume group needs device-mapper: made in test_machines.py",
    "qcow2-from-logical-compat": "a volume group needs device-mapper: made in test_machines.py",
}


@dataclass(frozen=True)
class Case:
    """What a case of libvirt's is meant to make; its source if it copies one."""

    make: Callable[[Pool, str, str], Creation]
    source: Target | None = None


def _overlay(target: Target, capacity: int | None = SIZE) -> Case:
    return Case(lambda pool, base, _: overlay(HOST, pool, "v", target, base, "raw", capacity))


def _copy(target: Target, source: Target, preallocate: Any = "no") -> Case:
    return Case(
        lambda pool, _, secret: copy(
            HOST,
            pool,
            "v",
            _with_secret(target, secret),
            pool,
            "source",
            source.format,
            SIZE,
            preallocate,
        ),
        source,
    )


def _blank(target: Target, preallocate: Any = "no") -> Case:
    return Case(
        lambda pool, _, secret: blank(
            HOST, pool, "v", _with_secret(target, secret), SIZE, preallocate
        )
    )


def _with_secret(target: Target, secret: str) -> Target:
    return replace(target, encryption=secret) if target.encryption else target


LUKS = Target("raw", encryption="yes")
QCOW2_LUKS = Target("qcow2", encryption="yes")

CASES = {
    "qcow2-compat": _overlay(QCOW2),
    "qcow2-1.1": _overlay(QCOW2),
    "qcow2-lazy": _overlay(Target("qcow2", lazy_refcounts=True)),
    "qcow2-nocow-compat": _overlay(Target("qcow2", nocow=True)),
    "qcow2-nocapacity": _overlay(QCOW2, None),
    "qcow2-clusterSize": _blank(Target("qcow2", cluster_size=131072, extended_l2=True)),
    "qcow2-nobacking-prealloc-compat": _blank(QCOW2, "metadata"),
    "qcow2-nobacking-convert-prealloc-compat": _copy(QCOW2, RAW, "metadata"),
    "qcow2-nocapacity-convert-prealloc": _copy(QCOW2, RAW, "full"),
    "luks": _blank(LUKS),
    "qcow2-luks": Case(
        lambda pool, base, secret: overlay(
            HOST, pool, "v", _with_secret(QCOW2_LUKS, secret), base, "raw", SIZE
        )
    ),
    "luks-convert": _copy(LUKS, RAW),
    "luks-convert-qcow2": _copy(LUKS, QCOW2),
    "luks-convert-encrypt": _copy(LUKS, LUKS),
    "luks-convert-encrypt2fileraw": _copy(RAW, LUKS),
    "luks-convert-encrypt2fileqcow2": _copy(QCOW2, LUKS),
    "qcow2-luks-convert-encrypt": _copy(QCOW2_LUKS, QCOW2_LUKS),
    "qcow2-luks-convert-encrypt2fileraw": _copy(RAW, QCOW2_LUKS),
    "qcow2-luks-convert-encrypt2fileqcow2": _copy(QCOW2, QCOW2_LUKS),
}


def test_each_case_of_libvirt_is_here(libvirt_source: Path) -> None:
    """None is forgotten, and none is excluded without being one."""
    text = (libvirt_source / "tests/storagevolxml2argvtest.c").read_text()
    body = text[text.index("mymain(void)") :]
    calls = re.findall(r"DO_TEST(?:_FAIL|_FULL)?\((?!shouldFail)([^;]*)\);", body)
    found = [re.findall(r'"([^"]*)"', call)[-1] for call in calls if '"' in call]

    assert len(found) == len(set(found))
    assert sorted(found) == sorted(CASES.keys() | EXCLUDED.keys())
    assert set() == CASES.keys() & EXCLUDED.keys()


@pytest.fixture
def logging(quick_luks: None, start_libvirtd: Callable[..., Libvirtd]) -> Libvirtd:
    """A libvirtd that writes down which commands it runs."""
    libvirtd = start_libvirtd()
    with (libvirtd.directory / "etc/libvirt/libvirtd.conf").open("a") as conf:
        conf.write('log_filters = "1:util.command"\n')
        conf.write(f'log_outputs = "1:file:{libvirtd.directory}/commands"\n')
    libvirtd.restart()
    return libvirtd


def commands(log: Path) -> list[list[str]]:
    """The qemu-img commands that libvirtd was about to run, without their environment."""
    found = []
    for line in log.read_text().splitlines():
        _, about, command = line.partition("About to run ")
        words = shlex.split(command) if about else []
        while words and "=" in words[0]:
            del words[0]
        if words and words[0].endswith("qemu-img"):
            found.append(["qemu-img", *words[1:]])
    return found


def expected(text: str) -> list[list[str]]:
    """The commands of an .argv file, as words."""
    words = shlex.split(text.replace("\\\n", " "))
    starts = [at for at, word in enumerate(words) if word == "qemu-img"]
    return [words[at:end] for at, end in zip(starts, [*starts[1:], len(words)], strict=True)]


def normalised(words: list[str], names: dict[str, str]) -> Iterator[str]:
    """The words with paths by their names, sizes, secrets and compat as the module says."""
    for word in words:
        for name in sorted(names, key=len, reverse=True):
            word = word.replace(name, names[name])
        word = re.sub(r"(?<![=\d])\d+K$", "SIZE", word)
        word = re.sub(r"file=/[^,]*$", "file=SECRET", word)
        yield word.replace("compat=0.10", "compat=1.1")


@pytest.mark.parametrize("name", CASES)
def test_libvirt_runs_the_same_qemu_img(logging: Libvirtd, libvirt_source: Path, name: str) -> None:
    """Word by word, in the same order, and nothing besides."""
    case = CASES[name]
    golden = (libvirt_source / f"tests/storagevolxml2argvdata/{name}.argv").read_text()
    directory = logging.directory / "pool"
    directory.mkdir()
    (directory / "base").write_bytes(b"\0" * SIZE)
    connection = libvirt.open(logging.uri)
    handle = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    )
    secret = connection.secretDefineXML("<secret ephemeral='no' private='yes'/>")
    secret.setValue(b"open sesame")
    pool = Pool("p", "dir", str(directory))
    source = None
    if case.source is not None:
        of = blank(HOST, pool, "source", _with_secret(case.source, secret.UUIDString()), SIZE)
        source = handle.createXML(of.document.text)
    before = len(commands(logging.directory / "commands"))
    made = case.make(pool, str(directory / "base"), secret.UUIDString())
    flags = libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA if made.flags else 0
    if source is None:
        handle.createXML(made.document.text, flags)
    else:
        handle.createXMLFrom(made.document.text, source, flags)
    ran = commands(logging.directory / "commands")[before:]
    ours = {f"{directory}/base": "BASE", f"{directory}/source": "SOURCE", f"{directory}/v": "V"}
    ours |= {"source_encrypt0": "SOURCE_KEY", "v_encrypt0": "V_KEY"}
    theirs = paths_of(expected(golden), copies=source is not None)

    assert [list(normalised(words, theirs)) for words in expected(golden)] == [
        list(normalised(words, ours)) for words in ran
    ]
    connection.close()


def paths_of(golden: list[list[str]], *, copies: bool) -> dict[str, str]:
    """Which path of a golden command is the new volume's, its source's, its backing file's."""
    text = " ".join(golden[-1])
    found = re.findall(r"/(?:var|dev)/[^ ,]+", text)
    names = {"/dev/null": "BASE", found[-1]: "V"}
    if copies:
        names[found[0]] = "SOURCE"
    for path, name in list(names.items()):
        names[f"{path.rpartition('/')[2]}_encrypt0"] = f"{name}_KEY"
    return names


def test_what_is_excluded_because_it_is_refused_is_refused() -> None:
    """A volume of no size, a format that is not raw or qcow2."""
    pool = Pool("p", "dir", "/p")
    for target, capacity in ((QCOW2, 0), (Target("iso"), MIB), (Target("qcow"), MIB)):
        with pytest.raises(VolumeError):
            blank(HOST, pool, "v", target, capacity)
