"""Templates: values are text and never markup, and nothing that is missing is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from strategies import LAWS

from xmlkit.document import DocumentError
from xmlkit.templates import render

SNAPSHOT = {"description": "", "disks": []}
# what XML can have; a parser makes other line ends into \n, so these are not asked for
TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1
)


@LAWS
@given(TEXT)
def test_text_stays_text(text: str) -> None:
    """In elements and in attributes, whatever it looks like."""
    values = {**SNAPSHOT, "disks": [("vda", f"/{text}")], "description": text}
    root = render("domainsnapshot", name=text, **values).root
    source = root.find("disks/disk/source")

    assert (text, text) == (root.findtext("name"), root.findtext("description"))
    assert source is not None
    assert {"file": f"/{text}"} == dict(source.attrib)
    assert ["name", "description", "disks"] == [child.tag for child in root]


def test_a_value_that_nobody_gives_is_an_error() -> None:
    """An empty place would be a document that says something else."""
    with pytest.raises(UndefinedError, match="disks"):
        render("domainsnapshot", name="s", description="")


def test_text_that_no_xml_can_have_is_an_error() -> None:
    """Before anybody gets a document."""
    with pytest.raises(DocumentError):
        render("domainsnapshot", name="a\x01", **SNAPSHOT)
