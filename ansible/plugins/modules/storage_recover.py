#!/usr/bin/python
# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""The module storage_recover: `xmlkit recover` on a host."""

DOCUMENTATION = r"""
module: storage_recover
short_description: Bring interrupted transitions of libvirt's domains to an end
version_added: 0.1.0
description:
  - After a crash, a lost connection or a task that ran out of time, as by C(xmlkit recover). A
    domain that has its new addresses is finished, one that has its old ones is taken back.
  - While something is pending on a host M(xmlkit.libvirt.domain_storage) begins nothing new there.
    It does not recover by itself, since a guest that was shut down for its transition is started.
  - Where nothing was interrupted nothing is changed, and no libvirt is asked.
  - A domain that cannot be brought to an end, such as one that somebody has changed meanwhile,
    stays pending, and the module fails with the reason of each. It can be run again at any time.
author:
  - The authors of xmlkit (!UNKNOWN)
extends_documentation_fragment:
  - xmlkit.libvirt.host
options:
  connect:
    description:
      - libvirt's URI as the managed host sees it; without it, those of the transitions' journals.
    type: str
  state_dir:
    description:
      - The directory of journals, lock and key on the managed host; else E(XMLKIT_STATE_DIR) there,
        or C(/var/lib/xmlkit).
    type: path
attributes:
  check_mode:
    description: Names the domains that are pending.
    details:
      - How each ends is decided when it is done, and guests that would be started because they
        have shut down late are not known yet.
    support: partial
  diff_mode:
    description: What has to be done is read off the host while it is done.
    support: none
"""

EXAMPLES = r"""
- name: Bring to an end what a reboot has interrupted
  xmlkit.libvirt.storage_recover:
    executable: /opt/xmlkit/bin/xmlkit
"""

RETURN = r"""
domains:
  description:
    - One entry for each domain that had not come to an end, of each transition, as in the schema
      xmlkit.recover/1.
  returned: always but when nothing could be read
  type: list
  elements: dict
  contains:
    name:
      description: The domain's name when it was planned for.
      type: str
      returned: always
    uuid:
      description: The domain's UUID.
      type: str
      returned: always
    transition:
      description: The id of the transition.
      type: str
      returned: always
    state:
      description:
        - V(done) if it has its new addresses, V(undone) if it has its old ones, V(pending) if it
          has to be looked at, and then recovered again; in check mode always V(pending).
      type: str
      returned: always
    id:
      description: Why it is pending or undone, as C(xmlkit explain) explains it.
      type: str
      returned: always
    message:
      description: The same in words.
      type: str
      returned: always
transitions:
  description: The ids of the transitions that these are of, oldest first.
  returned: always but when nothing could be read
  type: list
  elements: str
  sample: [20261122-161402-4f2a]
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.xmlkit.libvirt.plugins.module_utils.command import (
    CHANGING,
    HOST,
    CommandError,
    call,
    hide_passwords,
    printable,
    shared_options,
    why,
)

ARGUMENTS: Dict[str, Any] = {**HOST, "state_dir": CHANGING["state_dir"]}


def main() -> None:
    """Run `xmlkit recover`, or in check mode say what it would look at."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    hide_passwords(module)
    whys: List[str] = []
    try:
        found = _pending(module) if module.check_mode else _recovered(module)
    except CommandError as error:
        # the other hosts and journals have come to an end, and are told as well
        whys, found = [str(error)], error.found or {"transitions": []}
    domains = [
        {"transition": each["id"], **domain}
        for each in found["transitions"]
        for domain in each["domains"]
    ]
    bad = [] if module.check_mode else [each for each in domains if each["state"] == "pending"]
    if bad:
        reasons = "; ".join(f"{each['name']}: {why(each)}" for each in bad)
        whys.append(f"{len(bad)} of {len(domains)} domains have not come to an end: {reasons}")
    result = {
        "changed": len(domains) > len(bad),
        "domains": domains,
        "transitions": [each["id"] for each in found["transitions"]],
    }
    if whys:
        module.fail_json(msg=printable("; ".join(whys)), **result)
    module.exit_json(**result)


def _recovered(module: AnsibleModule) -> Dict[str, Any]:
    options = shared_options(module.params, "connect", "state_dir")
    found: Dict[str, Any] = call(module, "xmlkit.recover/1", "recover", options)
    return found


def _pending(module: AnsibleModule) -> Dict[str, Any]:
    """What the journals say, as `xmlkit recover` would."""
    options = shared_options(module.params, "state_dir")
    found = call(module, "xmlkit.journal/1", "journal", options, codes=(0,))
    keys = ("name", "uuid", "state", "id", "message")
    return {
        "transitions": [
            {
                "id": each["id"],
                "domains": [
                    {key: domain[key] for key in keys}
                    for domain in each["domains"]
                    if domain["state"] == "pending"
                ],
            }
            for each in found["transitions"]
            if each["state"] == "pending"
        ]
    }


if __name__ == "__main__":
    main()
