#!/usr/bin/python
# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""The module domain_storage_info: `xmlkit status` and `xmlkit journal` on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domain_storage_info
short_description: Show where a host and the disks of its domains stand
version_added: 0.1.0
description:
  - Whether a host is ready for M(xmlkit.libvirt.domain_storage), which of its domains have disks
    that are no volumes, what is in the way, and what was done there before. It changes nothing.
author:
  - The authors of xmlkit (!UNKNOWN)
extends_documentation_fragment:
  - xmlkit.libvirt.host
options:
  relocate:
    description:
      - As if these disks moved into a pool; see M(xmlkit.libvirt.domain_storage).
    type: list
    elements: str
    default: []
  accept:
    description:
      - Rules that shall not stand in the way.
    type: list
    elements: str
    default: []
  schemas:
    description:
      - The directory of libvirt's schemas on the managed host; else where its packages put them.
    type: path
  state_dir:
    description:
      - The directory of journals on the managed host; else E(XMLKIT_STATE_DIR) there, or
        C(/var/lib/xmlkit).
    type: path
attributes:
  check_mode:
    description: It only reads, in check mode as otherwise.
    support: full
  diff_mode:
    description: Nothing differs, since nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: Look at the host
  xmlkit.libvirt.domain_storage_info:
    connect: qemu:///system
    relocate: [nova-disks-pool]
  register: storage

- name: Name the domains that cannot be moved
  ansible.builtin.debug:
    msg: "{{ storage.domains | selectattr('blocked') | map(attribute='name') }}"
"""

RETURN = r"""
host:
  description:
    - libvirt's version and driver, pools with free space, and what is in the way of all domains.
  returned: success
  type: dict
domains:
  description:
    - One entry for each domain, as in the schema xmlkit.status/1.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The domain's name.
      type: str
      returned: always
    legacy:
      description: The targets of its disks that are local images and no volumes.
      type: list
      elements: str
      returned: always
    blocked:
      description: Whether these could not be moved.
      type: bool
      returned: always
    concerns:
      description: What is in the way, or should be known, with remedies.
      type: list
      elements: dict
      returned: always
transitions:
  description:
    - What was begun on this host, oldest first, as in the schema xmlkit.journal/1 without steps.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: For M(xmlkit.libvirt.storage_rollback).
      type: str
      returned: always
    kind:
      description: V(apply), V(rollback), V(migrate) or V(snapshot).
      type: str
      returned: always
    state:
      description: V(pending) if C(xmlkit recover) has to bring it to an end.
      type: str
      returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.xmlkit.libvirt.plugins.module_utils.command import (
    CHANGING,
    HOST,
    CommandError,
    call,
    printable,
    shared_options,
)

ARGUMENTS: dict[str, Any] = {
    **HOST,
    "relocate": {"type": "list", "elements": "str", "default": []},
    **{name: CHANGING[name] for name in ("accept", "schemas", "state_dir")},
}


def main() -> None:
    """Run both commands, and return what they say."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        options = shared_options(module.params, "connect", "relocate", "accept", "schemas")
        status = call(module, "xmlkit.status/1", "status", options)
        options = shared_options(module.params, "state_dir")
        journal = call(module, "xmlkit.journal/1", "journal", options, codes=(0,))
    except CommandError as error:
        module.fail_json(msg=printable(str(error)))
    transitions = [
        {
            **each,
            "domains": [
                {k: v for k, v in domain.items() if k != "steps"} for domain in each["domains"]
            ],
        }
        for each in journal["transitions"]
    ]
    module.exit_json(
        changed=False, host=status["host"], domains=status["domains"], transitions=transitions
    )


if __name__ == "__main__":
    main()
