"""Secrets never show: in no place where libvirt's documents have them, however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from xmlkit.redaction import may_have_secrets, redact, redact_pair, secrets

FIXTURES = Path(__file__).parents[1] / "fixtures"
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"

# Each has the secret HIDE-ME in it, and `stays`, which is none.
SECRETS = {
    "vnc": ("<graphics type='vnc' passwd='HIDE-ME'/>", "vnc"),
    "spice": ('<graphics type="spice" passwd="HIDE-ME"/>', "spice"),
    "blanks around =": ("<graphics type='vnc' passwd = 'HIDE-ME' port='5'/>", "port='5'"),
    "line breaks": ("<graphics\n  passwd\n=\n'HIDE-ME'\n  port='5'/>", "port='5'"),
    "> before it": ("<graphics listen='a>b' passwd='HIDE-ME'/>", "a>b"),
    "' before it": ('<graphics listen="it\'s" passwd="HIDE-ME"/>', "it's"),
    "entities": ("<graphics passwd='&lt;&quot;HIDE-ME&#13;'/>", "passwd"),
    "not empty": ("<graphics passwd='HIDE-ME'></graphics>", "</graphics>"),
    "commented out": ("<!-- <graphics passwd='HIDE-ME'/> --><a/>", "<a/>"),
    "cookie": ("<cookies><cookie name='sid'>HIDE-ME</cookie></cookies>", "sid"),
    "cookie, prefixed": ("<x:cookie xmlns:x='u' name='sid'>HIDE-ME</x:cookie>", "sid"),
    "cookie, CDATA": ("<cookie name='sid'><![CDATA[HIDE-ME]]></cookie>", "sid"),
    "cookie, CDATA with an end tag": (
        "<cookie name='sid'><![CDATA[</cookie>HIDE-ME]]></cookie>",
        "sid",
    ),
    "cookie, comment with an end tag": (
        "<cookie name='sid'><!-- </cookie> -->HIDE-ME</cookie>",
        "sid",
    ),
    "cookie, end tag with a blank": ("<cookie name='sid'>HIDE-ME</cookie >", "sid"),
    "cookie, lines": ("<cookie\n name='sid'\n>\nHIDE-ME\n</cookie>", "sid"),
    "auth": ("<auth username='HIDE-ME'><secret type='ceph' usage='u'/></auth>", "usage='u'"),
    "query": ("<source protocol='https' name='n' query='token=HIDE-ME'/>", "name='n'"),
    "host": ("<host name='user:HIDE-ME@host' port='1'/>", "port='1'"),
    "name, signed": ("<source protocol='https' name='n?sig=HIDE-ME'/>", "https"),
    "instruction": ("<?x passwd='HIDE-ME'?><a/>", "<?x"),
    "initarg": ("<initarg>--password=HIDE-ME</initarg><a/>", "<a/>"),
    "cmdline": ("<cmdline>ro passwd=HIDE-ME</cmdline><a/>", "<a/>"),
    "initenv": ("<initenv name='API_KEY'>HIDE-ME</initenv><a/>", "API_KEY"),
    "qemu property": (
        "<q:property xmlns:q='u' name='password' type='string' value='HIDE-ME'/>",
        "type='string'",
    ),
    "auth, prefixed": ("<x:auth xmlns:x='u' username='HIDE-ME'/>", "xmlns"),
    "upper case": ("<!-- PASSWD='HIDE-ME' --><a/>", "<a/>"),
    "a letter that is one of them but for its case": (
        "<!-- pa\u017f\u017fwd='HIDE-ME' --><a/>",
        "<a/>",
    ),
    "query, signed": ("<source name='n' query='Expires=1&amp;Signature=HIDE-ME'/>", "name='n'"),
}

# As the value of <qemu:arg>.
ARGUMENTS = {
    "secret": "secret,id=sec0,data=HIDE-ME",
    "data without the word": "sev-guest,id=sev0,data=HIDE-ME",
    "secret, then more": "secret,id=sec0,data=HIDE-ME,format=raw",
    "secret, doubled comma": "secret,id=sec0,data=a,,HIDE-ME",
    "secret, blank": "secret,id=sec0,data=a HIDE-ME",
    "secret, &": "secret,id=sec0,data=a&HIDE-ME",
    "secret, JSON": '{"qom-type":"secret","id":"sec0","data":"HIDE-ME"}',
    "password": "port=5900,password=HIDE-ME",
    "password, first": "password=HIDE-ME,port=5900",
    "password, JSON": '{"driver": "ssh", "password": "HIDE-ME"}',
    "option": "--token=HIDE-ME",
    "dotted": "driver=https,file.password=HIDE-ME",
    "rbd": "file=rbd:pool/image:id=cinder:key=HIDE-ME==:auth_supported=cephx",
    "url": "file=https://user:HIDE-ME@example.org/image",
    "capitals": "PASSWORD=HIDE-ME",
    "short": "user=admin,pass=HIDE-ME",
    "iscsi": "file=iscsi://user%HIDE-ME@host/target/0",
}


def argument(value: str, quote: str = "'") -> str:
    """A <qemu:arg> with this value."""
    escaped = value.replace("&", "&amp;").replace("<", "&lt;")
    escaped = escaped.replace("'", "&apos;").replace('"', "&quot;" if quote == '"' else '"')
    element = f"<qemu:arg value={quote}{escaped}{quote}/>"
    return f"<qemu:commandline xmlns:qemu='{QEMU}'>{element}</qemu:commandline>"


@pytest.mark.parametrize(("xml", "stays"), SECRETS.values(), ids=SECRETS)
def test_a_secret_in_a_document_does_not_show(xml: str, stays: str) -> None:
    """And what is none does."""
    shown = redact(f"<domain>{xml}</domain>")

    assert "HIDE-ME" not in shown
    assert stays in shown


@pytest.mark.parametrize("quote", ["'", '"'], ids=["single", "double"])
@pytest.mark.parametrize("value", ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_secret_on_a_qemu_command_line_does_not_show(value: str, quote: str) -> None:
    """In each of the ways in which QEMU takes one: the argument is hidden as a whole."""
    assert argument("(redacted)", quote) == redact(argument(value, quote))


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param("<q:env name='API_TOKEN' value='HIDE-ME'/>", id="token"),
        pytest.param("<q:env value='HIDE-ME' name='AWS_SECRET_ACCESS_KEY'/>", id="value-first"),
        pytest.param("<q:env name='db_password' value='HIDE-ME'/>", id="small-letters"),
    ],
)
def test_a_secret_in_qemus_environment_does_not_show(xml: str) -> None:
    """A variable whose name says that it is one."""
    assert "HIDE-ME" not in redact(f"<q:commandline xmlns:q='{QEMU}'>{xml}</q:commandline>")


def test_a_command_line_is_known_by_its_namespace_and_not_by_its_prefix() -> None:
    """It may have none."""
    xml = f"<commandline xmlns='{QEMU}'><arg value='secret,id=s,data=HIDE-ME'/></commandline>"

    assert "HIDE-ME" not in redact(f"<domain>{xml}</domain>")


@pytest.mark.parametrize(
    "xml",
    [
        "<domain><name>password</name></domain>",
        "<domain><description>a secret, a token, a key and a cookie</description></domain>",
        "<graphics type='vnc' passwdValidTo='2030-01-01T00:00:00'/>",
        "<secret type='ceph' uuid='0'/>",
        "<cookies/>",
        "<cookie/>",
        "<a b='passwd=x'/>",
        "<user username='root'/>",
        argument("-device"),
        argument("virtio-keyboard-pci,id=input0"),
        f"<q:env xmlns:q='{QEMU}' name='PATH' value='/bin'/>",
    ],
)
def test_what_is_no_secret_stays_as_it_is(xml: str) -> None:
    """A document without one is shown byte for byte."""
    assert xml == redact(xml)


def test_nothing_of_a_secret_shows_through() -> None:
    """Two secrets of another length, and the same one twice, look alike."""
    short, long = (redact(f"<graphics passwd='{'x' * length}'/>") for length in (1, 40))

    assert short == long


@pytest.mark.parametrize(
    "name", [*sorted(path.name for path in FIXTURES.glob("*.xml")), "nova/qcow2-vol-ceph.xml"]
)
def test_a_redacted_document_still_is_one(name: str) -> None:
    """With the same elements in it."""
    text = (FIXTURES / name).read_text()

    assert [each.tag for each in etree.fromstring(text.encode()).iter()] == [
        each.tag for each in etree.fromstring(redact(text).encode()).iter()
    ]


@pytest.mark.parametrize("show", [redact, lambda text: redact_pair(text, text)[1]])
def test_none_of_the_places_in_the_fixture_shows(show: object) -> None:
    """fixtures/secrets.xml has one of each kind, numbered."""
    text = (FIXTURES / "secrets.xml").read_text()
    assert callable(show)

    assert 7 == text.count("HIDE-ME")
    assert "HIDE-ME" not in show(text)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        pytest.param("<a passwd='x'/>", "<a passwd='x'/>", 0, id="same"),
        pytest.param("<a passwd='x'/>", '<a passwd="x"/>', 0, id="other-quotes"),
        pytest.param("<a passwd='x'/>", "<a passwd='y'/>", 1, id="another"),
        pytest.param("<a passwd='x'/>", "<a passwd='X'/>", 1, id="other-case"),
        pytest.param("<a/>", "<a passwd='x'/>", 1, id="new"),
        pytest.param("<a passwd='x'/>", "<a/>", 0, id="gone"),
        pytest.param("<a><cookie>x</cookie></a>", "<a><cookie>y</cookie></a>", 1, id="cookie"),
        pytest.param(
            "<a><b passwd='x'/><c passwd='y'/></a>",
            "<a><b passwd='x'/><c passwd='z'/></a>",
            1,
            id="one-of-two",
        ),
    ],
)
def test_a_change_of_a_secret_shows_as_changed(before: str, after: str, changed: int) -> None:
    """Neither the old value nor the new one, nor a hash."""
    old, new = redact_pair(before, after)

    assert (0, changed) == (old.count("(changed)"), new.count("(changed)"))
    assert after.count("passwd") == new.count("passwd")


# In documents that need not be valid.


@pytest.mark.parametrize("name", SECRETS)
def test_what_redaction_hides_is_among_the_secrets(name: str) -> None:
    """By place, so that each can be hidden where it stands."""
    text, stays = SECRETS[name]
    spans = secrets(text)
    shown = "".join(
        text[end:start]
        for (_, end), (start, _) in zip(
            [(0, 0), *spans], [*spans, (len(text), len(text))], strict=True
        )
    )

    assert "HIDE-ME" not in shown
    assert stays in shown
    assert all(start < end for start, end in spans)
    assert may_have_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "<graphics paswd='HIDE-ME'/>",
        "<graphics type='vnc' PASSWD = \"HIDE-ME\" port='1'/>",
        "<graphics x:pasword='HIDE-ME'/>",
        "<pool><source><auth><passwrod>HIDE-ME</passwrod></auth></source></pool>",
        "<encryption><pasphrase><![CDATA[HIDE-ME]]></pasphrase></encryption>",
        "<cokie name='c'>HIDE<!-- x -->-ME</cokie>",
        "<auth type='chap'>HIDE-ME<secret usage='u'/></auth>",
        "<auth><secret usage='u'>HIDE-ME</secret></auth>",
        "<graphics type='vnc'>HIDE-ME</graphics>",
        # what others call it
        "<graphics type='vnc' pwd='HIDE-ME'/>",
        "<graphics vncPass='HIDE-ME'/>",
        "<source protocol='rbd' key='HIDE-ME'/>",
        "<auth auth-token='HIDE-ME'/>",
        "<auth secret='HIDE-ME'/>",
        "<auth><userpassword>HIDE-ME</userpassword></auth>",
        # what virsh secret-set-value would be given
        "<secret ephemeral='no'><usage type='volume'/><value>HIDE-ME</value></secret>",
        "<secret><data encoding='base64'>HIDE-ME</data></secret>",
        # where its UUID should be
        "<auth><secret type='ceph' uuid='HIDE-ME'/></auth>",
        "<secret ephemeral='no'><uuid>HIDE-ME</uuid></secret>",
    ],
)
def test_what_is_nearly_a_secret_is_one(text: str) -> None:
    """Its name or place is wrong; the rest of the document stays."""
    before, after = redact_pair(text, text.replace("HIDE", "OTHER"), invalid=True)

    assert "HIDE" not in before
    assert "OTHER" not in after
    assert ("(redacted)" in before, "(changed)" in after) == (True, True)
    assert text.partition(" ")[0].partition(">")[0] in before
    # most guests have graphics, and few a password
    assert may_have_secrets(text) or text.startswith("<graphics type='vnc'>")


@pytest.mark.parametrize(
    "text",
    [
        "<disk type='file' device='disk'><source path='/x'/><target dev='vda'/></disk>",
        "<auth>\n  <secret usage='u'/>\n</auth>",
        "<interface><link state='up'/><boot order='1'/></interface>",
        "<hostdev mode='passthrough'/>",
        "<features><kvm passthrough='on' passthru='on'/></features>",
        "<graphics passwdValidTo='2030-01-01T00:00:00' keymap='de'/>",
        "<volume><key>/a/b</key></volume>",
        "<encryption secret='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/>",
        "<secret><uuid> 6dd3e4a5-1d76-44ce-961f-f119f5aad935</uuid></secret>",
        "<secret><usage type='ceph'><name>c</name></usage></secret>",
        "<secret type='ceph' uuid='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/>",
        "<secret type='ceph' uuid='6dd3e4a5-1d76-44ce-961f-f119f5aad93x'/>",
        "<enum><value>a</value></enum><secret/><enum><value>a</value></enum>",
        "<features><pae/><hap state='on'/></features>",
    ],
)
def test_names_that_are_only_like_others_are_none(text: str) -> None:
    """Blank text is none either."""
    assert () == secrets(text)


@pytest.mark.parametrize(
    "xml",
    [
        "<source protocol='https' qurey='sig=HIDE-ME'/>",
        "<target query='HIDE-ME'/>",
        "<auth usrname='HIDE-ME'/>",
        "<atuh username='HIDE-ME'/>",
        "<q:agr value='secret,id=a,data=HIDE-ME'/>",
        "<q:arg vaule='secret,id=a,data=HIDE-ME'/>",
        "<q:evn name='API_TOKEN' value='HIDE-ME'/>",
        "<q:env nmae='API_TOKEN' vlaue='HIDE-ME'/>",
    ],
)
def test_a_slip_in_other_names_makes_no_secret_shown(xml: str) -> None:
    """Of an attribute that holds one only in some elements, and of these."""
    assert ["HIDE-ME"] == [xml[start:end].rpartition("=")[2] for start, end in secrets(xml)]


@pytest.mark.parametrize(
    "xml",
    [
        "<user username='root'/>",
        "<driver queue='4' queues='8'/>",
        "<bandwidth vale='5'/>",
        "<entry nmae='serial' value='a'/>",
    ],
)
def test_names_near_to_those_hide_nothing_else(xml: str) -> None:
    """A finding shows what is wrong."""
    assert () == secrets(xml)
