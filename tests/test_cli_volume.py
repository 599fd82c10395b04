"""xmlkit volume and xmlkit pool: what they print is what libvirt takes, and the scripts work.

Rules
- Each script is run by a shell, with virsh and qemu-img, against a private libvirtd.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, cast

import click
import libvirt
import pytest
from click.testing import CliRunner, Result
from loops import run
from lxml import etree

from xmlkit.cli import main
from xmlkit.document import Document
from xmlkit.testing import Libvirtd
from xmlkit.validation.verdict import validate

MIB = 1 << 20
UUID = "0b34a1c2-7d5e-4b1f-9a55-3f2c1c8e0d4b"
RAW = ("--image-format", "raw")
QCOW2 = ("--image-format", "qcow2")


class _Main:
    """The whole command, as what CliRunner runs."""

    name = "xmlkit"

    def main(self, args: list[str], prog_name: str) -> None:
        main(args)


def xmlkit(*arguments: str) -> Result:
    """Run the command in this process; it ends by itself and not by an exception."""
    result = CliRunner().invoke(cast(click.Command, _Main()), list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def printed(*arguments: str) -> Document:
    """The document that a command prints; valid, and nothing else on stdout."""
    result = xmlkit(*arguments)
    assert 0 == result.exit_code, result.stderr
    document = Document.parse(result.stdout)
    assert () == validate(document)
    return document


def sh(libvirtd: Libvirtd, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the script that a command prints does."""
    result = xmlkit(*arguments, "--script")
    assert (0, "") == (result.exit_code, result.stderr)
    environment = {**os.environ, "LIBVIRT_DEFAULT_URI": libvirtd.uri, "LC_ALL": "C"}
    return subprocess.run(
        ["sh"], input=result.stdout, capture_output=True, text=True, env=environment, timeout=300
    )


def works(libvirtd: Libvirtd, *arguments: str) -> None:
    """The script runs to its end."""
    done = sh(libvirtd, *arguments)
    assert 0 == done.returncode, done.stderr


@pytest.fixture(autouse=True)
def _without_libvirts_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)


# What is printed.


def test_volume_create_prints_a_document() -> None:
    """Without a host, the pool is taken for one of a directory."""
    document = printed("volume", "create", "p/v", *RAW, "--capacity", "1G")

    assert ("volume", "v") == (document.kind, document.name)
    assert str(1 << 30) == document.root.findtext("capacity")


def test_volume_create_with_everything() -> None:
    """Each option has its place in the document."""
    options = "--cluster-size 128K --lazy-refcounts --extended-l2 --nocow --mode 0640 --owner 1"
    document = printed(
        *("volume", "create", "p/v", *QCOW2, "--capacity", "10MiB", "--encryption", UUID),
        *("--backing", "/b", "--backing-format", "raw", "--group", "2", *options.split()),
    )
    target = document.root.find("target")

    assert target is not None
    assert "131072" == target.findtext("clusterSize")
    assert ["lazy_refcounts", "extended_l2"] == [each.tag for each in target.iterfind("features/*")]
    assert ["0640", "1", "2"] == [each.text for each in target.iterfind("permissions/*")]
    assert UUID in document.text
    assert "/b" == document.root.findtext("backingStore/path")


def test_what_a_document_cannot_say_is_noted_on_stderr() -> None:
    """A flag, a resize, the fill; with --script they stand in the script."""
    flag = xmlkit("volume", "create", "p/v", *QCOW2, "--capacity", "1M", "--preallocate", "full")
    copied = xmlkit(
        *("volume", "copy", "p/a", "p/b", "--source-format", "raw", *QCOW2, "--capacity", "1M")
    )
    filled = xmlkit(
        *("volume", "snapshot", "/srv/a", "s", "--source-format", "raw", *QCOW2),
        *("--capacity", "1M", "--compress", "zlib", "--pool", "nova-snapshots-pool=/srv/s"),
    )

    assert "--prealloc-metadata" in flag.stderr
    assert "--inputpool p --vol a" in copied.stderr
    assert "vol-resize" in copied.stderr
    assert "qemu-img convert -f raw -O qcow2 -c -n /srv/a /srv/s/s" in filled.stderr


def test_the_output_file(tmp_path: Path) -> None:
    """As stdout would have it."""
    out = tmp_path / "v.xml"
    arguments = ("volume", "create", "p/v", *RAW, "--capacity", "1M")

    assert "" == xmlkit(*arguments, "-o", str(out)).stdout
    assert xmlkit(*arguments).stdout == out.read_text()


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        ("dir", ["--target", "/srv/p"]),
        ("fs", ["--target", "/srv/p", "--source", "/dev/sdb1", "--source-format", "xfs"]),
        ("netfs", ["--target", "/srv/p", "--source", "nfs1:/export"]),
        ("logical", ["--source", "vg"]),
        ("disk", ["--source", "/dev/sdb", "--source-format", "gpt"]),
        ("rbd", ["--source", "a:6789,b/vms", "--auth-user", "u", "--auth-secret", UUID]),
    ],
)
def test_pool_create_prints_a_document(type_: str, options: list[str]) -> None:
    """One of each type."""
    document = printed("pool", "create", "p", "--type", type_, *options)

    assert ("pool", type_, "p") == (document.kind, document.root.get("type"), document.name)


# What is refused.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--image-format", "volume create p/v --capacity 1M"),
        ("--capacity", "volume create p/v --image-format raw"),
        ("POOL/NAME", "volume create v --image-format raw --capacity 1M"),
        ("POOL/NAME", "volume create /v --image-format raw --capacity 1M"),
        ("POOL/NAME", "volume create p/ --image-format raw --capacity 1M"),
        ("volume-name", "volume create p/a/b --image-format raw --capacity 1M"),
        ("volume-name", "volume create p/.. --image-format raw --capacity 1M"),
        *(
            ("volume-name", f"volume create p/{name} {{raw}} --pool p=logical:/dev/vg")
            for name in ("snapshot1", "pvmove0", "a_tdata", "a:b", "é", "A" * 128, "-a")
        ),
        ("volume-name", "volume copy p/a q/x_mlog {raw} --source-format raw {of_q} --pool p=/p"),
        ("volume-name", "volume snapshot /a q/x_mlog {raw} --source-format raw {of_q}"),
        ("volume-name", "volume copy p/a/b p/c {raw} --source-format raw"),
        ("volume-name", "volume snapshot /a p/a/b {raw} --source-format raw"),
        ("--image-format", "volume copy p/a p/b --source-format raw --capacity 1M"),
        ("--image-format", "volume snapshot /a p/b --source-format raw --capacity 1M"),
        ("--source-format", "volume snapshot /a p/b {raw}"),
        ("pool-source", "pool create p --type logical --source a/b"),
        ("pool-source", "pool create p --type logical --source -vg"),
        ("pool-source", "pool create p --type disk --source /dev/sdb"),
        ("not a size", "volume create p/v --image-format raw --capacity 1X"),
        ("not a mode", "volume create p/v --image-format raw --capacity 1M --mode rw"),
        ("--backing-format", "volume create p/v --image-format qcow2 --backing /b"),
        ("--backing-format", "volume create p/v --image-format qcow2 --backing-format raw"),
        (
            "preallocated",
            "volume create p/v --image-format qcow2 --backing /b --backing-format raw"
            " --preallocate full",
        ),
        (
            "volume-path",
            "volume create p/v --image-format qcow2 --backing b --backing-format raw",
        ),
        ("no pool 'q'", "volume create q/v --image-format raw --capacity 1M --pool p=/p"),
        (
            "volume-format",
            "volume create p/v --image-format qcow2 --capacity 1M --pool p=logical:/dev/vg",
        ),
        (
            "volume-version",
            "volume create p/v --image-format qcow2 --capacity 1M --cluster-size 128K"
            " --assume-libvirt 7.0",
        ),
        ("--source-format", "volume copy p/a p/b --image-format raw"),
        (
            "volume-copy",
            "volume copy p/a q/a --image-format raw --source-format raw --pool p=/p"
            " --pool q=rbd:rbd",
        ),
        (
            "--capacity",
            "volume snapshot /a s --image-format raw --source-format raw"
            " --pool nova-snapshots-pool=/s",
        ),
        (
            "say --pool",
            "volume snapshot /a p/s --image-format raw --source-format raw --capacity 1M",
        ),
        (
            "say --pool",
            "volume snapshot p/a p/s --image-format raw --source-format raw --capacity 1M",
        ),
        ("--type", "pool create p --target /p"),
        ("pool-name", "pool create a/b --type dir --target /p"),
        ("pool-target", "pool create p --type dir"),
        ("pool-source", "pool create p --type fs --target /p"),
        ("pool-source", "pool create p --type netfs --target /p --source /export"),
        ("--auth-secret", "pool create p --type rbd --source h/p --auth-user u"),
        ("pool-auth", "pool create p --type rbd --source h/p --auth-user u --auth-secret AQB"),
    ],
)
def test_wrong_input_is_exit_code_2(words: str, line: str) -> None:
    """In words on stderr, and nothing on stdout, with or without --script."""
    for more in ((), ("--script",)):
        raw, of_q = "--image-format raw --capacity 1M", "--pool q=logical:/dev/vg"
        result = xmlkit(*line.format(raw=raw, of_q=of_q).split(), *more)
        assert (2, "") == (result.exit_code, result.stdout)
        assert words in result.stderr
        assert "Traceback" not in result.stderr


# Scripts.


def pool(libvirtd: Libvirtd, name: str) -> tuple[Path, tuple[str, str]]:
    """A pool made by the script of xmlkit pool create; its directory, and --pool for it."""
    path = libvirtd.directory / name
    works(libvirtd, "pool", "create", name, "--type", "dir", "--target", str(path))
    return path, ("--pool", f"{name}={path}")


def volume(libvirtd: Libvirtd, pool_name: str, name: str) -> Any:
    """libvirt's volume."""
    connection = libvirt.open(libvirtd.uri)
    return connection.storagePoolLookupByName(pool_name).storageVolLookupByName(name)


def test_the_script_of_a_pool(libvirtd: Libvirtd) -> None:
    """Defined, built, running, autostarted; a second run fails and changes nothing."""
    name = "a 'b' $c"
    path, _ = pool(libvirtd, name)
    made = libvirt.open(libvirtd.uri).storagePoolLookupByName(name)
    again = sh(libvirtd, "pool", "create", name, "--type", "dir", "--target", "/srv/elsewhere")

    assert (1, 1, True) == (made.isActive(), made.autostart(), path.is_dir())
    assert 0 != again.returncode
    assert str(path) == etree.fromstring(made.XMLDesc()).findtext("target/path")


def test_the_script_of_a_pool_that_does_not_start(libvirtd: Libvirtd) -> None:
    """Nothing of it is left."""
    done = sh(libvirtd, "pool", "create", "vg", "--type", "logical", "--source", "no-such-group")

    assert 0 != done.returncode
    assert [] == libvirt.open(libvirtd.uri).listAllStoragePools()


def test_the_scripts_of_volumes(libvirtd: Libvirtd) -> None:
    """Blank, overlay, copy and snapshot, one from the other, with names that a shell would eat."""
    path, of = pool(libvirtd, "p")
    snapshots, of_snapshots = pool(libvirtd, "nova-snapshots-pool")
    base, overlay = "base $HOME", "it's an overlay"
    works(libvirtd, "volume", "create", f"p/{base}", *RAW, "--capacity", "8M", *of)
    content = b"".join(b"%-511d\n" % number for number in range(8192)).ljust(8 * MIB, b"\0")
    (path / base).write_bytes(content)
    works(
        *(libvirtd, "volume", "create", f"p/{overlay}", *QCOW2, *of),
        *("--backing", f"{path}/{base}", "--backing-format", "raw"),
    )
    works(
        *(libvirtd, "volume", "copy", f"p/{base}", "p/copy", *QCOW2, "--source-format", "raw"),
        *("--capacity", "16M", *of),
    )
    for compress in ("zlib", "zstd"):
        works(
            *(libvirtd, "volume", "snapshot", f"p/{overlay}", compress, *QCOW2, *of),
            *(*of_snapshots, "--source-format", "qcow2", "--capacity", "8M"),
            *("--compress", compress),
        )
        compressed = snapshots / compress
        run(
            *("qemu-img", "compare", "-f", "raw", "-F", "qcow2", f"{path}/{base}"),
            str(compressed),
        )
        run("qemu-img", "check", "-f", "qcow2", str(compressed))
        assert compressed.stat().st_blocks * 512 < MIB

    assert 16 * MIB == volume(libvirtd, "p", "copy").info()[1]
    backing = etree.fromstring(volume(libvirtd, "p", overlay).XMLDesc()).find("backingStore")
    assert backing is not None
    assert f"{path}/{base}" == backing.findtext("path")


def test_the_host_may_be_observed(libvirtd: Libvirtd) -> None:
    """By --connect: pool, path and size of the source are known; a volume that is there is not."""
    pool(libvirtd, "p")
    pool(libvirtd, "nova-snapshots-pool")
    works(libvirtd, "volume", "create", "p/v", *RAW, "--capacity", "8M")
    connect = ("--connect", libvirtd.uri)
    works(libvirtd, "volume", "snapshot", "p/v", "s", *QCOW2, "--source-format", "raw", *connect)
    again = xmlkit("volume", "create", "p/v", *RAW, "--capacity", "8M", *connect)
    other = xmlkit(
        *("volume", "snapshot", "p/v", "t", *QCOW2, "--source-format", "qcow2", *connect)
    )

    assert 8 * MIB == volume(libvirtd, "nova-snapshots-pool", "s").info()[1]
    assert (2, "") == (again.exit_code, again.stdout)
    assert "volume-exists" in again.stderr
    assert (2, "") == (other.exit_code, other.stdout)
    assert "format-disagrees" in other.stderr


def test_the_script_of_a_snapshot_that_fails_leaves_no_volume(libvirtd: Libvirtd) -> None:
    """A source that is not there: the volume that was made for it is deleted."""
    _, of = pool(libvirtd, "nova-snapshots-pool")
    done = sh(
        *(libvirtd, "volume", "snapshot", "/srv/no-such", "s", *RAW, *of),
        *("--source-format", "raw", "--capacity", "1M"),
    )
    connection = libvirt.open(libvirtd.uri)

    assert 1 == done.returncode
    assert "no-such" in done.stderr
    assert [] == connection.storagePoolLookupByName("nova-snapshots-pool").listAllVolumes()
