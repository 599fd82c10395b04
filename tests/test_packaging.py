"""What the distributions hold, what the tests run against, and where test documents come from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import pytest
import sources

import xmlkit

ROOT = Path(__file__).parents[1]
NAME = "libvirt_xmlkit"
GUEST = ROOT / "fixtures/nova/qcow2-file.xml"

# One worker builds once for all of these.
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Return the output of a command that has to succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def build(project: Path, out: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "--directory", out, cwd=project)


def wheel_names(directory: Path) -> set[str]:
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel of the checkout."""
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out)
    return out


@pytest.fixture(scope="module")
def sdist(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    (archive,) = dist.glob("*.tar.gz")
    out = tmp_path_factory.mktemp("sdist")
    run("tar", "--extract", "--file", archive, cwd=out)
    (tree,) = out.iterdir()
    return tree


@pytest.fixture(scope="module")
def core_metadata(dist: Path) -> Message:
    """The METADATA of the wheel."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return HeaderParser().parsestr(
            archive.read(f"{NAME}-{xmlkit.__version__}.dist-info/METADATA").decode()
        )


def test_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    """Every file is part of the package or of its metadata: no tests, no fixtures."""
    tops = {name.split("/")[0] for name in wheel_names(dist)}

    assert {"xmlkit", f"{NAME}-{xmlkit.__version__}.dist-info"} == tops


def test_wheel_ships_all_modules_types_and_schemas(dist: Path) -> None:
    """Each file of xmlkit/, schemas/ and templates/ lies in the wheel, py.typed among them."""
    expected = {
        f"{target}/{path.relative_to(ROOT / source)}"
        for source, target in (
            ("xmlkit", "xmlkit"),
            ("schemas", "xmlkit/schemas"),
            ("templates", "xmlkit/templates"),
            ("systemd", "xmlkit/systemd"),
        )
        for path in (ROOT / source).rglob("*")
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts)
    }

    assert "xmlkit/py.typed" in expected
    assert any(name.startswith("xmlkit/schemas/") for name in expected)
    assert "xmlkit/templates/volume.xml" in expected
    assert expected == {name for name in wheel_names(dist) if name.startswith("xmlkit/")}


def test_wheel_carries_the_license(dist: Path, core_metadata: Message) -> None:
    """The license is named by its SPDX expression and shipped in full."""
    assert "Apache-2.0" == core_metadata["License-Expression"]
    assert (
        f"{NAME}-{xmlkit.__version__}.dist-info/licenses/{core_metadata['License-File']}"
        in wheel_names(dist)
    )


def test_no_dependency_is_compiled(core_metadata: Message) -> None:
    """libvirt-python is an extra; a plain installation compiles nothing."""
    required = core_metadata.get_all("Requires-Dist", [])
    plain = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" not in line}

    assert {"click", "jinja2", "lxml", "rich", "xmlschema"} == plain
    assert "libvirt-python; extra == 'libvirt'" in required


def test_pytest_finds_the_plugin(dist: Path, core_metadata: Message) -> None:
    """Under the name of its module, and what it needs for snapshots is an extra."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        points = archive.read(f"{NAME}-{xmlkit.__version__}.dist-info/entry_points.txt").decode()

    assert "[pytest11]\nxmlkit.testing = xmlkit.testing\n" in points
    required = core_metadata.get_all("Requires-Dist", [])
    assert {"pytest", "syrupy"} == {
        re.split(r"[^\w-]", line)[0] for line in required if "extra == 'testing'" in line
    }


def test_sdist_holds_what_the_tests_need(sdist: Path) -> None:
    """Tests, fixtures and schemas travel with the source, and so does each build file."""
    expected = {
        path.relative_to(ROOT)
        for folder in ("tests", "fixtures", "schemas", "templates", "ansible")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts)
    } | {Path("LICENSE"), Path("Makefile"), Path("pyproject.toml"), Path("tox.ini")}
    shipped = {path.relative_to(sdist) for path in sdist.rglob("*") if path.is_file()}

    assert set() == expected - shipped


def test_sdist_builds_the_same_wheel(sdist: Path, dist: Path, tmp_path: Path) -> None:
    """A wheel made from the sdist is that of the checkout, byte for byte."""
    build(sdist, tmp_path)

    assert wheel_names(dist) == wheel_names(tmp_path)
    (made,), (again,) = dist.glob("*.whl"), tmp_path.glob("*.whl")
    assert made.read_bytes() == again.read_bytes()


def test_command_prints_the_version() -> None:
    """The version is that of the distribution, and the command is on the path of the scripts."""
    command = shutil.which("xmlkit", path=str(Path(sys.executable).parent))
    assert command is not None

    assert metadata.version("libvirt-xmlkit") == xmlkit.__version__
    assert xmlkit.__version__ == run(command, "--version").split()[-1]


def test_command_starts_without_libvirt_python() -> None:
    """The extra is imported by the commands that connect, not by all."""
    code = "import sys; sys.modules['libvirt'] = None; import xmlkit.cli"

    assert "" == run(sys.executable, "-c", code)


def interpreters() -> list[str]:
    """This one, and the others at hand that xmlkit supports and that can make environments.

    At hand are those in PATH, and those that pyenv keeps beside it.
    """
    found = {"{}.{}".format(*sys.version_info[:2]): sys.executable}
    kept = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for minor in range(11, 20):
        beside = sorted(kept.glob(f"3.{minor}.*/bin/python3.{minor}"), reverse=True)
        for path in (shutil.which(f"python3.{minor}"), *map(str, beside)):
            if (
                path
                and not subprocess.run(
                    [path, "-c", "import ensurepip"], capture_output=True
                ).returncode
            ):
                found.setdefault(f"3.{minor}", path)
    return list(found.values())


@pytest.fixture(params=interpreters(), ids=lambda path: Path(path).name)
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The programs of a new environment, with nothing in it, of each interpreter in turn."""
    run(request.param, "-m", "venv", "--without-pip", tmp_path / "venv")
    return tmp_path / "venv/bin"


def test_a_fresh_environment_without_extras(fresh: Path, dist: Path, tmp_path: Path) -> None:
    """The wheel brings what its commands need; what needs libvirt-python says so in one line."""
    (wheel,) = dist.glob("*.whl")
    xmlkit_ = fresh / "xmlkit"
    _install(fresh, str(wheel))

    assert f"xmlkit {xmlkit.__version__}\n" == run(xmlkit_, "--version", cwd=tmp_path)
    assert "not installed" in run(xmlkit_, "--version", "--verbose", cwd=tmp_path)
    run(xmlkit_, "validate", "--policy", "nova", GUEST, cwd=tmp_path)
    made = run(xmlkit_, "pool", "create", "--type", "dir", "--target", "/p", "p", cwd=tmp_path)
    assert "<name>p</name>" in made
    refused = subprocess.run(
        [xmlkit_, "observe", "--connect", "test:///default"], capture_output=True, text=True
    )
    assert 2 == refused.returncode
    assert "pip install libvirt-python" in refused.stderr
    assert 1 == refused.stderr.count("\n")


def _try_libvirt(fresh: Path, directory: Path) -> None:
    observe = (fresh / "xmlkit", "observe", "--connect", "test:///default")
    assert "<capabilities>" in run(*observe, cwd=directory)


def _try_testing(fresh: Path, directory: Path) -> None:
    (directory / "test_guest.py").write_text(
        f"from pathlib import Path\nGUEST = Path({str(GUEST)!r})\n"
        "def test_guest(libvirt_snapshot):\n    assert libvirt_snapshot == GUEST.read_text()\n"
    )
    for options in (["--snapshot-update"], []):
        run(fresh / "python", "-W", "error", "-m", "pytest", "-q", *options, cwd=directory)


def _try_test(fresh: Path, directory: Path) -> None:
    """Modules of these tests, which know no libvirt; and the programs that others start."""
    modules = (str(ROOT / f"tests/test_{name}.py") for name in ("table", "templates"))
    pytest_ = (fresh / "python", "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider")
    run(*pytest_, *modules, cwd=directory)
    for program in ("ansible-playbook", "pre-commit"):
        run(fresh / program, "--version", cwd=directory)


def _try_docs(fresh: Path, directory: Path) -> None:
    """A page of a site, with the extensions and the theme of docs/conf.py."""
    conf = (ROOT / "docs/conf.py").read_text()
    theme = re.search(r'^html_theme = "(\w+)"$', conf, re.M)
    extensions = re.search(r"^extensions = .*$", conf, re.M)
    assert theme
    assert extensions
    (directory / "site").mkdir()
    (directory / "site/conf.py").write_text(
        f"{extensions[0]}\nhtml_theme = {theme[1]!r}\nmyst_heading_anchors = 1\n"
    )
    (directory / "site/index.md").write_text("# A page\n\nWith [a link](#a-page).\n")
    run(fresh / "sphinx-build", "-q", "-n", "-W", "-b", "html", "site", "built", cwd=directory)
    assert "A page" in (directory / "built/index.html").read_text()


EXTRAS = {"docs": _try_docs, "libvirt": _try_libvirt, "test": _try_test, "testing": _try_testing}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_fresh_environment_with_an_extra(
    extra: str, fresh: Path, dist: Path, tmp_path: Path
) -> None:
    """Each of them alone does what it is for, and nothing in the environment contradicts it."""
    (wheel,) = dist.glob("*.whl")
    _install(fresh, f"{wheel}[{extra}]")
    EXTRAS[extra](fresh, tmp_path)


def test_each_extra_is_tried(core_metadata: Message) -> None:
    """As the wheel names them."""
    assert set(EXTRAS) == set(core_metadata.get_all("Provides-Extra", []))


def test_the_sdist_installs_as_well(fresh: Path, dist: Path) -> None:
    """In a fresh environment, where pip builds the wheel, with an extra."""
    (archive,) = dist.glob("*.tar.gz")
    _install(fresh, f"{archive}[testing]")
    run(fresh / "xmlkit", "validate", GUEST)


def _install(fresh: Path, what: str) -> None:
    """Without an index it cannot be: then this is skipped, but never in continuous integration."""
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", fresh / "python"]
    done = subprocess.run([*pip, "install", "--quiet", what], capture_output=True, text=True)
    if "No matching distribution found" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert 0 == done.returncode, done.stderr
    run(*pip, "check")


def test_documents_need_nothing_that_only_linux_has(tmp_path: Path) -> None:
    """On macOS documents can be looked at: the functions that are Linux's own are taken away."""
    linux = {
        *("copy_file_range", "eventfd", "getxattr", "listxattr", "memfd_create", "O_DIRECT"),
        *("O_PATH", "O_TMPFILE", "posix_fadvise", "posix_fallocate", "POSIX_FADV_DONTNEED"),
        *("sched_getaffinity", "sched_setaffinity", "setns", "setxattr", "splice", "unshare"),
    }
    code = (
        "import os, sys; sys.platform = 'darwin'\n"
        f"for name in {linux!r}:\n    if hasattr(os, name): delattr(os, name)\n"
        "from xmlkit.cli import main; main()"
    )

    def command(*words: str, code_: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert code_ == done.returncode, done.stderr
        return done.stdout

    (tmp_path / "guest.xml").write_bytes(GUEST.read_bytes())
    there = ("--pool", "p=/var/lib/nova/instances/disks", "--relocate", "p")
    assert "vda  move, file to volume" in command("diff", *there, "guest.xml", code_=1)
    assert "xmlkit.plan" in command("plan", *there, "guest.xml")
    for _ in range(2):  # the second time over the first
        command("transform", *there, "-o", "volumes.xml", "guest.xml")
    assert "volume" in command("compare", "guest.xml", "volumes.xml", code_=1)
    command("validate", "--jobs", "2", "guest.xml", "volumes.xml")
    command("volume", "create", "p/new", "--image-format", "qcow2", "--capacity", "1G")


def test_what_libvirt_python_needs() -> None:
    """PyPI has no wheel of it, as the README says: then it needs the headers."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", os.devnull]
    done = subprocess.run(
        [*pip, "--no-cache-dir", "--only-binary", ":all:", "libvirt-python"],
        capture_output=True,
        text=True,
    )
    assert 0 != done.returncode
    assert "No matching distribution found for libvirt-python" in done.stderr


def test_fedora_s_packages_are_those_of_libvirt_s_spec_file(libvirt_source: Path) -> None:
    """Where the README says that Fedora has the schemas and the headers."""
    (line,) = re.findall(r"^dnf install (.*)$", (ROOT / "README.md").read_text(), re.M)
    spec = (libvirt_source / "libvirt.spec.in").read_text()
    lists = dict(re.findall(r"^%files (\S+)(?: -f \S+)?\n(.*?)(?=^%files)", spec, re.M | re.S))
    assert "%{_datadir}/libvirt/schemas/*.rng" in lists["libs"].splitlines()
    assert "%{_libdir}/pkgconfig/libvirt.pc" in lists["devel"].splitlines()
    assert {"libvirt-libs", "libvirt-devel"} <= set(line.split())


@pytest.mark.skipif("TOX_ENV_DIR" not in os.environ, reason="does not run under tox")
def test_tests_run_against_the_installed_wheel() -> None:
    """Under tox the package comes from the environment, never from the checkout."""
    assert Path(xmlkit.__file__).is_relative_to(os.environ["TOX_ENV_DIR"])


def test_supported_pythons_are_stated_once() -> None:
    """ruff and mypy assume the oldest Python that the package accepts."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = config["project"]["requires-python"].removeprefix(">=")

    assert oldest == config["tool"]["mypy"]["python_version"]
    assert f"py{oldest.replace('.', '')}" == config["tool"]["ruff"]["target-version"]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with the source package `greeting` 1.0, and an empty cache to fetch it into."""
    for program in ("apt-get", "dpkg-source", "dpkg-scansources"):
        if shutil.which(program) is None and not os.environ.get("CI"):
            pytest.skip(f"{program} is not installed")
    tree = tmp_path / "greeting-1.0"
    debian = tree / "debian"
    (debian / "source").mkdir(parents=True)
    (tree / "hello.xml").write_text("<domain/>\n")
    (debian / "source/format").write_text("3.0 (native)\n")
    (debian / "control").write_text(
        "Source: greeting\nMaintainer: Nobody <nobody@localhost>\n\nPackage: greeting\n"
        "Architecture: all\nDescription: a greeting\n"
    )
    (debian / "changelog").write_text(
        "greeting (1.0) unstable; urgency=low\n\n  * First.\n\n"
        " -- Nobody <nobody@localhost>  Thu, 01 Jan 2026 00:00:00 +0000\n"
    )
    repository = tmp_path / "repository"
    repository.mkdir()
    run("dpkg-source", "--build", tree, cwd=repository)
    (repository / "Sources").write_text(run("dpkg-scansources", ".", cwd=repository))
    entry = f"Types: deb-src\nURIs: file:{repository}\nSuites: ./\nTrusted: yes\n"
    monkeypatch.setattr(sources, "source_list", lambda *_: entry)
    monkeypatch.setenv("XMLKIT_CACHE", str(tmp_path / "cache"))
    return repository


def state_of_apt() -> dict[str, tuple[int, int]]:
    """Size and time of each file that names or describes the system's package sources."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for top in ("/etc/apt", "/var/lib/apt/lists", "/var/cache/apt")
        for path in Path(top).rglob("*")
        if path.is_file()
    }


def test_source_package_is_unpacked_into_the_cache(archive: Path, tmp_path: Path) -> None:
    """The tree is complete, and once there it needs no archive."""
    tree = sources.debian_source("greeting")
    shutil.rmtree(archive)

    assert "<domain/>\n" == (tree / "hello.xml").read_text()
    assert tmp_path / "cache/bookworm/greeting/greeting-1.0" == tree
    assert tree == sources.debian_source("greeting")


def test_fetching_leaves_the_sources_of_the_system_alone(archive: Path) -> None:
    """Neither the source lists nor the indexes of the system's apt change."""
    before = state_of_apt()
    sources.debian_source("greeting")

    assert before == state_of_apt()


def test_source_package_is_fetched_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that ask at once one fetches, the others wait for it."""
    fetch, fetched = sources._fetch, []

    def counting(package: str, suite: str, unpacked: Path) -> None:
        fetched.append(package)
        fetch(package, suite, unpacked)

    monkeypatch.setattr(sources, "_fetch", counting)
    with ThreadPoolExecutor(4) as pool:
        trees = set(pool.map(sources.debian_source, ["greeting"] * 4))

    assert ["greeting"] == fetched
    assert 1 == len(trees)


def test_failed_fetch_says_why_and_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    """A download that fails names the cause, and the cache holds no part of it."""
    (archive / "greeting_1.0.tar.xz").write_bytes(b"cut off")

    with pytest.raises(sources.SourceUnavailable, match=r"greeting_1\.0\.tar\.xz"):
        sources.debian_source("greeting")
    assert [] == list((tmp_path / "cache/bookworm").glob("*greeting*"))


def test_unknown_source_package_is_named(archive: Path) -> None:
    """A package that the archive lacks is an error with its name."""
    with pytest.raises(sources.SourceUnavailable, match="farewell"):
        sources.debian_source("farewell")
