"""The review page: what it says is so, it hides what is secret, and nothing in it is anybody's."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html
from strategies import LAWS

from xmlkit.diff import Preview, preview
from xmlkit.disks import Address
from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.plan import Plan, Reason, Skip, Transition, plan
from xmlkit.preflight import Concern
from xmlkit.printable import printable
from xmlkit.redaction import redact_pair
from xmlkit.review import Layer, Review, html, layers_of, review
from xmlkit.rules import RULES
from xmlkit.steps import steps_of
from xmlkit.survey import Backing, File, Survey

FIXTURES = Path(__file__).parents[1] / "fixtures"
POOL = "nova-disks-pool"
HOST = Host(
    9_000_000,
    "qemu",
    (),
    (Pool(POOL, "dir", "/var/lib/nova/instances/disks"), Pool("images", "dir", "/srv/images")),
)
GUESTS = sorted(
    path
    for path in (*FIXTURES.glob("*.xml"), *FIXTURES.glob("nova/*.xml"))
    if path.name != "every-pool-type.xml"
)
MOVED = FIXTURES / "nova/qcow2-ephemeral-swap.xml"
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
HOSTILE = (
    "<script>hacked=1</script>",
    "\"'><img src=x onerror=hacked=1>",
    "--></style></textarea><svg onload=hacked=1>",
    "</summary></details><h1>x</h1>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:hacked=1",
    "\u202egnp.exe\u2066",
)


def made(path: Path, **options: Any) -> Preview:
    """The preview of a fixture on a host with two pools."""
    document = Document.parse(path.read_bytes())
    return preview(path.name, document, plan(document, HOST, relocate={None: POOL}, **options))


def page(*reviews: Review, **options: Any) -> Any:
    """A page, parsed."""
    return lxml_html.document_fromstring(text(*reviews, **options))


def text(*reviews: Review, **options: Any) -> str:
    """A page of a day long ago."""
    given: dict[str, Any] = {"to": "volume", "host": HOST, "at": "2020-02-02 20:20 UTC"}
    return html(reviews, **given | {"version": "0.0"} | options)


@pytest.fixture(scope="module")
def all_of_them() -> Any:
    """The page of all fixtures."""
    return page(*(review(made(path)) for path in GUESTS))


def named(root: Any, name: str) -> list[Any]:
    """The elements that have a class."""
    found: list[Any] = root.find_class(name)
    return found


def cells(domain: Any) -> Iterator[tuple[tuple[str, str, str], tuple[str, str, str]]]:
    """(number, sign, text) of each line of a difference, before and after."""
    for row in domain.iterfind(".//table/tbody/tr"):
        halves = []
        for number, line in zip(row[::2], row[1::2], strict=True):
            first, _, sign = (number.text or "").partition(" ")
            halves.append((first, sign, line.text_content()))
        yield halves[0], halves[1]


def test_each_domain_is_there_with_all_its_disks(all_of_them: Any) -> None:
    """In the order in which they were given, with a picture a disk."""
    domains = named(all_of_them, "domain")
    expected = [made(path).plan for path in GUESTS]

    assert len(GUESTS) == len(domains)
    assert [each.name for each in expected] == [each.findtext(".//h3") for each in domains]
    assert [len(each.disks) for each in expected] == [
        len(each.findall(".//figure")) for each in domains
    ]


def test_the_difference_is_that_of_the_documents(all_of_them: Any) -> None:
    """Every line stands beside its number as the document has it, but for secrets."""
    lines = 0
    for path, domain in zip(GUESTS, named(all_of_them, "domain"), strict=True):
        shown = made(path)
        both = redact_pair(shown.before.text, shown.after.text)
        old, new = (["", *map(printable, each.split("\n"))] for each in both)
        changed_old, changed_new = set(), set()
        for (left, minus, before), (right, plus, after) in cells(domain):
            if left:
                assert old[int(left)] == before
            if right:
                assert new[int(right)] == after
            if not minus and not plus:
                assert before == after
            if minus:
                changed_old.add(int(left))
            if plus:
                changed_new.add(int(right))
            lines += 1
        # what is not marked is the same in both
        rest = [
            [line for number, line in enumerate(lines_) if number not in changed]
            for lines_, changed in ((old, changed_old), (new, changed_new))
        ]
        assert rest[0] == rest[1]
    assert lines > 100


def test_what_differs_in_a_line_is_whole_words() -> None:
    """Type and source of a disk, and nothing that both have."""
    (domain,) = named(page(review(made(FIXTURES / "nova/qcow2-file.xml"))), "domain")

    assert ["file", f'file="/var/lib/nova/instances/{UUID}/disk'] == [
        each.text_content() for each in domain.iter("del")
    ]
    assert ["volume", f'pool="{POOL}" volume="{UUID}_disk'] == [
        each.text_content() for each in domain.iter("ins")
    ]


def test_the_steps_are_those_of_the_plan_there_and_back() -> None:
    """As they are typed; what each means stands at the first of a kind."""
    shown = made(MOVED)
    (domain,) = named(page(review(shown)), "domain")
    there, back = named(domain, "steps")

    assert list(map(str, steps_of(shown.plan))) == [each.text for each in there.iter("code")]
    assert list(map(str, steps_of(shown.plan.inverse()))) == [
        each.text for each in back.iter("code")
    ]
    meanings = [each.text or "" for each in there.iter("span")]
    assert 1 == sum("point of no return" in each for each in meanings)
    assert f"xmlkit rollback ID {UUID}" in domain.text_content()


def test_a_live_document_has_no_steps() -> None:
    """They are the migration's."""
    (domain,) = named(page(review(made(FIXTURES / "file-in-pool.xml", live=True))), "domain")

    assert [] == named(domain, "steps")
    assert "No steps" in domain.text_content()


def test_each_finding_says_what_to_do(all_of_them: Any) -> None:
    """With the remedy of its rule, and a link to what it means."""
    remarks = [each for domain in named(all_of_them, "domain") for each in domain.iterfind(".//li")]
    remarks = [each for each in remarks if "remarks" in (each.getparent().get("class") or "")]
    ids = {each.get("id") for each in all_of_them.iter("div") if each.get("id")}

    assert len(remarks) > 30
    for remark in remarks:
        link = remark.find("a")
        assert RULES[link.text].remedy in remark.text_content()
        assert link.get("href").removeprefix("#") in ids
    for id in ids - {"list"}:
        meaning = all_of_them.get_element_by_id(id).text_content()
        assert RULES[id.removeprefix("id-")].why in meaning


def test_what_the_host_says_is_told() -> None:
    """A refusal of preflight makes the domain a refused one; an accepted one does not."""
    shown = made(MOVED)
    refused = review(shown, concerns=[Concern("running", "it runs", "")])
    accepted = review(shown, concerns=[Concern("apparmor", "confined", "vda", "warn", True)])

    assert "refused" == refused.state
    assert "changes" == accepted.state
    assert refused.attention
    assert accepted.attention
    (domain,) = named(page(refused), "domain")
    assert RULES["running"].remedy in domain.text_content()
    (domain,) = named(page(accepted), "domain")
    assert "confined (accepted)" in domain.text_content()


def test_states_are_told_apart(tmp_path: Path) -> None:
    """Changes, stays, refused, broken: and each is counted in the summary."""
    changes = review(made(MOVED))
    stays = review(made(FIXTURES / "volume-disk.xml"))
    refused = review(made(FIXTURES / "mirror.xml"))
    shown = made(MOVED)
    finding = review(made(FIXTURES / "invalid-misspelled.xml"))
    broken = review(
        shown._replace(findings_after=made(FIXTURES / "invalid-misspelled.xml").findings_before)
    )

    assert ["changes", "stays", "refused", "broken"] == [
        each.state for each in (changes, stays, refused, broken)
    ]
    assert (False, False) == finding.valid
    summary = named(page(changes, changes, stays, refused, broken), "numbers")[0]
    numbers = {
        (each.findtext("dt") or ""): each.findtext("dd") for each in summary.iterchildren("div")
    }
    assert {"will change": "2", "stay": "1", "refused": "1", "invalid after": "1"}.items() <= (
        numbers.items()
    )


@pytest.mark.parametrize("form", ["wide", "tall"])
def test_an_address_is_in_its_box_whole(form: str) -> None:
    """However it is broken into lines; and the pool around the volume is named."""
    (domain,) = named(page(review(made(MOVED))), "domain")
    for svg, name in zip(named(domain, form), ("disk", "disk.local", "disk.swap"), strict=True):
        texts = "".join(each.text for each in named(svg, "name"))
        assert f"/var/lib/nova/instances/{UUID}/{name}{UUID}_{name}" == texts
        path = "".join(each.text for each in named(svg, "at"))
        assert f"/var/lib/nova/instances/disks/{UUID}_{name}" == path
        assert f"pool {POOL}" in [each.text for each in svg.iter("text")]
        assert f"volume {POOL}/{UUID}_{name}" in svg.get("aria-label")


def test_a_long_address_is_cut_in_the_picture_alone() -> None:
    """What a screen reader says of it, and the search, have it whole."""
    path = "/" + "x" * 400
    skip = Skip("vda", Address("file", path), "raw", Reason("outside-pools", "no pool"))
    document = Document.parse("<domain><name>a</name></domain>")
    told = review(Preview("a", Plan("volume", "a", "", (skip,)), document, document, (), ()))

    assert "…" in told.pictures[0].before.name
    assert path in told.pictures[0].said
    assert path in told.words


@pytest.mark.parametrize("form", ["wide", "tall"])
def test_the_backing_chain_is_below(form: str) -> None:
    """As `<backingStore>` says, or as the host's files say where they were looked at."""
    shown = made(FIXTURES / "secrets.xml")
    assert ("(network)",) == review(shown).pictures[0].chain[0][0]
    layers = [Layer(f"/base/{number}", "qcow2") for number in range(6)]
    told = review(shown, layers={"vda": layers})
    svg = named(page(told), form)[0]

    assert [f"/base/{number}" for number in range(4)] == [
        each.text for each in named(svg, "name") if each.text.startswith("/base")
    ]
    assert "and 2 more below" in [each.text for each in svg.iter("text")]
    assert "/base/5" in svg.get("aria-label")


def test_layers_are_what_headers_declare() -> None:
    """Down to an image that has no header; a ring ends where it began."""
    path = f"/var/lib/nova/instances/{UUID}/disk"
    files = {
        path: File(path, format="qcow2", header=Backing("/a", "qcow2")),
        "/a": File("/a", format="qcow2", header=Backing("b", None)),
        "/b": File("/b", format="raw"),
    }
    document = made(FIXTURES / "nova/qcow2-file.xml").before
    found = layers_of(document, Survey(HOST, files=files))
    assert {"vda": (Layer("/a", "qcow2"), Layer("/b", "not declared"))} == found
    files["/a"] = File("/a", format="qcow2", header=Backing("/a", "qcow2"))
    assert {"vda": (Layer("/a", "qcow2"),)} == layers_of(document, Survey(HOST, files=files))


def test_no_secret_is_in_a_page() -> None:
    """Though they stand between and in what changes."""
    shown = made(FIXTURES / "secrets.xml")
    assert b"HIDE-ME" in shown.before.source
    assert shown.plan.changes
    assert "HIDE-ME" not in text(review(shown))
    assert "HIDE-ME" not in repr(review(shown))


ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "h4", "p"),
    *("main", "section", "dl", "div", "dt", "dd", "b", "details", "summary", "code", "span"),
    *("form", "label", "input", "select", "option", "button", "output", "figure", "figcaption"),
    *("svg", "rect", "text", "path", "ul", "ol", "li", "table", "colgroup", "col", "thead"),
    *("tbody", "tr", "th", "td", "del", "ins", "footer", "script"),
}


def check_harmless(root: Any) -> None:
    """Nothing runs and nothing leads away but what the template has."""
    assert {str(each.tag) for each in root.iter("*")} <= ALLOWED
    assert 1 == len(root.findall(".//script"))
    assert 1 == len(root.findall(".//style"))
    assert 1 == len(root.findall(".//h1"))
    for each in root.iter("*"):
        names = set(each.attrib)
        assert not any(
            name.startswith("on") or name in ("style", "src", "srcdoc") for name in names
        )
        href = each.get("href", "#")
        assert href.startswith(("#", "https://libvirt.org/"))


@pytest.mark.parametrize("evil", HOSTILE)
def test_markup_in_names_does_nothing(evil: str) -> None:
    """In the name, title and metadata of a domain, in pools, paths, files and messages."""
    source = MOVED.read_text().replace("instance-00000001", "NAME").replace("xmlkit qcow2", "TITLE")
    quoted = evil.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    document = Document.parse(source.replace("NAME", quoted).replace("TITLE", quoted))
    told = review(
        preview(evil, document, plan(document, HOST, relocate={None: POOL})),
        concerns=[Concern("running", evil, evil)],
        layers={"vda": [Layer(evil, evil)]},
    )
    sides = replace(
        told, pictures=tuple(replace(each, target=evil, said=evil) for each in told.pictures)
    )
    skip = Skip(evil, Address("volume", evil, evil, evil), evil, Reason("empty", evil))
    empty = Document.parse("<domain/>")
    third = review(Preview(evil, Plan("volume", evil, evil, (skip,)), empty, empty, (), ()))
    root = page(told, sides, third, troubles=[evil])

    check_harmless(root)
    shown = printable(evil)
    assert [shown] * 3 == [each.findtext(".//h3") for each in named(root, "domain")]
    assert shown in root.find(".//li").text_content()


@LAWS
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_text_becomes_markup(said: str) -> None:
    """Whatever a name, a path or a message is."""
    address = Address("volume", said, said, said)
    disks = (
        Skip(said, address, said, Reason("empty", said)),
        Transition(said, "adopt", "volume", said, Address("file", said), address, False),
    )
    document = Document.parse("<domain/>")
    made_ = Preview(said, Plan("volume", said, said, disks), document, document, (), ())
    concerns = [Concern("running", said, said)]
    check_harmless(page(review(made_, concerns=concerns, layers={said: [Layer(said, said)]})))


def test_the_policy_allows_its_own_style_and_script_alone() -> None:
    """By their hashes: an injected script would not run, whatever went wrong."""
    whole = text(review(made(MOVED)))
    root = lxml_html.document_fromstring(whole)
    (policy,) = [
        each.get("content") or ""
        for each in root.iter("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    said = dict(each.strip().split(" ", 1) for each in policy.split(";"))

    assert "'none'" == said.pop("default-src")
    for kind in ("style", "script"):
        match = re.search(f"<{kind}>(.*?)</{kind}>", whole, re.S)
        assert match is not None
        digest = base64.b64encode(hashlib.sha256(match.group(1).encode()).digest()).decode()
        assert f"'sha256-{digest}'" == said.pop(f"{kind}-src")
    assert {"base-uri": "'none'", "form-action": "'none'"} == said
    assert not re.search(r"url\(|@import|fetch|XMLHttp|https?:", whole)


def test_a_page_can_be_heard_and_walked_through(all_of_them: Any) -> None:
    """Landmarks, headings in order, a name for each control and picture, no id twice."""
    root = all_of_them
    for landmark in ("header", "main", "footer"):
        assert 1 == len(root.findall(f"body/{landmark}"))
    assert "en" == root.get("lang")
    levels = [int(each.tag[1]) for each in root.iter("h1", "h2", "h3", "h4")]
    assert 1 == levels[0]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    labels = {each.get("for") for each in root.iter("label")}
    assert {each.get("id") for each in root.iter("input", "select")} == labels
    assert all((each.text or "").strip() for each in root.iter("button"))
    assert all(each.get("role") == "img" and each.get("aria-label") for each in root.iter("svg"))
    assert all(each.get("scope") == "col" for each in root.iter("th"))
    ids = [each.get("id") for each in root.iter("*") if each.get("id")]
    assert len(set(ids)) == len(ids)
    (status,) = root.iter("output")
    assert ("status", "polite") == (status.get("role"), status.get("aria-live"))
    links = {each.get("href")[1:] for each in root.iter("a") if each.get("href")[0] == "#"}
    assert links <= set(ids)


def test_a_page_is_the_same_each_time() -> None:
    """So that two can be compared."""
    assert text(review(made(MOVED))) == text(review(made(MOVED)))


def test_no_disk_of_a_refused_domain_is_counted_as_moving() -> None:
    """The numbers are of what would be done: it stays, while the domain is refused."""
    refused = review(made(MOVED), concerns=[Concern("running", "it runs", "")])
    assert "refused" == refused.state
    numbers = {
        each.findtext("dt"): each.findtext("dd")
        for each in page(review(made(MOVED)), refused).iter("div")
        if each.find("dt") is not None
    }
    assert ("3", "3") == (numbers["disks move"], numbers["disks stay"])
    assert ("1", "1") == (numbers["will change"], numbers["refused"])


def test_a_row_says_what_becomes_of_the_disks() -> None:
    """Also to who only hears it; what is refused would be done, and is not."""
    file, both = FIXTURES / "nova/qcow2-file.xml", FIXTURES / "nova/qcow2-vol-nfs.xml"
    concern = Concern("running", "it runs", "")
    reviews = [
        review(made(file)),
        review(made(file), copied={"vda"}),
        review(made(MOVED)),
        review(made(both)),
        review(made(file), concerns=[concern]),
        review(made(both), concerns=[concern]),
    ]
    root = page(*reviews)

    assert [
        "1 disk moves",
        "1 disk moves",
        "3 disks move",
        "1 disk moves, 1 disk stays",
        "1 disk would move",
        "1 disk would move, 1 disk stays",
    ] == [" ".join(each.text_content().split()) for each in named(root, "counts")]
    captions = [
        each.findtext(".//figcaption/b").strip() + each.find(".//figcaption/b").tail.rstrip(": ")
        for each in named(root, "domain")
    ]
    assert ["vda moves", "vda moves, by a copy", "vda would move"] == [
        captions[number] for number in (0, 1, 4)
    ]
    said = named(root, "domain")[4].find(".//svg").get("aria-label")
    assert said.startswith("vda would move from file ")


def test_a_page_of_nothing_is_a_page() -> None:
    """With what could not be read."""
    root = page(troubles=["a.xml: not a domain"])
    (alert,) = named(root, "alert")
    assert "1 document could not be reviewed:" == alert.findtext("p/b")

    assert "0 of 0 domains would change" == root.findtext(".//h1")
    assert "a.xml: not a domain" == root.findtext(".//li").strip()
