"""The lines that Nova itself would carry, as the guide has them: they fit, and do the same."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import guests
import pytest
from guests import GUESTS, UUID
from lookups import Seen
from nova.virt.libvirt import driver, guest, migration

import xmlkit.nova
from xmlkit import Options
from xmlkit.host import Host, Pool, Volume

PAGE = Path(__file__, "../../../docs/nova.md").resolve().read_text()
BLOCK = PAGE.partition("```diff\n")[2].partition("```")[0]
MODULES = {"driver": driver, "guest": guest, "migration": migration}
NAMES = ("disk", "disk.local", "disk.swap")


class Hunk(NamedTuple):
    """Lines of one function: those that are there, and those in their place."""

    module: str
    function: str
    old: str
    new: str


def hunks() -> list[Hunk]:
    """As the page has them; the imports are not of a function."""
    found = []
    for part in BLOCK.split("\n\n"):
        head, *lines = part.strip().splitlines()
        place = re.match(r"# (\w+)\.py, ([\w.]+?)(:|$)", head)
        if place is None or place[2].endswith(".py"):
            continue
        old, new = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+")
        found.append(Hunk(place[1], place[2], old, new))
    return found


HUNKS = hunks()


def patched(hunk: Hunk, names: dict[str, Any]) -> tuple[Any, str, Any]:
    """The owner of the function, its name there, and the function with the page's lines."""
    owner: Any = MODULES[hunk.module]
    *classes, name = hunk.function.split(".")
    for each in classes:
        owner = getattr(owner, each)
    source = inspect.getsource(vars(owner)[name])
    assert 1 == source.count(f"{hunk.old}\n"), hunk
    source = textwrap.dedent(source.replace(hunk.old, hunk.new))
    found = {**vars(MODULES[hunk.module]), **names}
    exec("from __future__ import annotations\n" + source, found)  # noqa: S102 -- the page's lines
    return owner, name, found[name]


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Nova as it would be; called with a host and what stands in transition()'s place."""

    def put(host: Host, transition: Callable[..., None] = lambda *_: None) -> dict[str, Any]:
        names: dict[str, Any] = {}
        imports = BLOCK.partition("\n\n")[0].splitlines()[1:]
        exec("\n".join(line[1:] for line in imports), names)  # noqa: S102 -- the page's lines
        names |= {"libvirt_storage": Seen(host), "destination": host, "transition": transition}
        for hunk in HUNKS:
            monkeypatch.setattr(*patched(hunk, names))
        return names

    yield put
    xmlkit.nova.disable()


def host_of(instances: Path) -> Host:
    """A host with the volumes of the instance."""
    directory = f"{instances}/disks"
    volumes = tuple(
        Volume("nova-disks-pool", f"{UUID}_{name}", f"{directory}/{UUID}_{name}", capacity=1)
        for name in NAMES
    )
    pool = Pool("nova-disks-pool", "dir", directory, volumes=volumes)
    return Host(9_000_000, "qemu", (), (pool,))


def answers(case: Any) -> list[Any]:
    """What Nova writes, reads, and sends elsewhere."""
    wanted = GUESTS["qcow2-ephemeral-swap"]
    made = guests.driver_of(case, wanted)
    xml = guests.xml_of(wanted, made)
    found = guests.guest_of(xml, made._host.get_connection)
    asked = found._domain.migrateToURI3 = mock.Mock()
    found.migrate("qemu+tcp://there/system", migrate_disks=["vda"], destination_xml=xml)
    path = found.get_config().devices[0].source_path
    return [
        xml,
        [each.source_path for each in found.get_config().devices if each.root_name == "disk"],
        [each.source_path for each in found.get_all_disks()],
        found.get_disk(path).target_dev,
        asked.call_args.kwargs["params"],
        guests.migrated(wanted, xml, made),
    ]


def test_they_are_few() -> None:
    """Sixty at most, with those in whose place they are."""
    assert 7 == len(HUNKS)
    lines = [line for line in BLOCK.splitlines() if line.startswith(("+", "-"))]
    assert len(lines) <= 60


def test_they_do_what_the_seams_do(
    nova_case: Any, tmp_path: Path, carried: Callable[..., dict[str, Any]]
) -> None:
    """Written, read and migrated, byte for byte."""
    guests.prepare(nova_case, str(tmp_path))
    host = host_of(tmp_path)
    xmlkit.nova.enable(lookup=Seen(host), destination=lambda _: host)
    expected = answers(nova_case)
    assert expected[0].count('type="volume"') == len(NAMES)
    xmlkit.nova.disable()
    carried(host)
    assert expected == answers(nova_case)


def test_an_instance_comes_over_before_it_starts(
    nova_case: Any, tmp_path: Path, carried: Callable[..., dict[str, Any]]
) -> None:
    """After it has been defined."""
    guests.prepare(nova_case, str(tmp_path))
    order: list[Any] = []
    carried(host_of(tmp_path), lambda _, uuid, options: order.append((uuid, options)))
    wanted = GUESTS["qcow2-ephemeral-swap"]
    made = guests.driver_of(nova_case, wanted)
    started = mock.Mock(launch=lambda **_: order.append("starts"))

    def create(*_: Any) -> Any:
        order.append("defined")
        return started

    with mock.patch.object(guest.Guest, "create", create):
        made._create_guest(None, "<domain/>", guests.instance_of(wanted))
    accepted = ("nova-unaware", "image-cache")
    options = Options(relocate={None: "nova-disks-pool"}, accept=accepted)
    assert ["defined", (UUID, options), "starts"] == order
