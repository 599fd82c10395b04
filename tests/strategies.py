"""Strategies of hypothesis: XML in every odd spelling, edits of trees, domains, hosts, plans.

Rules
- Documents are written here as text, never by a serializer: what one writes is tidy.
- All of them are well-formed, within the limits and in an encoding that is read.
- Few names and few values, so that things meet: one path in two disks, one name in two pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from hypothesis import settings
from hypothesis import strategies as st
from lxml import etree

from xmlkit.document import Document
from xmlkit.host import Host, Pool, Volume
from xmlkit.plan import Form, Plan, plan

# How a test is tried; how often is for the profile to say. A busy machine misses any deadline.
LAWS = settings(deadline=None)

Draw = st.DrawFn

BOM = "\ufeff"
# (encoding in the declaration, None without one; Python's name; what stands before the text)
ENCODINGS = (
    (None, "utf-8", ""),
    (None, "utf-8", BOM),
    ("UTF-8", "utf-8", ""),
    ("utf-8", "utf-8", BOM),
    ("US-ASCII", "ascii", ""),
    ("ISO-8859-1", "latin-1", ""),
    ("iso-8859-1", "latin-1", ""),
    (None, "utf-16-le", BOM),
    ("UTF-16", "utf-16-le", BOM),
    ("UTF-16", "utf-16-be", BOM),
    ("utf-16be", "utf-16-be", BOM),
    ("UTF-16LE", "utf-16-le", ""),
)
NAMES = ("a", "b", "disk", "source", "x-1", "_y", "n.2")
URIS = ("urn:one", "urn:two", "http://example.org/?a=1&b=2")
BLANKS = st.sampled_from([" ", " ", " ", "  ", "\n", "\r\n", "\t", "\n     ", " \r\n\t"])
MAYBE_BLANK = st.sampled_from(["", "", "", " ", "\n", "\r\n\t"])


# Characters.


def characters(codec: str = "utf-8", without: str = "") -> st.SearchStrategy[str]:
    """One character that XML allows and `codec` has; the troublesome ones are likely."""
    troublesome = [each for each in "\t\n\r >\"'=/]-?;#&<ä\x85\u2028😀" if each not in without]
    troublesome = [each for each in troublesome if _has(codec, each)]
    others = st.characters(
        codec=codec, categories=("L", "N", "P", "S", "Z"), exclude_characters=without
    )
    return st.sampled_from(troublesome) | others


def _has(codec: str, character: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def strings(codec: str = "utf-8", without: str = "", most: int = 8) -> st.SearchStrategy[str]:
    """A text of such characters."""
    return st.text(characters(codec, without), max_size=most)


REFERENCES = st.sampled_from(
    ["&amp;", "&lt;", "&gt;", "&quot;", "&apos;", "&#10;", "&#13;", "&#9;", "&#x41;", "&#8364;"]
)


# Documents.


@st.composite
def xml_sources(draw: Draw, *, redeclared: bool = True) -> bytes:
    """The bytes of a document; redeclared: a prefix may mean one thing here and another there."""
    declared, codec, mark = draw(st.sampled_from(ENCODINGS))
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    declaration = ""
    if declared is not None or draw(st.booleans()):
        quote = draw(st.sampled_from("'\""))
        declaration = f"<?xml version={quote}1.0{quote}"
        if declared is not None:
            declaration += f" encoding={quote}{declared}{quote}"
        declaration += draw(st.sampled_from(["", " standalone='yes'"]))
        declaration += draw(MAYBE_BLANK) + "?>" + draw(st.sampled_from(["", newline]))
    around = st.lists(st.one_of(_comments(codec), _instructions(codec), BLANKS), max_size=3)
    before, after = "".join(draw(around)), "".join(draw(around))
    if not declaration and codec != "utf-8" and not mark:
        before = before.lstrip()  # what has neither must begin with "<"
    root = draw(_elements(codec, newline, {}, 0, redeclared))
    return (mark + declaration + before + root + after).encode(codec)


def _comments(codec: str) -> st.SearchStrategy[str]:
    texts = strings(codec, without="-") | st.sampled_from(["<!DOCTYPE a>", "<a b='c'>", "]]>"])
    return texts.map(lambda text: f"<!--{text}-->")


def _instructions(codec: str) -> st.SearchStrategy[str]:
    texts = strings(codec, without="?") | st.sampled_from(["<a>", "a='>'", "-->"])
    return texts.map(lambda text: f"<?go {text}?>")


def _sections(codec: str) -> st.SearchStrategy[str]:
    texts = strings(codec, without="]") | st.sampled_from(["<a/>", "<!--", "&amp;", "]", "]] >"])
    return texts.map(lambda text: f"<![CDATA[{text}]]>")


@st.composite
def _elements(
    draw: Draw, codec: str, newline: str, scope: Mapping[str, str], depth: int, redeclared: bool
) -> str:
    """An element; scope: the namespaces by prefix, "" for the default one."""
    declared = draw(
        st.dictionaries(
            st.sampled_from(["", "p", "q"]), st.sampled_from(URIS), max_size=2 if depth else 3
        )
        if draw(st.integers(0, 2)) == 1 and (redeclared or not depth)
        else st.just({})
    )
    attributes: list[tuple[str, str | None]] = [
        (f"xmlns:{prefix}" if prefix else "xmlns", uri) for prefix, uri in declared.items()
    ]
    scope = {**scope, **declared}
    prefixes = sorted(prefix for prefix in scope if prefix)
    for local in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
        prefix = draw(st.sampled_from(["", "", *prefixes, "xml"]))
        if prefix != "xml":
            name = f"{prefix}:{local}" if prefix else local
        elif "xml:lang" in dict(attributes):
            continue
        else:
            name = "xml:lang"
        attributes.append((name, None))
    tag = draw(st.sampled_from(["", *prefixes]))
    tag = (tag and f"{tag}:") + draw(st.sampled_from(NAMES))
    head = f"<{tag}"
    for name, uri in draw(st.permutations(attributes)):
        value = draw(_values(codec)) if uri is None else quoteattr(uri)
        equals = draw(MAYBE_BLANK) + "=" + draw(MAYBE_BLANK)
        head += draw(BLANKS) + name + equals + value
    head += draw(MAYBE_BLANK)
    # the root has to be worth an edit
    shape = draw(st.sampled_from(["empty", "mixed", "lines", "lines"] if depth else ["lines"]))
    if shape == "empty":
        return head + "/>"
    contents: list[str] = []
    if shape == "lines" and depth < 3:
        inside = _elements(codec, newline, scope, depth + 1, redeclared)
        other = _comments(codec) | _instructions(codec)
        for _ in range(draw(st.integers(0, 2) if depth else st.integers(2, 4))):
            line = draw(other if draw(st.integers(0, 3)) == 2 else inside)
            contents += newline, "  " * (depth + 1), line
        contents += newline, "  " * depth
    else:
        pieces = [
            strings(codec, without="<&]"),
            REFERENCES,
            _comments(codec),
            _instructions(codec),
            _sections(codec),
        ]
        if depth < 3:
            pieces.append(_elements(codec, newline, scope, depth + 1, redeclared))
        contents = draw(st.lists(st.one_of(pieces), max_size=4))
    return f"{head}>{''.join(contents)}</{tag}{draw(MAYBE_BLANK)}>"


@st.composite
def _values(draw: Draw, codec: str) -> str:
    quote = draw(st.sampled_from("'\""))
    piece = st.one_of(strings(codec, without="<&" + quote), REFERENCES)
    return quote + "".join(draw(st.lists(piece, max_size=2))) + quote


# Edits of a tree.

Kind = Literal["set", "delete", "text", "tail", "insert", "append", "remove", "move", "rename"]


@dataclass(frozen=True, slots=True)
class TreeEdit:
    """What to do to which element; numbers are taken modulo how many there are."""

    kind: Kind
    at: int
    to: int
    name: str
    value: str


def tree_edits(*kinds: Kind) -> st.SearchStrategy[TreeEdit]:
    """One edit, of these kinds if any are named."""
    all_kinds = ("set", "delete", "text", "tail", "insert", "append", "remove", "move", "rename")
    names = st.sampled_from([*NAMES, "new", "{urn:one}a", "{urn:three}new"])
    return st.builds(
        TreeEdit,
        st.sampled_from(kinds or all_kinds),
        st.integers(0, 9),
        st.integers(0, 9),
        names,
        strings() | st.sampled_from(["]]>", "&lt;", "<a/>", "\r\n", "", " "]),
    )


def apply(edit: TreeEdit, tree: etree._Element) -> set[etree._Element]:
    """Do it to `tree`; the elements that may be written otherwise now, none if it cannot be."""
    elements = list(tree.iter(etree.Element))
    element = elements[edit.at % len(elements)]
    other = elements[edit.to % len(elements)]
    parent = element.getparent()
    if edit.kind == "set":
        element.set(edit.name, edit.value)
    elif edit.kind == "delete":
        if not element.attrib:
            return set()
        del element.attrib[element.keys()[edit.to % len(element.attrib)]]
    elif edit.kind == "text":
        element.text = edit.value
    elif edit.kind == "rename":
        # a new local name keeps the namespace: no other could be inherited by the children
        namespace = etree.QName(element).namespace
        local = not namespace or edit.name.startswith("{")
        element.tag = edit.name if local else f"{{{namespace}}}{edit.name}"
    elif edit.kind in ("insert", "append"):
        new = etree.Element(edit.name, {"k": edit.value})
        if edit.to % 2:
            etree.SubElement(new, "inside").text = edit.value
        if edit.kind == "append":
            element.append(new)
        else:
            element.insert(edit.to % (len(element) + 1), new)
        return {element, new}
    elif parent is None:
        return set()
    elif edit.kind == "tail":
        element.tail = edit.value
        return {parent}
    elif edit.kind == "remove":
        parent.remove(element)
        return {parent}
    else:
        if other in element.iter():
            return set()
        other.insert(edit.at % (len(other) + 1), element)
        return {parent, other, element}
    return {element}


# Domains.

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
OTHER_UUID = "00000000-1111-2222-3333-444444444444"
INSTANCES = "/var/lib/nova/instances"
DIRECTORIES = (
    "/var/lib/libvirt/images",
    "/srv/a & b/it's",
    f"{INSTANCES}/{UUID}",
    f"{INSTANCES}/{OTHER_UUID}",
    f"{INSTANCES}/disks",
    "/dev/vg",
    "/dev",
    "",
)
FILES = (
    "disk",
    "disk.local",
    "disk.swap",
    "disk.config",
    "a.qcow2",
    "b 'quoted'",
    'b "quoted"',
    "ümlaut & <co>",
    f"{UUID}_disk",
    f"{UUID}_disk.config",
)
ODD_FILES = ("disk.rescue", "disk.config.rescue", "", ".", "..", "line\nbreak", "tab\t")
POOLS = ("images", "disks", "vg", 'it\'s <a> "pool"', "ümlaut", "p.1", "-", "p_2", "nowhere")
FORMATS = ("raw", "qcow2", "qcow2", "aio", "luks", "iso")


def _mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 9).flatmap(lambda number: odd if number == 7 else usual)


def _rarely(draw: Draw) -> bool:
    # not 0 nor the last: those come more often than the others
    return draw(st.integers(0, 15)) == 11


FILE_NAMES = _mostly(st.sampled_from(FILES), st.sampled_from(ODD_FILES))
PATHS = _mostly(
    st.builds("{}/{}".format, st.sampled_from(DIRECTORIES), FILE_NAMES),
    st.sampled_from(["", "relative", "./relative", "/srv//twice", "/srv/subdirectory/"]),
)

SECLABEL = "<seclabel model='dac' relabel='no'/>"
ENCRYPTION = (
    f"<encryption format='luks'><secret type='passphrase' uuid='{OTHER_UUID}'/></encryption>"
)
SLICES = "<slices><slice type='storage' offset='512' size='1024'/></slices>"
RESERVATIONS = (
    "<reservations managed='no'><source type='unix' path='/pr.sock' mode='client'/></reservations>"
)
BACKING = (
    "<backingStore type='file'><format type='raw'/><source file='/base'/><backingStore/>"
    "</backingStore>"
)
NOVA_METADATA = (
    "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
    "<nova:name>n</nova:name></nova:instance></metadata>"
)
OTHER_METADATA = "<metadata><x:a xmlns:x='urn:x'>disk <!-- <disk type='file'> --></x:a></metadata>"


@dataclass(frozen=True, slots=True)
class Style:
    """How a domain is written. one_line: without any indentation."""

    quote: str
    newline: str
    one_line: bool

    def attribute(self, name: str, value: str, before: str = " ") -> str:
        """An attribute in this style, with what is between it and the one before."""
        value = escape(value, {self.quote: "&quot;" if self.quote == '"' else "&apos;"})
        value = value.replace("\n", "&#10;").replace("\t", "&#9;")
        return f"{before}{name}={self.quote}{value}{self.quote}"

    def block(self, start: str, children: list[str], end: str, depth: int) -> str:
        """An element with its children, each on its own line unless all is one line."""
        line = "" if self.one_line else self.newline + "  " * depth
        inner = "" if self.one_line else line + "  "
        return start + "".join(inner + child for child in children) + line + end


STYLES = st.builds(
    Style,
    st.sampled_from("'\""),
    st.sampled_from(["\n", "\n", "\r\n"]),
    st.integers(0, 3).map(lambda number: number == 2),
)


@st.composite
def domain_sources(draw: Draw) -> bytes:
    """The bytes of a domain with up to four disks of all kinds."""
    style = draw(STYLES)
    attributes = style.attribute(
        "type",
        draw(
            _mostly(st.just("kvm"), st.sampled_from(["qemu", "xen", "lxc", "hvf", "bhyve", "test"]))
        ),
    )
    if _rarely(draw):
        attributes += style.attribute("id", "7")
    children = ["<name>guest</name>"]
    if draw(st.integers(0, 4)) != 2:
        children.append(f"<uuid>{draw(st.sampled_from([UUID, UUID, UUID.upper()]))}</uuid>")
    children.append(draw(st.sampled_from(["", NOVA_METADATA, OTHER_METADATA])))
    children += ["<memory>65536</memory>", "<os><type>hvm</type></os>"]
    targets = draw(st.permutations(["vda", "vdb", "sda", "hda"]))
    count = draw(st.integers(0, 4))
    disks = [draw(_disks(style, target)) for target in targets[:count]]
    if disks and _rarely(draw):
        disks.append(draw(st.sampled_from(disks)))  # a target twice
    if draw(st.integers(0, 4)) == 2:
        disks.insert(0, draw(st.sampled_from(["<!-- <disk> -->", "<?go <disk?>"])))
    children.append(style.block("<devices>", disks, "</devices>", 1))
    text = style.block(f"<domain{attributes}>", [each for each in children if each], "</domain>", 0)
    before = draw(
        st.sampled_from(["", "", "<?xml version='1.0' encoding='utf-8'?>\n", "<!-- a -->\n"])
    )
    return (before + text + draw(st.sampled_from(["", "\n", "\n<!-- z -->\n"]))).encode()


@st.composite
def _disks(draw: Draw, style: Style, target: str) -> str:
    type_ = draw(
        st.sampled_from(["file", "file", "file", "block", "block", "volume", "volume", "network"])
    )
    given = {"type": type_, "device": draw(st.sampled_from(["disk", "disk", "cdrom", "", "lun"]))}
    if type_ == "file" and _rarely(draw):
        del given["type"]  # file is what is meant then
    blank = draw(st.sampled_from([" ", " ", "  ", "\n   "]))
    attributes = "".join(
        style.attribute(name, given[name], blank)
        for name in draw(st.permutations(list(given)))
        if given[name]
    )
    children = []
    if draw(st.integers(0, 3)) != 2:
        children.append(f"<driver{draw(_driver_attributes(style))}/>")
    children.append(draw(_sources(style, type_)))
    if not _rarely(draw):
        children.append(
            f"<target{style.attribute('dev', target)}{style.attribute('bus', 'virtio')}/>"
        )
    rare = [
        "<transient/>",
        "<serial>s</serial>",
        f"<alias{style.attribute('name', 'ua-1')}/>",
        "<mirror type='file' job='copy'><source file='/m'/></mirror>",
    ]
    usual = [
        "<readonly/>",
        "<shareable/>",
        BACKING,
        ENCRYPTION,
        "<boot order='1'/>",
        "<iotune><total_iops_sec>9</total_iops_sec></iotune>",
        "<!-- <source file='/no'/> -->",
        "<?go?>",
    ]
    extra = _mostly(st.sampled_from(usual), st.sampled_from(rare))
    children += draw(st.lists(extra, unique=True, max_size=2))
    if draw(st.booleans()):
        children = draw(st.permutations(children))
    return style.block(f"<disk{attributes}>", [each for each in children if each], "</disk>", 2)


@st.composite
def _driver_attributes(draw: Draw, style: Style) -> str:
    given = {"name": "qemu", "cache": "none"}
    if draw(st.integers(0, 4)) != 2:
        given["type"] = draw(_mostly(st.sampled_from(FORMATS), st.just("dir")))
    names = draw(st.lists(st.sampled_from(sorted(given)), unique=True))
    if "type" in given and "type" not in names:
        names.append("type")
    return "".join(style.attribute(name, given[name]) for name in names)


@st.composite
def _sources(draw: Draw, style: Style, type_: str) -> str:
    given = {}
    if type_ == "network":
        return "<source protocol='nbd' name='n'><host name='h' port='1'/></source>"
    if _rarely(draw):
        return ""
    if type_ == "volume":
        given = {"pool": draw(st.sampled_from(POOLS)), "volume": draw(FILE_NAMES)}
    else:
        given = {"file" if type_ == "file" else "dev": draw(PATHS)}
    if draw(st.integers(0, 4)) == 2:
        given["startupPolicy"] = "optional"
    if _rarely(draw):
        given["index"] = "1"
    if type_ == "file" and _rarely(draw):
        given["fdgroup"] = "g"
    blank = draw(st.sampled_from([" ", " ", "\t", "\n        "]))
    names = draw(st.permutations(list(given)))
    attributes = "".join(style.attribute(name, given[name], blank) for name in names)
    inside = draw(
        st.lists(
            st.sampled_from([SECLABEL, ENCRYPTION, SLICES, "<!-- '\" -->"]), unique=True, max_size=2
        )
    )
    if type_ == "block" and _rarely(draw):
        inside.append(RESERVATIONS)
    if not inside:
        return f"<source{attributes}{draw(st.sampled_from(['/>', ' />', '></source>']))}"
    return style.block(f"<source{attributes}>", inside, "</source>", 3)


# Hosts and plans.


@st.composite
def hosts(draw: Draw) -> Host:
    """A host with some pools over the directories that disks are in."""
    pools = []
    for name, directory in zip(draw(st.permutations(POOLS[:-1])), DIRECTORIES, strict=True):
        if draw(st.integers(0, 3)) == 2:
            continue
        likely = "logical" if directory == "/dev/vg" else "dir"
        pool = Pool(
            name=name,
            type=draw(
                _mostly(st.just(likely), st.sampled_from(["fs", "netfs", "disk", "zfs", "rbd"]))
            ),
            path=directory or "/",
            active=not _rarely(draw),
            volumes=None,
        )
        if pool.active and draw(st.integers(0, 3)) == 2:
            volumes = draw(st.lists(_volumes(pool), max_size=6, unique_by=lambda each: each.name))
            pool = Pool(pool.name, pool.type, pool.path, volumes=tuple(volumes))
        pools.append(pool)
    return Host(
        libversion=draw(st.sampled_from([None, None, 9_000_000, 12_008_000, 7_000_000, 1_000_004])),
        driver=draw(_mostly(st.just(""), st.sampled_from(["qemu", "xen", "lxc"]))),
        security_models=tuple(draw(_mostly(st.just("dac"), st.just("apparmor"))).split()),
        pools=tuple(pools),
    )


@st.composite
def _volumes(draw: Draw, pool: Pool) -> Volume:
    name = draw(st.sampled_from(FILES))
    return Volume(
        pool=pool.name,
        name=name,
        path=f"{pool.path.rstrip('/')}/{name}",
        type=draw(_mostly(st.sampled_from(["file", "block"]), st.sampled_from(["dir", "network"]))),
        format=draw(st.sampled_from([None, "raw", "qcow2", "iso", "luks"])),
        link=_rarely(draw),
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A domain, a host and what is planned for the one on the other."""

    document: Document
    host: Host
    to: Form
    live: bool
    plan: Plan


@st.composite
def cases(draw: Draw, *, relocate: bool = False) -> Case:
    """A case; relocate: disks in Nova's instance directory may have to move into a pool."""
    document = Document.parse(draw(domain_sources()))
    host = draw(hosts())
    to: Form = draw(st.sampled_from(["volume", "volume", "path"]))
    live = draw(st.integers(0, 3)) == 2
    kinds = st.sampled_from([None, "root", "ephemeral", "swap"])
    into = {}
    if relocate and host.pools:
        into = draw(st.dictionaries(kinds, st.sampled_from(sorted(host.by_name)), max_size=3))
    made = plan(document, host, to, relocate=into, live=live, accept=("apparmor",))
    return Case(document, host, to, live, made)
