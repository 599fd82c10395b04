"""Review: what a transition will do to many domains, as one page for those who have to agree to it.

Laws
- A Review has no secret: its XML comes from diff.hunks and its findings from validation.shown,
  which hide them, and what else it has are names, titles, addresses and ids.
- The page is one file: it asks no network for anything, and shows all that it says without its
  script, which only filters.
- Pure: a page of the same reviews at the same time is the same page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, NamedTuple

from lxml import etree

from xmlkit.diff import Piece, Preview, hunks
from xmlkit.disks import PATH_ATTRIBUTES, Address, image_format, read_domain
from xmlkit.document import Document
from xmlkit.host import Host, version_text
from xmlkit.plan import STAYS, Form, Skip, Transition
from xmlkit.rules import RULES, Rule
from xmlkit.steps import (
    Copy,
    Define,
    Link,
    Redefine,
    Refresh,
    Start,
    Step,
    Stop,
    Unlink,
    steps_of,
)
from xmlkit.templates import page
from xmlkit.validation.shown import shown

if TYPE_CHECKING:  # it brings the survey of a host, which not every review has
    from xmlkit.preflight import Concern
    from xmlkit.survey import Survey

__all__ = ["Layer", "Review", "html", "layers_of", "review"]

# Characters in a line of a picture's box, lines of an address, and images shown below one disk.
_WIDTH = 48
_LINES = 4
_LAYERS = 4

Severity = Literal["error", "warning", "note"]
_SEVERITIES: Mapping[str, Severity] = {"refuse": "error", "warn": "warning"}

_MEANS: Mapping[type[Step], str] = {
    Stop: "the guest is asked to shut down, and waited for",
    Link: "a second name for the image; nothing is copied",
    Copy: "the pool is on another file system: a copy, compared with the original",
    Refresh: "libvirt reads the pool's directory again",
    Redefine: "it names the images, too",
    Define: "the domain's XML as it stands on the {side} above",
    Start: "the guest runs again",
    Unlink: "the old name goes: the point of no return",
}


class Layer(NamedTuple):
    """An image below that of a disk, by what its overlay declares."""

    path: str
    format: str


class Remark(NamedTuple):
    """One thing to know. target: the disk that it is about; where: in which of the documents."""

    id: str
    severity: Severity
    message: str
    target: str = ""
    where: str = ""
    link: str = ""

    @property
    def rule(self) -> Rule | None:
        return RULES.get(self.id)


class Side(NamedTuple):
    """A box of a disk's picture: how the XML addresses the image.

    pool: that the image lies in, "" for none. name, at: lines of what the XML says, and of the
    path of a volume.
    """

    type: str
    pool: str
    name: tuple[str, ...]
    at: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A disk before and after. action: "move", "copy", "adopt" or "stays", which has no `after`.

    chain: the images below, each as the lines of its path and its format; hidden: how many more
    there are. said: the same in a sentence.
    """

    target: str
    action: str
    format: str
    verified: bool
    before: Side
    after: Side | None
    chain: tuple[tuple[tuple[str, ...], str], ...]
    hidden: int
    reason: str
    said: str


class Cell(NamedTuple):
    """A line of one document. old, new: what differs stands between `begin` and `end`."""

    number: int
    kind: Literal["same", "old", "new"]
    begin: str
    changed: str = ""
    end: str = ""


Row = tuple[Cell | None, Cell | None]


@dataclass(frozen=True)
class Review:
    """One domain of a page.

    state: "changes", "stays", "refused" (what was asked for cannot be done) or "broken" (valid
    before, and invalid after). title: what its owner calls it. valid: before and after. steps,
    back: each command with what it means; reason: why there are none. words: what the page's
    search finds it by.
    """

    name: str
    uuid: str
    title: str
    file: str
    state: Literal["changes", "stays", "refused", "broken"]
    valid: tuple[bool, bool]
    pictures: tuple[Picture, ...]
    remarks: tuple[Remark, ...]
    hunks: tuple[tuple[Row, ...], ...]
    steps: tuple[tuple[str, str], ...]
    back: tuple[tuple[str, str], ...]
    reason: str = ""
    options: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(remark.id for remark in self.remarks))

    @property
    def attention(self) -> bool:
        """Whether somebody should look at it."""
        return any(remark.severity != "note" for remark in self.remarks)

    @property
    def words(self) -> str:
        found = [self.name, self.uuid, self.title, self.file, *self.ids]
        found += (picture.said for picture in self.pictures)
        return " ".join(found).casefold()


def review(
    made: Preview,
    *,
    concerns: Collection[Concern] = (),
    layers: Mapping[str, Sequence[Layer]] | None = None,
    copied: Collection[str] = (),
    metadata: Collection[tuple[str, str]] = (),
    restart: bool = False,
) -> Review:
    """What a page says of one domain.

    concerns: what preflight found, if the host was looked at. layers: the images below each disk,
    by target; of a disk that is not there it is what its `<backingStore>` says. copied, metadata,
    restart: as for steps_of().
    """
    known = {**_declared(made.before), **(layers or {})}
    remarks = (*_remarks(made), *map(_remark, concerns))
    refused = any(remark.severity == "error" and not remark.where for remark in remarks)
    unfit = any(isinstance(disk, Skip) and disk.reason.id not in STAYS for disk in made.plan.disks)
    state: Literal["changes", "stays", "refused", "broken"]
    if made.broken:
        state = "broken"
    elif refused or (unfit and not made.plan.changes):
        state = "refused"
    else:
        state = "changes" if made.plan.changes else "stays"
    live = any(each.live for each in made.plan.transitions)
    steps, back = (
        () if live else steps_of(each, copied=copied, metadata=metadata, restart=restart)
        for each in (made.plan, made.plan.inverse())
    )
    return Review(
        name=made.plan.name,
        uuid=made.plan.uuid,
        title=_title(made.before),
        file="" if made.file in (made.plan.name, made.plan.uuid) else made.file,
        state=state,
        valid=(not made.findings_before, not made.findings_after),
        pictures=tuple(
            _picture(
                disk,
                known.get(disk.target, ()),
                disk.target in copied,
                would=state in ("refused", "broken"),
            )
            for disk in made.plan.disks
        ),
        remarks=remarks,
        hunks=tuple(tuple(_rows(hunk.pieces, hunk.before, hunk.after)) for hunk in hunks(made)),
        steps=tuple(_told(steps, "right")),
        back=tuple(_told(back, "left")),
        reason="the migration does it" if live and made.plan.changes else "",
        options="--restart " * restart + "--rewrite-metadata " * bool(metadata),
    )


def layers_of(document: Document, survey: Survey) -> dict[str, tuple[Layer, ...]]:
    """The images below each disk, by target, as far as the host's files declare them."""
    found = {}
    for disk in read_domain(document).disks:
        layers: list[Layer] = []
        file = survey.files.get(survey.path_of(disk) or "")
        while file is not None and file.header is not None and file.backing is not None:
            layer = Layer(file.backing, file.header.format or "not declared")
            if layer in layers:
                break
            layers.append(layer)
            file = survey.files.get(file.backing)
        if layers:
            found[disk.target] = tuple(layers)
    return found


def html(
    reviews: Sequence[Review],
    *,
    to: Form,
    host: Host,
    at: str,
    version: str,
    surveyed: bool = False,
    troubles: Sequence[str] = (),
) -> str:
    """The page: one HTML document, with its style and its script in it.

    to: what was asked for. at: the time, as it is to be shown. version: of xmlkit. surveyed:
    whether preflight has looked at the host. troubles: what could not be read, a line each.
    """
    states = Counter(each.state for each in reviews)
    disks = Counter(
        "stays" if each.state == "refused" else picture.action
        for each in reviews
        for picture in each.pictures
    )
    ids = Counter(id for each in reviews for id in each.ids)
    return page(
        "review",
        version=version,
        reviews=reviews,
        to=to,
        at=at,
        libvirt="" if host.libversion is None else version_text(host.libversion),
        driver=host.driver,
        surveyed=surveyed,
        troubles=troubles,
        states=states,
        attention=sum(each.attention for each in reviews),
        disks=disks,
        ids=[(id, count, RULES.get(id)) for id, count in sorted(ids.items())],
    )


def _title(document: Document) -> str:
    """What the domain's owner calls it, in Nova's metadata or in `<title>`."""
    for element in document.root.iterfind("metadata/*/{*}name"):
        if str(element.tag).startswith("{http://openstack.org/xmlns/libvirt/nova/"):
            return (element.text or "").strip()
    return (document.root.findtext("title") or "").strip()


# Remarks.


def _remarks(made: Preview) -> Iterator[Remark]:
    for disk in made.plan.disks:
        if disk.reason is not None:
            severity: Severity = "note" if disk.reason.id in STAYS else "warning"
            yield Remark(disk.reason.id, severity, disk.reason.message, disk.target)
    before, _ = shown(made.before, made.findings_before)
    after, _ = shown(made.after, made.findings_after)
    both = {(each.id, each.message) for each in before}.intersection(
        (each.id, each.message) for each in after
    )
    for findings, when in ((before, "before"), (after, "after")):
        for each in findings:
            if (each.id, each.message) not in both:
                where = f"line {each.line}, {when}"
            elif when == "before":
                where = f"line {each.line}, before and after"
            else:
                continue
            yield Remark(each.id, each.severity, each.message, each.identity, where, each.link)


def _remark(concern: Concern) -> Remark:
    severity = _SEVERITIES.get(concern.severity, "note")
    accepted = " (accepted)" if concern.accepted else ""
    return Remark(concern.id, severity, concern.message + accepted, concern.target)


def _told(steps: Iterable[Step], side: str) -> Iterator[tuple[str, str]]:
    """Each step as its command, and what it means where that is not said yet."""
    seen = set()
    for step in steps:
        kind = type(step)
        yield str(step), "" if kind in seen else _MEANS.get(kind, "").format(side=side)
        seen.add(kind)


# The picture of a disk.


def _picture(
    disk: Transition | Skip, chain: Sequence[Layer], copied: bool, *, would: bool
) -> Picture:
    """would: it is not done while something is in the way."""
    below = tuple((_wrapped(each.path), each.format) for each in chain[:_LAYERS])
    reason = disk.reason.id if disk.reason is not None else ""
    on = "".join(f", on {each.path}" for each in chain)
    if isinstance(disk, Skip) or not disk.changes:
        address = disk.address if isinstance(disk, Skip) else disk.before
        said = f"{disk.target or 'A disk'} stays: {_said(address)}, {disk.format}{on}"
        before, after = _side(address), None
        action, verified = "stays", True
    else:
        move, adopt = ("would move", "would be") if would else ("moves", "is")
        by = f"{move} by a copy from" if copied else f"{move} from"
        verb = by if disk.action == "move" else f"{adopt} adopted where it is, from"
        addresses = f"{_said(disk.before)} to {_said(disk.after)}"
        said = f"{disk.target} {verb} {addresses}, {disk.format}{on}"
        before, after = _side(disk.before), _side(disk.after)
        action, verified = "copy" if copied else disk.action, disk.verified
    return Picture(
        target=disk.target,
        action=action,
        format=disk.format,
        verified=verified,
        before=before,
        after=after,
        chain=below,
        hidden=len(chain) - len(below),
        reason=reason,
        said=said,
    )


def _said(address: Address) -> str:
    return f"{address.type} {address}"


def _side(address: Address) -> Side:
    pool = address.pool or ""
    if address.type == "volume":
        at = _wrapped(address.path) if address.path else ()
        return Side("volume", pool, _wrapped(address.volume or "-"), at)
    return Side(address.type, pool, _wrapped(str(address)))


def _wrapped(text: str) -> tuple[str, ...]:
    """An address in lines that fit a box, broken behind a slash where there is one."""
    lines = []
    while len(text) > _WIDTH:
        ends = (text.rfind(mark, _WIDTH // 3, _WIDTH) + 1 for mark in "/_")
        at = next(filter(None, ends), _WIDTH)
        lines.append(text[:at])
        text = text[at:]
    lines.append(text)
    if len(lines) > _LINES:
        lines[_LINES // 2 : -(_LINES // 2)] = ["…"]
    return tuple(lines)


def _declared(document: Document) -> dict[str, tuple[Layer, ...]]:
    """The images that each disk's `<backingStore>` names, by target."""
    found = {}
    for disk in read_domain(document).disks:
        store = disk.children.get("backingStore")
        if store is not None:
            found[disk.target] = tuple(_layers(store))
    return found


def _layers(store: etree._Element | None) -> Iterator[Layer]:
    while store is not None and (source := store.find("source")) is not None:
        type_ = store.get("type", "file")
        attribute = PATH_ATTRIBUTES.get(type_)
        if attribute is not None:
            path = source.get(attribute) or "-"
        elif type_ == "volume":
            path = f"{source.get('pool')}/{source.get('volume')}"
        else:
            path = f"({type_})"
        format_ = store.find("format")
        yield Layer(path, image_format(None if format_ is None else format_.get("type")))
        store = store.find("backingStore")


# The difference, side by side.


def _rows(pieces: Iterable[Piece], before: int, after: int) -> Iterator[Row]:
    for piece in pieces:
        for old, new in zip_longest(piece.before, piece.after):
            left = right = None
            begin = end = ""
            if old is not None and new is not None and not piece.equal:
                begin, end = _common(_line(old), _line(new))
            if old is not None:
                left = _cell(before, "same" if piece.equal else "old", _line(old), begin, end)
                before += 1
            if new is not None:
                right = _cell(after, "same" if piece.equal else "new", _line(new), begin, end)
                after += 1
            yield left, right


def _cell(
    number: int, kind: Literal["same", "old", "new"], line: str, begin: str, end: str
) -> Cell:
    if kind == "same":
        return Cell(number, kind, line)
    return Cell(number, kind, begin, line[len(begin) : len(line) - len(end)], end)


def _common(old: str, new: str) -> tuple[str, str]:
    """What two lines begin and end with alike, up to whole words."""
    most = min(len(old), len(new))
    first = next((i for i in range(most) if old[i] != new[i]), most)
    while first and _is_word(old[first - 1]):
        first -= 1
    most -= first
    last = next((i for i in range(most) if old[-1 - i] != new[-1 - i]), most)
    while last and _is_word(old[-last]):
        last -= 1
    return old[:first], old[len(old) - last :]


def _is_word(character: str) -> bool:
    return character.isalnum() or character in "_-."


def _line(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
