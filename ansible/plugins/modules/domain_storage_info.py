#!/usr/bin/python
# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""The module domain_storage_info: `xmlkit status` and `xmlkit journal` on a host."""

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

- name: Recover where something was interrupted
  xmlkit.libvirt.storage_recover:
  when: storage.transitions | selectattr('state', 'equalto', 'pending') | length > 0
"""

RETURN = r"""
host:
  description:
    - The host, as in the schema xmlkit.status/1. It is numbered, and a number keeps its meaning.
  returned: success
  type: dict
  contains:
    libvirt:
      description: The version of its libvirt.
      type: str
      returned: always, none if it is unknown
      sample: 9.0.0
    driver:
      description: libvirt's driver, empty if it is unknown.
      type: str
      returned: always
      sample: qemu
    security_models:
      description: The security models of libvirt's capabilities.
      type: list
      elements: str
      returned: always
      sample: [apparmor, dac]
    schemas:
      description: The directory of libvirt's schemas.
      type: str
      returned: always, none if they are not installed
    local:
      description: Whether the images are on the managed host; if not, they were not looked at.
      type: bool
      returned: always
    ready:
      description: Whether nothing of the host itself is in the way.
      type: bool
      returned: always
    pools:
      description:
        - One entry for each storage pool with its C(name), C(type), C(path), C(active),
          C(autostart), C(persistent), C(file_system), and C(free) in bytes; the last two are none
          where they were not seen.
      type: list
      elements: dict
      returned: always
    concerns:
      description:
        - What is in the way of all domains, each with C(id), C(message), C(target), C(severity),
          C(accepted) and C(remedy).
      type: list
      elements: dict
      returned: always
domains:
  description:
    - One entry for each domain, by name, as in the schema xmlkit.status/1.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The domain's name.
      type: str
      returned: always
    uuid:
      description: The domain's UUID.
      type: str
      returned: always
    state:
      description: Its state, in the words of C(virsh).
      type: str
      returned: always
      sample: shut off
    form:
      description:
        - V(volumes) if all of its own disks are volumes, V(legacy) if none is, V(partial) if some
          are, V(nothing) if it has none that could be.
      type: str
      returned: always
    blocked:
      description: Whether its legacy disks could not be moved.
      type: bool
      returned: always
    volumes:
      description: The targets of its disks that are volumes.
      type: list
      elements: str
      returned: always
      sample: [vdb]
    legacy:
      description: The targets of its disks that are local images and no volumes.
      type: list
      elements: str
      returned: always
      sample: [vda]
    concerns:
      description: What is in the way, or should be known, as those of the host.
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
      sample: 20261122-161402-4f2a
    kind:
      description: V(apply), V(rollback), V(migrate) or V(snapshot).
      type: str
      returned: always
    of:
      description: The transition that a rollback takes back.
      type: str
      returned: always, none for others
    uri:
      description: The libvirt that it was carried out on, without a password.
      type: str
      returned: always
    to:
      description: The libvirt that a migration went to.
      type: str
      returned: for a migration
    started:
      description: When it began, in UTC.
      type: str
      returned: always
    state:
      description:
        - V(done), V(undone), V(skipped), V(partly) if some domains ended otherwise than others, or
          V(pending) if M(xmlkit.libvirt.storage_recover) has to bring it to an end.
      type: str
      returned: always
    domains:
      description: Each domain with C(uuid), C(name), C(state), C(id) and C(message).
      type: list
      elements: dict
      returned: always
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.xmlkit.libvirt.plugins.module_utils.command import (
    CHANGING,
    HOST,
    CommandError,
    call,
    hide_passwords,
    printable,
    shared_options,
)

ARGUMENTS: Dict[str, Any] = {
    **HOST,
    "relocate": {"type": "list", "elements": "str", "default": []},
    **{name: CHANGING[name] for name in ("accept", "schemas", "state_dir")},
}


def main() -> None:
    """Run both commands, and return what they say."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    hide_passwords(module)
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
