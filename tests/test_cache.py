"""What is to become of the images of a cache, as a function of what stands on them.

Rules
- What is at a path is a dictionary here; on real images it is tried in test_prune.py.
- Laws by hypothesis: what is reached by declared formats is never removed, and to know of one more
  disk never removes more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmlkit.cache import (
    AGES,
    Base,
    Cache,
    Image,
    Look,
    Use,
    as_data,
    judge,
    kind_of,
    name_of_image,
    protected_name,
    time_of,
    use_of,
    uses_of,
)
from xmlkit.document import Document
from xmlkit.host import Host, Pool, Volume
from xmlkit.survey import Backing, Guest

CACHE = "/instances/_base"
NOW = 2_000_000_000.0
OLD = NOW - 1_000_000
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
A, B, C = (name_of_image(letter) for letter in "abc")
DISKS = Pool("disks", "dir", "/instances/disks", volumes=())
HOST = Host(pools=(DISKS, Pool("rbd", "rbd", ""), Pool("off", "iscsi", "/dev", active=False)))

Header = tuple[str, str | None]


def look_in(headers: dict[str, Header | None], unseen: str = "") -> Look:
    """A look at a file system: each path with the backing file and its format, None for none."""

    def look(path: str, format: str) -> Image:
        if path == unseen:
            return Image(path, format, "unseen", error="not permitted")
        if path not in headers:
            return Image(path, format, "missing")
        header = headers[path]
        return Image(path, format, "there", None if header is None else Backing(*header))

    return look


def base(name: str, modified: float | None = OLD, **changes: Any) -> Volume:
    made = Volume("cache", name, f"{CACHE}/{name}", format="raw", allocation=10, modified=modified)
    return replace(made, **changes)


def judged(*volumes: Volume, uses: Any = (), **options: Any) -> Cache:
    pool = Pool("cache", "dir", CACHE, volumes=volumes)
    return judge(pool, uses, now=NOW, **options)


def verdicts(cache: Cache) -> dict[str, tuple[str, str]]:
    return {each.name: (each.verdict, each.reason.id) for each in cache.bases}


def disk(source: str, format: str = "qcow2", more: str = "", target: str = "vda") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{format}'/>"
        f"<source file='{source}'/>{more}<target dev='{target}'/></disk>"
    )


def domain(*devices: str, os: str = "") -> Document:
    return Document.parse(
        f"<domain type='kvm'><name>guest</name><uuid>{UUID}</uuid><os>{os}</os>"
        f"<devices>{''.join(devices)}</devices></domain>"
    )


def guest(*devices: str, **changes: Any) -> Guest:
    return replace(Guest(UUID, "guest", domain(*devices)), **changes)


def reached(found: Guest, headers: dict[str, Header | None]) -> set[str]:
    """The names in the cache that a guest reaches."""
    uses = uses_of(found, HOST, look_in(headers))
    paths = {image.path for use in uses for image in use.images}
    return {path.removeprefix(f"{CACHE}/") for path in paths if path.startswith(CACHE)}


# Names.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (A, "original"),
        (f"{A}_sm", "resized"),
        (f"{A}_10737418240", "resized"),
        ("swap_1000", "swap"),
        ("ephemeral_20_abcdefg", "ephemeral"),
        ("ephemeral_456_40d1d2c", "ephemeral"),
        (f"{A}.part", "unknown"),
        (f"{A}.converted", "unknown"),
        (f"{A}_", "unknown"),
        (f"{A}_10G", "unknown"),
        (A[:-1], "unknown"),
        (A[:-1] + "g", "unknown"),
        (A.upper(), "unknown"),
        ("swap_", "unknown"),
        ("swap_abc", "unknown"),
        ("123_swap", "unknown"),
        ("swap_129_", "unknown"),
        ("ephemeral_", "unknown"),
        ("ephemeral_123", "unknown"),
        ("ephemeral_abc_40d1f2e", "unknown"),
        ("123_ephemeral_40e1d2d", "unknown"),
        ("ephemeral_129_", "unknown"),
        ("ephemeral_0_20_None", "unknown"),
        ("00000001", "unknown"),
    ],
)
def test_an_images_name_says_its_kind(name: str, kind: str) -> None:
    """As Nova's manager tells them, but that a digest has to be one."""
    assert kind == kind_of(name)


def test_the_name_of_an_image_is_novas() -> None:
    """The SHA-1 of its id in Glance: the pair is Nova's own test's."""
    expected = "0d5e6b61602d758984b3bf038267614d6016eb2a"
    assert expected == name_of_image("fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0")
    assert expected == protected_name("fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0")


@pytest.mark.parametrize(
    ("text", "name"), [(A, A), (f"{CACHE}/{A}_sm", f"{A}_sm"), ("mine", None), ("", None)]
)
def test_what_is_protected_is_named_by_name_or_path(text: str, name: str | None) -> None:
    """What is none of Nova's cannot be protected, since it is never removed."""
    assert name == protected_name(text)


# Verdicts.


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (base(A), ("remove", "cache-unused")),
        (base(A, NOW - 86_399), ("young", "cache-young")),
        (base(A, NOW - 86_400), ("remove", "cache-unused")),
        (base(f"{A}_sm", NOW - 3_599), ("young", "cache-young")),
        (base(f"{A}_100", NOW - 3_600), ("remove", "cache-unused")),
        (base("swap_10", NOW - 3_600), ("young", "cache-young")),
        (base("swap_10"), ("remove", "cache-unused")),
        (base("ephemeral_2_41e1f2c", NOW - 3_600), ("young", "cache-young")),
        (base("ephemeral_2_41e1f2c"), ("remove", "cache-unused")),
        (base(A, NOW + 60), ("young", "cache-young")),
        (base(A, None), ("young", "cache-young")),
        (base("mine"), ("keep", "cache-foreign")),
        (base(f"{A}.part"), ("keep", "cache-foreign")),
        (base(A, link=True), ("keep", "cache-link")),
        (base(A, type="dir"), ("keep", "cache-link")),
    ],
)
def test_what_nobody_uses_is_judged_by_name_kind_and_age(
    volume: Volume, expected: tuple[str, str]
) -> None:
    """A day, an hour for a resized one, as in Nova; what is no image of Nova's stays."""
    assert {volume.name: expected} == verdicts(judged(volume))


def test_the_ages_are_options() -> None:
    """Each kind has its own."""
    volumes = base(A, NOW - 50), base(f"{A}_1", NOW - 50)

    found = verdicts(judged(*volumes, ages={**AGES, "original": 40, "resized": 60}))

    assert {A: "remove", f"{A}_1": "young"} == {
        name: verdict for name, (verdict, _) in found.items()
    }


def test_what_is_used_stays_whatever_its_age_and_names_its_users() -> None:
    """Also what is none of Nova's has its users named."""
    use = use_of(
        "/d",
        "qcow2",
        look_in({"/d": (f"{CACHE}/{A}", "raw"), f"{CACHE}/{A}": None}),
        domain="guest",
        uuid=UUID,
        target="vda",
    )

    cache = judged(base(A), base(B), uses=[use])

    assert {A: ("keep", "cache-used"), B: ("remove", "cache-unused")} == verdicts(cache)
    assert ("guest vda", (use,)) == (
        cache.bases[0 if cache.bases[0].name == A else 1].reason.message,
        next(each.used_by for each in cache.bases if each.name == A),
    )
    assert (base(B).name,) == tuple(each.name for each in cache.removable)


def test_what_others_name_is_protected_with_what_was_resized_from_it() -> None:
    """An image in Glance protects all that comes from it; a resized one protects itself alone."""
    volumes = base(A), base(f"{A}_1"), base(B), base(f"{B}_1")

    found = verdicts(judged(*volumes, protected={A: "x", f"{B}_1": "y"}))

    kept = {name for name, (verdict, _) in found.items() if verdict == "keep"}
    assert {A, f"{A}_1", f"{B}_1"} == kept
    assert ("keep", "cache-protected") == found[A]


def test_an_image_that_is_used_under_another_path_is_used() -> None:
    """Two paths, one file: a bind mount, or a directory that is a link."""
    use = Use("guest", UUID, "vda", "", (Image(f"/data/_base/{A}", "raw", identity=(1, 2)),))
    identities = {f"{CACHE}/{A}": (1, 2, 3), f"{CACHE}/{B}": (1, 3, 3)}

    found = verdicts(judged(base(A), base(B), uses=[use], identities=identities))

    assert {A: ("keep", "cache-used"), B: ("remove", "cache-unused")} == found


# Chains.


def test_a_chain_is_followed_to_its_end() -> None:
    """Through images wherever they are, each with the format that the one above says."""
    headers: dict[str, Header | None] = {
        "/d/top": ("middle", "qcow2"),
        "/d/middle": (f"{CACHE}/{A}_1", "qcow2"),
        f"{CACHE}/{A}_1": (A, "raw"),
        f"{CACHE}/{A}": (B, "raw"),
    }

    use = use_of("/d/top", "qcow2", look_in(headers))

    expected = ["/d/top", "/d/middle", f"{CACHE}/{A}_1", f"{CACHE}/{A}"]
    assert (expected, None) == ([image.path for image in use.images], use.fault)


@pytest.mark.parametrize("format", ["raw", "aio", "vdi", "vpc", "fat", ""])
def test_what_a_guest_writes_to_a_raw_disk_counts_for_nothing(format: str) -> None:
    """It would pin an image, or hide that it uses one, by a header of its own."""
    headers: dict[str, Header | None] = {"/d/fake": (f"{CACHE}/{A}", "raw"), f"{CACHE}/{A}": None}
    driver = disk("/d/fake", format) if format else disk("/d/fake").replace(" type='qcow2'", "")

    assert set() == reached(guest(driver), headers)
    assert {A} == reached(guest(disk("/d/fake")), headers)


def test_an_undeclared_format_below_is_not_guessed() -> None:
    """What is named counts, and that is the end: libvirt starts no such guest."""
    headers: dict[str, Header | None] = {
        "/d/top": (f"{CACHE}/{A}", None),
        f"{CACHE}/{A}": (f"{CACHE}/{B}", "raw"),
        f"{CACHE}/{B}": None,
    }

    assert {A} == reached(guest(disk("/d/top")), headers)


def test_a_base_that_is_gone_is_missing_and_puts_none_in_doubt() -> None:
    """Its guests are named; the others' images are judged as ever."""
    use = use_of(
        "/d",
        "qcow2",
        look_in({"/d": (f"{CACHE}/{A}", "raw")}),
        domain="guest",
        uuid=UUID,
        target="vda",
    )

    cache = judged(base(B), uses=[use])

    assert {A: ("missing", "cache-missing"), B: ("remove", "cache-unused")} == verdicts(cache)
    missing = next(each for each in cache.bases if each.name == A)
    assert ("original", (use,)) == (missing.kind, missing.used_by)
    assert "guest vda" in missing.reason.message
    assert (use,) == cache.broken


@pytest.mark.parametrize(
    ("headers", "unseen", "id"),
    [
        pytest.param({}, "", "cache-broken", id="top"),
        pytest.param({"/d": ("/middle", "qcow2")}, "", "cache-broken", id="middle"),
        pytest.param({"/d": ("/e", "qcow2"), "/e": ("/d", "qcow2")}, "", "cache-broken", id="loop"),
        pytest.param({"/d": None}, "/d", "cache-unread", id="unseen"),
        pytest.param({"/d": ("json:{}", "qcow2")}, "", "cache-unread", id="json"),
        pytest.param({"/d": ("nbd://x/y", "raw")}, "", "cache-unread", id="network"),
    ],
)
def test_a_chain_that_does_not_end_may_end_anywhere(
    headers: dict[str, Header | None], unseen: str, id: str
) -> None:
    """Then nothing is removed; only what is missing may be given up."""
    use = use_of("/d", "qcow2", look_in(headers, unseen), domain="guest", target="vda")

    cache = judged(base(A), base("mine"), uses=[use])
    accepted = judged(base(A), uses=[use], accept=["cache-broken"])

    assert use.fault is not None
    assert (id, (use,)) == (use.fault.id, cache.broken)
    assert {A: ("keep", "cache-doubt"), "mine": ("keep", "cache-foreign")} == verdicts(cache)
    given_up = "remove" if id == "cache-broken" else "keep"
    assert given_up == accepted.bases[0].verdict
    assert "guest vda: " in cache.bases[-1 if cache.bases[-1].name == A else 0].reason.message


def test_a_chain_has_an_end() -> None:
    """Two hundred images, as libvirt has it."""
    headers: dict[str, Header | None] = {f"/{n}": (f"/{n + 1}", "qcow2") for n in range(1000)}

    use = use_of("/0", "qcow2", look_in(headers))

    assert use.fault is not None
    assert (200, "cache-broken") == (len(use.images), use.fault.id)


def test_a_raw_disk_that_is_missing_is_no_broken_chain() -> None:
    """It cannot stand on anything."""
    assert None is use_of("/d", "raw", look_in({})).fault


# What counts as a use.

CHAIN: dict[str, Header | None] = {
    "/d/a": (f"{CACHE}/{A}", "raw"),
    "/d/b": (f"{CACHE}/{B}", "raw"),
    f"{CACHE}/{A}": None,
    f"{CACHE}/{B}": None,
    f"{CACHE}/{C}": None,
    "/instances/disks/v": (f"{CACHE}/{C}", "raw"),
}
VOLUME = disk("").replace("type='file'", "type='volume'").replace("file=''", "pool='{}' volume='v'")


@pytest.mark.parametrize(
    ("found", "names"),
    [
        pytest.param(guest(disk("/d/a")), {A}, id="persistent"),
        pytest.param(guest(live=domain(disk("/d/a"))), {A}, id="live"),
        pytest.param(guest(disk("/d/b"), live=domain(disk("/d/a"))), {A, B}, id="both"),
        pytest.param(guest(managed_save=True, saved=domain(disk("/d/a"))), {A}, id="saved"),
        pytest.param(guest(disk(f"{CACHE}/{A}", "raw")), {A}, id="directly"),
        pytest.param(guest(disk(f"/{CACHE}//{A}", "raw")), set(), id="two-slashes-in-front"),
        pytest.param(guest(disk(f"/instances//_base/{A}", "raw")), {A}, id="slashes"),
        pytest.param(guest(VOLUME.format("disks")), {C}, id="volume"),
        pytest.param(
            guest(
                disk(
                    "/d/b",
                    more="<backingStore type='file'><format type='qcow2'/><source file='/d/a'/>"
                    "<backingStore/></backingStore>",
                )
            ),
            {A, B},
            id="backing-store",
        ),
        pytest.param(
            guest(
                disk("/d/b"),
                live=domain(
                    disk(
                        "/d/b",
                        more="<mirror type='file'><format type='qcow2'/><source file='/d/a'/>"
                        "</mirror>",
                    )
                ),
            ),
            {A, B},
            id="mirror",
        ),
        pytest.param(
            guest(
                snapshots=(
                    Document.parse(
                        "<domainsnapshot><name>s</name><disks><disk name='vda' type='file'>"
                        "<driver type='qcow2'/><source file='/d/a'/></disk></disks><domain>"
                        f"<devices>{disk('/d/b')}</devices></domain><inactiveDomain><devices>"
                        f"{disk(f'{CACHE}/{C}', 'raw')}</devices></inactiveDomain></domainsnapshot>"
                    ),
                )
            ),
            {A, B, C},
            id="snapshot",
        ),
        pytest.param(
            guest(
                checkpoints=(
                    Document.parse(
                        "<domaincheckpoint><name>c</name><domain><devices>"
                        f"{disk('/d/a')}</devices></domain></domaincheckpoint>"
                    ),
                )
            ),
            {A},
            id="checkpoint",
        ),
        pytest.param(
            Guest(UUID, "guest", domain(os=f"<kernel>{CACHE}/{A}</kernel>")), {A}, id="kernel"
        ),
        pytest.param(guest(disk("/d/a").replace("'file'", "'network'")), set(), id="network"),
        pytest.param(guest("<disk type='file' device='cdrom'/>"), set(), id="empty"),
        pytest.param(guest(VOLUME.format("rbd")), set(), id="rbd"),
    ],
)
def test_all_that_libvirt_has_of_a_domain_counts(found: Guest, names: set[str]) -> None:
    """Each document, each disk in it, and every other place that names an image."""
    assert names == reached(found, CHAIN)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(guest(VOLUME.format("nowhere")), id="no-pool"),
        pytest.param(guest(VOLUME.format("off")), id="pool-off"),
        pytest.param(guest(managed_save=True), id="managed-save"),
    ],
)
def test_a_disk_that_cannot_be_found_keeps_all(found: Guest) -> None:
    """A pool that is not there, or a managed save that libvirt cannot read: nobody knows."""
    uses = list(uses_of(found, HOST, look_in(CHAIN)))

    assert ["cache-unread"] == [use.fault.id for use in uses if use.fault is not None]
    accept = ["cache-broken"]
    assert {A: ("keep", "cache-doubt")} == verdicts(judged(base(A), uses=uses, accept=accept))


def test_what_two_documents_say_alike_is_told_once() -> None:
    """The live XML has the chain as libvirt found it, and that is the persistent XML's."""
    running = disk(
        "/d/a",
        more=f"<backingStore type='file' index='1'><format type='raw'/><source file='{CACHE}/{A}'/>"
        "<backingStore/></backingStore>",
    )

    uses = list(uses_of(guest(disk("/d/a"), live=domain(running)), HOST, look_in(CHAIN)))

    assert [("", "vda", "guest vda")] == [(use.where, use.target, use.title) for use in uses]


# What is told.


def test_json_has_all_of_it() -> None:
    """What nobody declares has no domain, and says so."""
    use = use_of(
        "/d",
        "qcow2",
        look_in({"/d": (f"{CACHE}/{A}", "raw"), f"{CACHE}/{A}": None}),
        where="undeclared",
    )

    data = as_data(judged(base(A), uses=[use]))

    (found,) = data["bases"]
    assert ("keep", "cache-undeclared") == (found["verdict"], found["id"])
    (used_by,) = found["used_by"]
    assert (None, "undeclared", ["/d", f"{CACHE}/{A}"]) == tuple(
        used_by[key] for key in ("domain", "where", "images")
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 m"),
        (3_600, "1 h"),
        (86_399, "23 h"),
        (2e5, "2 d"),
    ],
)
def test_a_time_is_told_in_one_unit(seconds: float, text: str) -> None:
    """Rounded down."""
    assert text == time_of(seconds)


# Laws.

PATHS = [f"/d/{n}" for n in range(4)] + [f"{CACHE}/{name}" for name in (A, B, f"{A}_1", "mine")]
FORMATS = st.sampled_from(["raw", "qcow2"])
HEADERS = st.dictionaries(
    st.sampled_from(PATHS),
    st.none() | st.tuples(st.sampled_from(PATHS), FORMATS),
)
TOPS = st.lists(st.tuples(st.sampled_from(PATHS), FORMATS), max_size=4)


def bases_of(headers: dict[str, Header | None]) -> list[Volume]:
    """The images that are there, in the cache."""
    return [base(path.rpartition("/")[2]) for path in headers if path.startswith(CACHE)]


@given(HEADERS, TOPS)
def test_what_a_declared_chain_reaches_is_never_removed(
    headers: dict[str, Header | None], tops: list[tuple[str, str]]
) -> None:
    """Told by another walk: without a limit, and without a verdict."""
    uses = [use_of(path, format, look_in(headers), domain="guest") for path, format in tops]
    walked, todo = set(), list(tops)
    while todo:
        at = todo.pop()
        if at in walked:
            continue
        walked.add(at)
        header = headers.get(at[0]) if at[1] == "qcow2" else None
        if header is not None:
            todo.append((header[0], header[1] or "raw"))

    removed = {each.path for each in judged(*bases_of(headers), uses=uses).removable}

    assert set() == removed & {path for path, _ in walked}
    assert f"{CACHE}/mine" not in removed


@given(HEADERS, TOPS, st.tuples(st.sampled_from(PATHS), FORMATS))
def test_to_know_of_one_more_disk_removes_no_more(
    headers: dict[str, Header | None], tops: list[tuple[str, str]], more: tuple[str, str]
) -> None:
    """And of each image there is one verdict."""

    def removed(given: list[tuple[str, str]]) -> set[str]:
        uses = [use_of(path, format, look_in(headers), domain="guest") for path, format in given]
        found: tuple[Base, ...] = judged(*bases_of(headers), uses=uses).bases
        assert len(found) == len({each.path for each in found})
        assert {volume.path for volume in bases_of(headers)} <= {each.path for each in found}
        return {each.path for each in found if each.verdict == "remove"}

    assert removed([*tops, more]) <= removed(tops)
