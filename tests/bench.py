"""Benchmarks: what xmlkit costs next to the tools and libraries that do the bare work.

Rules
- Every figure is a ratio of two contestants in one run, tried in turn, so that a slow or busy
  machine slows both.
- In-process the best of the rounds counts, of commands the median: what is left out is noise.
- Exit code: 0 all goals reached, 1 one missed, 2 something needed is missing.
"""

from __future__ import annotations

import argparse
import atexit
import compileall
import re
import shutil
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corpus import host_of
from faults import Case, Score, Told, cases, score
from lxml import etree
from sources import SourceUnavailable, debian_source

import xmlkit
from xmlkit.compare import compare
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import Host, Pool, Volume
from xmlkit.nova.builder import to_volumes
from xmlkit.plan import plan
from xmlkit.transformers import transform
from xmlkit.validation import schemas
from xmlkit.validation.verdict import validate

GUEST = Path(__file__).parents[1] / "fixtures" / "nova" / "qcow2-ephemeral-swap.xml"
KINDS = ("domain", "domainsnapshot", "storagepool", "storagevol")
INSTANCE = "/var/lib/nova/instances/3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"


class Unavailable(Exception):
    """Something that a benchmark needs is missing; the message names it."""


@dataclass(frozen=True)
class Benchmark:
    """Two contestants that do the same work, and how often the second's time ours may take."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    goal: float
    rounds: int
    of_rounds: Callable[[list[float]], float]


def main() -> int:
    """Run them all and print a table."""
    parser = argparse.ArgumentParser(description="Measure xmlkit against what does the bare work.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    quick = parser.parse_args().quick
    try:
        rounds = 3 if quick else 15
        commands = 4 if quick else 10
        found = list(cases(debian_source("libvirt"), seed=1, each=5 if quick else 50, names=KINDS))
        benchmarks = [
            *libraries(rounds),
            builder(rounds),
            comparison(rounds),
            command(commands),
            explanation(found, commands),
        ]
    except (SourceUnavailable, Unavailable, XmlkitError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"{'':<52} {'xmlkit':>10} {'other':>10} {'ratio':>6} {'goal':>6}")
    missed = False
    for benchmark in benchmarks:
        ours, theirs = measured(benchmark)
        ratio = ours / theirs
        missed |= ratio > benchmark.goal
        print(
            f"{benchmark.name:<52} {ours * 1000:7.1f} ms {theirs * 1000:7.1f} ms {ratio:6.2f} "
            f"{benchmark.goal:6.2f}{'  missed' if ratio > benchmark.goal else ''}",
            flush=True,
        )
    return int(missed | explanations(found))


def measured(benchmark: Benchmark) -> tuple[float, float]:
    """Seconds of both, tried in turn; the first turn warms up and does not count."""
    ours, theirs = [], []
    for _ in range(benchmark.rounds + 1):
        ours.append(seconds(benchmark.ours))
        theirs.append(seconds(benchmark.theirs))
    return benchmark.of_rounds(ours[1:]), benchmark.of_rounds(theirs[1:])


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def libraries(rounds: int) -> list[Benchmark]:
    """In one process, over the domains that libvirt makes QEMU command lines of."""
    directory = debian_source("libvirt") / "tests" / "qemuxml2argvdata"
    sources = [path.read_bytes() for path in sorted(directory.glob("*.xml"))]
    hosts = [host_of(Document.parse(source)) for source in sources]
    pairs: list[tuple[bytes, Host]] = list(zip(sources, hosts, strict=True))
    # found once, as the command finds it once for all its files
    place = schemas.directory()
    schema = schemas.compiled(place, "domain")

    def rewrite() -> None:
        for source, host in pairs:
            document = Document.parse(source)
            _ = transform(document, plan(document, host)).source

    def copy() -> None:
        for source in sources:
            etree.tostring(etree.fromstring(source))

    def judge() -> None:
        for source in sources:
            validate(Document.parse(source), place)

    def judge_bare() -> None:
        for source in sources:
            schema(etree.fromstring(source))

    count = f"{len(sources):,} domains"
    return [
        Benchmark(f"{count}: parse, plan, transform / copy", rewrite, copy, 2.5, rounds, min),
        Benchmark(f"{count}: validate / RelaxNG", judge, judge_bare, 1.2, rounds, min),
    ]


def builder(rounds: int) -> Benchmark:
    """In one process: a guest of Nova's onto its volumes, beside a copy of it by lxml.

    Nova waits for this each time that it starts a guest: the ten have to take less than 10 ms.
    """
    text = GUEST.read_text()
    pool, directory, uuid = "nova-disks-pool", str(Path(INSTANCE).parent / "disks"), INSTANCE[-36:]
    names = [f"{uuid}_{name}" for name in ("disk", "disk.local", "disk.swap")]
    volumes = tuple(Volume(pool, name, f"{directory}/{name}", format="qcow2") for name in names)
    host = Host(9_000_000, "qemu", (), (Pool(pool, "dir", directory, volumes=volumes),))
    if len(to_volumes(text, host).changes) != len(names):
        raise Unavailable("a guest whose disks all become volumes")

    def ours() -> None:
        for _ in range(10):
            to_volumes(text, host)

    def theirs() -> None:
        for _ in range(10):
            etree.tostring(etree.fromstring(text.encode()))

    return Benchmark("10 guests of Nova: to_volumes / copy", ours, theirs, 6.0, rounds, min)


def comparison(rounds: int) -> Benchmark:
    """In one process: a domain of 26 disks and the same without the first of them."""
    try:
        from xmldiff import main as xmldiff
    except ImportError:
        raise Unavailable("no xmldiff: pip install xmldiff") from None
    targets = [f"vd{letter}" for letter in string.ascii_lowercase]
    disks = [
        f'<disk type="file" device="disk"><driver name="qemu" type="qcow2" cache="none"/>'
        f'<source file="/images/{target}"/><target dev="{target}" bus="virtio"/>'
        f"<address type='pci' bus='0x{number:02x}' slot='0x00'/></disk>"
        for number, target in enumerate(targets, 1)
    ]
    before, mark, after = GUEST.read_text().partition("<devices>")
    rest = after[after.rindex("</disk>") + len("</disk>") :]
    old, new = (before + mark + "\n".join(some) + rest for some in (disks, disks[1:]))

    def ours() -> int:
        return len(compare(Document.parse(old), Document.parse(new)))

    def theirs() -> int:
        return len(xmldiff.diff_texts(old.encode(), new.encode()))

    if ours() != 1:
        raise Unavailable(f"{ours()} differences where one disk is gone")
    name = f"one of 26 disks goes: compare, 1 / xmldiff, {theirs()}"
    return Benchmark(name, ours, theirs, 0.25, rounds, min)


def command(rounds: int) -> Benchmark:
    """A cold start of each: a disk of one domain is made a volume, the diff shown."""
    other = Path("/usr/bin/virt-xml")
    if not other.exists():
        raise Unavailable(f"no {other}: apt-get install virtinst")
    script = shutil.which("xmlkit", path=str(Path(sys.executable).parent))
    # as an installed package is; an editable one need not be
    compileall.compile_dir(Path(xmlkit.__file__).parent, quiet=1)
    start = [script] if script else [sys.executable, "-c", "from xmlkit.cli import main; main()"]
    ours = [*start, "diff", "--pool", f"disks={INSTANCE}", str(GUEST)]
    address = "source.pool=default-pool,source.volume=default-vol"
    theirs = [str(other), "--connect", "test:///default", "test", "--edit", "target=vda"]
    theirs += ["--disk", address, "--print-diff"]

    def preview(command: list[str], code: int) -> None:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        if done.returncode != code or not any(line.startswith("+ ") for line in lines):
            raise Unavailable(f"{' '.join(command)}: no diff: {done.stderr or done.stdout}")

    def preview_ours() -> None:
        preview(ours, 1)

    def preview_theirs() -> None:
        preview(theirs, 0)

    preview_ours()
    preview_theirs()
    name = "a cold preview: xmlkit diff / virt-xml --print-diff"
    return Benchmark(name, preview_ours, preview_theirs, 0.5, rounds, statistics.median)


def explanation(cases: list[Case], rounds: int) -> Benchmark:
    """A cold start of each: what is wrong with one domain."""
    script = shutil.which("xmlkit", path=str(Path(sys.executable).parent))
    start = [script] if script else [sys.executable, "-c", "from xmlkit.cli import main; main()"]
    case = next(each for each in cases if each.schema == "domain")
    with tempfile.NamedTemporaryFile(suffix=".xml", delete=False) as file:
        file.write(case.source)
    atexit.register(Path(file.name).unlink)

    def ours() -> None:
        done = subprocess.run([*start, "validate", file.name], check=False, capture_output=True)
        if done.returncode != 1:
            raise Unavailable(f"xmlkit validate: {done.stderr.decode()}")

    def theirs() -> None:
        if not jing("domain", [file.name]):
            raise Unavailable("jing finds nothing wrong")

    return Benchmark(
        "a cold explanation: xmlkit validate / jing", ours, theirs, 0.5, rounds, statistics.median
    )


def explanations(cases: list[Case]) -> bool:
    """Print how good the first finding of each is, and whether a goal was missed."""
    count = len(cases)
    print(
        f"\n{f'{count} documents with a fault: the first finding':<34} {'line':>6} {'+ name':>7} "
        f"{'+ meant':>8} {'XPath':>6} {'findings':>9} {'ms each':>8}"
    )
    results = {}
    for name, explain in (("xmlkit", by_xmlkit), ("libxml2", by_libxml2), ("jing", by_jing)):
        begin = time.perf_counter()
        told = explain(cases)
        spent = (time.perf_counter() - begin) / count * 1000
        scores = [
            score(case.faults[0], each[0]) if each else Score(False, False, False, False)
            for case, each in zip(cases, told, strict=True)
        ]
        rates = [100 * sum(each[number] for each in scores) / count for number in range(4)]
        found = sum(map(len, told)) / count
        results[name] = (rates, found)
        shown = " ".join(f"{rate:7.1f}" for rate in rates)
        print(f"{name:<42} {shown} {found:9.2f} {spent:8.2f}", flush=True)
    (line, named, meant, xpath), found = results["xmlkit"]
    return line < 99 or named < 98 or meant < 98 or xpath < 98 or found > 1.05


def by_xmlkit(cases: list[Case]) -> list[list[Told]]:
    """The findings of validate()."""
    return [
        [
            Told(each.line, each.message, each.suggestions, each.xpath)
            for each in validate(Document.parse(case.source))
        ]
        for case in cases
    ]


def by_libxml2(cases: list[Case]) -> list[list[Told]]:
    """The error log of lxml's RelaxNG."""
    told = []
    for case in cases:
        schema = schemas.compiled(schemas.directory(), case.schema)
        schema.validate(etree.fromstring(case.source))
        told.append([Told(e.line, e.message, (), e.path or "") for e in schema.error_log])
    return told


def by_jing(cases: list[Case]) -> list[list[Told]]:
    """One start of it for each schema."""
    told: list[list[Told]] = [[] for _ in cases]
    with tempfile.TemporaryDirectory() as directory:
        for schema in KINDS:
            names = {}
            for number, case in enumerate(cases):
                if case.schema == schema:
                    path = Path(directory, f"{number}.xml")
                    path.write_bytes(case.source)
                    names[str(path)] = number
            for name, line, message in jing(schema, list(names)):
                told[names[name]].append(Told(line, message))
    return told


def jing(schema: str, names: list[str]) -> list[tuple[str, int, str]]:
    """File, line and message of what jing says."""
    if shutil.which("jing") is None:
        raise Unavailable("no jing: apt-get install jing")
    command = ["jing", f"{schemas.directory()}/{schema}.rng", *names]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.findall(r"^(/.*?\.xml):(\d+):\d+: error: (.*)$", done.stdout, re.MULTILINE)
    return [(name, int(line), message) for name, line, message in found]


if __name__ == "__main__":
    sys.exit(main())
