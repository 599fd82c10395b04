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
    """A wheel made from the sdist has the files of the one made from the checkout."""
    build(sdist, tmp_path)

    assert wheel_names(dist) == wheel_names(tmp_path)


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


@pytest.fixture(scope="module", params=interpreters(), ids=lambda path: Path(path).name)
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment, with nothing in it but pip, for each interpreter."""
    directory = tmp_path_factory.mktemp("fresh")
    run(request.param, "-m", "venv", directory / "venv")
    return directory / "venv/bin"


def test_a_fresh_environment_has_it_all(fresh: Path, dist: Path, tmp_path: Path) -> None:
    """The wheel brings what its commands need; the extra brings libvirt, and says so without it."""
    (wheel,) = dist.glob("*.whl")
    xmlkit_ = fresh / "xmlkit"
    guest = ROOT / "fixtures/nova/qcow2-file.xml"
    observe: list[str | Path] = [xmlkit_, "observe", "--connect", "test:///default"]

    _install(fresh, str(wheel))
    assert f"xmlkit {xmlkit.__version__}\n" == run(xmlkit_, "--version", cwd=tmp_path)
    assert "not installed" in run(xmlkit_, "--version", "--verbose", cwd=tmp_path)
    run(xmlkit_, "validate", "--policy", "nova", guest, cwd=tmp_path)
    made = run(xmlkit_, "pool", "create", "--type", "dir", "--target", "/p", "p", cwd=tmp_path)
    assert "<name>p</name>" in made
    refused = subprocess.run(observe, capture_output=True, text=True)
    assert 2 == refused.returncode
    assert "pip install libvirt-python" in refused.stderr
    assert 1 == refused.stderr.count("\n")

    _install(fresh, f"{wheel}[libvirt]")
    assert "<capabilities>" in run(*observe, cwd=tmp_path)

    _install(fresh, f"{wheel}[testing]")
    (tmp_path / "test_guest.py").write_text(
        f"from pathlib import Path\nGUEST = Path({str(guest)!r})\n"
        "def test_guest(libvirt_snapshot):\n    assert libvirt_snapshot == GUEST.read_text()\n"
    )
    for options in (["--snapshot-update"], []):
        run(fresh / "python", "-W", "error", "-m", "pytest", "-q", *options, cwd=tmp_path)
    run(fresh / "python", "-m", "pip", "check")


def test_the_sdist_installs_as_well(dist: Path, tmp_path: Path) -> None:
    """In a fresh environment, where pip builds the wheel."""
    (archive,) = dist.glob("*.tar.gz")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    _install(tmp_path / "venv/bin", str(archive))
    run(tmp_path / "venv/bin/xmlkit", "validate", ROOT / "fixtures/nova/qcow2-file.xml")


def _install(programs: Path, what: str) -> None:
    """Without an index it cannot be: then this is skipped, but never in continuous integration."""
    command: list[str | Path] = [programs / "python", "-m", "pip", "install", "--quiet", what]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution found" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert 0 == done.returncode, done.stderr


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
