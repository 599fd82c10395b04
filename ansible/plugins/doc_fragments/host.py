# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""What the documentation of the modules has in common."""

from __future__ import annotations


class ModuleDocFragment:
    """The host that xmlkit works on, and how it is called there."""

    DOCUMENTATION = r"""
requirements:
  - Python 3.6 or newer, on the managed host, for the module
  - libvirt-xmlkit with its extra C(libvirt), on the managed host; it may have a Python of its own,
    3.11 or newer
attributes:
  platform:
    description: Linux, with libvirt.
    platforms: linux
    support: full
options:
  connect:
    description:
      - libvirt's URI as the managed host sees it, such as V(qemu:///system). What it holds of a
        password is hidden in what is returned; the list of processes of that host has it, though.
      - Without it, E(LIBVIRT_DEFAULT_URI) of the managed host; no other host is ever taken.
    type: str
  executable:
    description:
      - The command xmlkit on the managed host; a name is looked up in E(PATH).
    type: path
    default: xmlkit
notes:
  - It needs root on the managed host.
  - Secrets in the domains' XML are redacted on the managed host, before anything is returned.
"""

    CHANGING = r"""
options:
  accept:
    description:
      - Rules that shall not stand in the way. C(xmlkit explain ID) says which may be accepted.
    type: list
    elements: str
    default: []
  rewrite_metadata:
    description:
      - Give snapshots, checkpoints and managed saves the new addresses as well.
      - A domain that has some is refused without it.
    type: bool
    default: false
  running:
    description:
      - What to do about a domain that runs and would change.
      - V(fail) leaves it alone and fails, V(skip) leaves it alone, V(restart) shuts it down, as by
        its power button, and starts it again; one at a time.
    type: str
    choices: [fail, skip, restart]
    default: fail
  schemas:
    description:
      - The directory of libvirt's schemas on the managed host; else where its packages put them.
    type: path
  shutdown_timeout:
    description:
      - Seconds that a domain may take to shut down, with O(running=restart); 60 if not given.
      - One that takes longer runs on, and is as it was.
    type: float
  state_dir:
    description:
      - The directory of journals, lock and key on the managed host; else E(XMLKIT_STATE_DIR) there,
        or C(/var/lib/xmlkit).
    type: path
"""
