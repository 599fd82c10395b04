#!/usr/bin/python
# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""The module storage_rollback: `xmlkit rollback` on a host."""

DOCUMENTATION = r"""
module: storage_rollback
short_description: Take transitions of libvirt's domains back
version_added: 0.1.0
description:
  - Images get their old names and domains their old addresses, as by C(xmlkit rollback). The
    domains' present XML is changed, so that what was edited since stays.
  - What has been taken back already is no change.
  - A domain that cannot be taken back is left as it is, the others are taken back, and the module
    fails with the reason of each.
author:
  - The authors of xmlkit (!UNKNOWN)
extends_documentation_fragment:
  - xmlkit.libvirt.host
  - xmlkit.libvirt.host.changing
options:
  connect:
    description:
      - libvirt's URI as the managed host sees it; without it, that of the transition's journal.
    type: str
  transition:
    description:
      - The id that M(xmlkit.libvirt.domain_storage) returned, or its beginning if no other
        begins so.
    type: str
  since:
    description:
      - All that C(xmlkit apply) has done on this host since then, the newest first.
      - It is the beginning of an id, a time in UTC such as V(20261122) or V(20261122-1614), and the
        same for all hosts of a fleet.
    type: str
  domains:
    description:
      - Names or UUIDs of the domains that are taken back; all if not given, none if empty.
    type: list
    elements: str
attributes:
  check_mode:
    description: Says what would be done to each domain, and fails where a domain would be refused.
    support: full
  diff_mode:
    description: Shows the difference of the XML of each domain that changes.
    support: full
"""

EXAMPLES = r"""
- name: Take one transition back
  xmlkit.libvirt.storage_rollback:
    transition: 20261122-161402-4f2a

- name: Take back all that was done this afternoon
  xmlkit.libvirt.storage_rollback:
    since: "20261122-12"
"""

RETURN = r"""
domains:
  description:
    - One entry for each domain of each transition, as in the schema xmlkit.apply/1.
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
  description: The ids of the rollbacks, which can be taken back too.
  returned: always but when nothing could be begun
  type: list
  elements: str
  sample: [20261122-161403-4f2a]
"""

import re
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.xmlkit.libvirt.plugins.module_utils.command import (
    CHANGING,
    CommandError,
    call,
    changing_options,
    hide_passwords,
    leave,
    shared_options,
)

ARGUMENTS: Dict[str, Any] = {
    **CHANGING,
    "transition": {"type": "str"},
    "since": {"type": "str"},
    "domains": {"type": "list", "elements": "str"},
}
TIME = re.compile(r"[0-9]{8}(-[0-9]{0,6})?")


def main() -> None:
    """Run `xmlkit rollback` for each transition, the newest first."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("transition", "since")],
        required_one_of=[("transition", "since")],
        supports_check_mode=True,
    )
    hide_passwords(module)
    done: List[Dict[str, Any]] = []
    ids: List[str] = []
    try:
        for transition, domains in _wanted(module):
            # in check mode a later one is not taken back: what comes below it, nobody can see yet
            planned = {each["uuid"] for each in done if each["state"] == "planned"}
            left = [uuid for uuid in domains or () if uuid not in planned]
            if domains is not None and not left:
                continue
            options = changing_options(module)
            arguments = (transition, *left)
            found = call(module, "xmlkit.apply/1", "rollback", options, arguments, (0, 1, 3))
            done += found["domains"]
            ids += sorted({each["transition"] for each in found["domains"]} - {None})
    except CommandError as error:
        leave(module, done, ids, error)
    leave(module, done, ids)


def _wanted(module: AnsibleModule) -> List[Tuple[str, Optional[List[str]]]]:
    """Each transition with its domains that are to be taken back; None for all of them."""
    since, domains = module.params["since"], module.params["domains"]
    if since is not None and not TIME.fullmatch(since):
        raise CommandError(f"since is a time such as 20261122-1614, not {since!r}")
    if domains == []:
        return []
    if since is None:
        return [(module.params["transition"], domains)]
    options = shared_options(module.params, "state_dir")
    found = call(module, "xmlkit.journal/1", "journal", options, codes=(0,))
    later = [
        each for each in found["transitions"] if each["kind"] == "apply" and each["id"] >= since
    ]
    known = {each[key] for one in later for each in one["domains"] for key in ("name", "uuid")}
    for name in domains or ():
        if name not in known:
            raise CommandError(f"nothing was applied to a domain {name!r} since {since}")
    return [
        (
            each["id"],
            [
                domain["uuid"]
                for domain in each["domains"]
                if domain["state"] == "done"
                and (domains is None or {domain["name"], domain["uuid"]} & set(domains))
            ],
        )
        for each in reversed(later)
    ]


if __name__ == "__main__":
    main()
