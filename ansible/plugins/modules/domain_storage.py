#!/usr/bin/python
# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""The module domain_storage: `xmlkit apply` on a host."""

DOCUMENTATION = r"""
module: domain_storage
short_description: Move the disks of libvirt's domains to volumes of storage pools, or to paths
version_added: 0.1.0
description:
  - Links or copies images into storage pools and defines the domains with the new addresses, as
    C(xmlkit apply) does; or the other way round.
  - At every instant the defined XML boots. Each step is in a journal on the host, so that
    M(xmlkit.libvirt.storage_rollback) takes it back and M(xmlkit.libvirt.storage_recover) ends
    what was interrupted, by a kill, a lost connection or a limit of time. Until then nothing new is
    begun.
  - One call does all the domains of a host. A domain that cannot be moved is left as it is, the
    others are moved, and the module fails with the reason of each.
author:
  - The authors of xmlkit (!UNKNOWN)
extends_documentation_fragment:
  - xmlkit.libvirt.host
  - xmlkit.libvirt.host.changing
options:
  state:
    description:
      - The form that disks get. V(volume) is C(<disk type='volume'>) with a pool and a volume,
        V(path) is a file or a block device.
    type: str
    choices: [volume, path]
    default: volume
  domains:
    description:
      - Names or UUIDs of the domains. An empty list is none.
    type: list
    elements: str
  all:
    description:
      - All domains of the host, in the place of O(domains).
    type: bool
    default: false
  relocate:
    description:
      - Move disks that lie in Nova's instance directories into a pool, each as C([KIND=]POOL);
        KIND is C(root), C(ephemeral) or C(swap), none is for the rest.
      - Without it only the images that lie in a pool already become volumes.
    type: list
    elements: str
    default: []
  copy:
    description:
      - Copy images where the pool is on another file system, and remove the originals last.
    type: bool
    default: false
  max_failures:
    description:
      - After so many failures begin no other domain of this host.
    type: int
attributes:
  check_mode:
    description: Says what would be done to each domain, and fails where a domain would be refused.
    support: full
  diff_mode:
    description: Shows the difference of the XML of each domain that changes.
    support: full
"""

EXAMPLES = r"""
- name: Move all domains of a Nova host onto its pool, leaving alone those that run
  xmlkit.libvirt.domain_storage:
    connect: qemu:///system
    all: true
    relocate: [nova-disks-pool]
    running: skip

- name: Give one domain its paths again, restarting it
  xmlkit.libvirt.domain_storage:
    connect: qemu:///system
    domains: [instance-00000001]
    state: path
    running: restart
"""

RETURN = r"""
domains:
  description:
    - One entry for each domain, as in the schema xmlkit.apply/1.
  returned: always but when nothing could be begun
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
      description:
        - V(done), V(nothing) to do, V(planned) in check mode, V(skipped), V(refused), V(undone)
          if it failed and all is as it was, V(pending) if M(xmlkit.libvirt.storage_recover) has to
          bring it to an end.
      type: str
      returned: always
    id:
      description: Why it is not done, as C(xmlkit explain) explains it.
      type: str
      returned: always
    message:
      description: The same in words.
      type: str
      returned: always
    transition:
      description: The id of the transition, if one was begun.
      type: str
      returned: always
    disks:
      description: What is planned for each disk.
      type: list
      elements: dict
      returned: always
    concerns:
      description: What was found in the way, or should be known, with remedies.
      type: list
      elements: dict
      returned: always
    steps:
      description: What was to be done, as commands.
      type: list
      elements: str
      returned: always
transitions:
  description: The ids of what was begun, for M(xmlkit.libvirt.storage_rollback); at most one.
  returned: always but when nothing could be begun
  type: list
  elements: str
  sample: [20261122-161402-4f2a]
rollback:
  description: The command that takes back, on that host, what was done.
  returned: if a domain was moved
  type: str
  sample: /opt/xmlkit/bin/xmlkit rollback 20261122-161402-4f2a --state-dir=/srv/xmlkit
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.xmlkit.libvirt.plugins.module_utils.command import (
    CHANGING,
    CommandError,
    call,
    changing_options,
    command_line,
    hide_passwords,
    leave,
    shared_options,
)

ARGUMENTS: Dict[str, Any] = {
    **CHANGING,
    "state": {"type": "str", "choices": ["volume", "path"], "default": "volume"},
    "domains": {"type": "list", "elements": "str"},
    "all": {"type": "bool", "default": False},
    "relocate": {"type": "list", "elements": "str", "default": []},
    "copy": {"type": "bool", "default": False},
    "max_failures": {"type": "int"},
}


def main() -> None:
    """Run `xmlkit apply` once, and say what became of each domain."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("all", False, ["domains"])],
        supports_check_mode=True,
    )
    hide_passwords(module)
    domains = module.params["domains"]
    options = [
        *("--to", module.params["state"]),
        *shared_options(module.params, "all", "relocate", "copy", "max_failures"),
        *changing_options(module),
    ]
    found: List[Dict[str, Any]] = []
    try:
        if module.params["all"] and domains is not None:
            raise CommandError("say domains or all, one of them")
        if domains != []:
            arguments = domains or ()
            data = call(module, "xmlkit.apply/1", "apply", options, arguments, (0, 1, 3))
            found = data["domains"]
    except CommandError as error:
        leave(module, [], [], error)
    ids = sorted({each["transition"] for each in found} - {None})
    done = ids and any(each["state"] == "done" for each in found)
    leave(module, found, ids, rollback=command_line(module, "rollback", *ids) if done else None)


if __name__ == "__main__":
    main()
