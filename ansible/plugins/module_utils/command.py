# Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0)
"""The command xmlkit on a host, as the modules call it.

Laws
- What a module returns or shows is what the command printed as JSON, and the command redacts.
- Nothing is guessed: another schema, another exit code, or no JSON is a failure that says so.
- It runs with whatever Python Ansible finds on the host, from 3.6; xmlkit has its own.
"""

import json
import os
import re
import shlex
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Set

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

HOST: Dict[str, Any] = {
    "connect": {"type": "str"},
    "executable": {"type": "path", "default": "xmlkit"},
}
CHANGING: Dict[str, Any] = {
    **HOST,
    "accept": {"type": "list", "elements": "str", "default": []},
    "rewrite_metadata": {"type": "bool", "default": False},
    "running": {"type": "str", "choices": ["fail", "skip", "restart"], "default": "fail"},
    "schemas": {"type": "path"},
    "shutdown_timeout": {"type": "float"},
    "state_dir": {"type": "path"},
}

# The states of a domain that is where it was wanted, or would be.
GOOD = ("done", "nothing", "planned")

# As xmlkit keeps them out of its journals.
_PASSWORDS = (
    re.compile("//[^/@:]*:([^/]*)@"),
    re.compile("(?i)[?&][^=&]*(?:pass|secret|token|key(?!file))[^=&]*=([^&]*)"),
)

# What a terminal would obey: names may be anybody's, and Ansible prints them as they are.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class CommandError(Exception):
    """xmlkit ended in trouble; the message is its reason, `found` what it printed all the same."""

    def __init__(self, message: str, found: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(message)
        self.found = found


def hide_passwords(module: "AnsibleModule") -> None:
    """Keep those of the URI out of all that the module returns, its own arguments among it."""
    module.no_log_values.update(passwords(module.params["connect"] or ""))


def passwords(uri: str) -> Set[str]:
    """What is secret in a URI: the password of its user, and parameters that speak of one."""
    return {secret for each in _PASSWORDS for secret in each.findall(uri) if secret}


def call(
    module: "AnsibleModule",
    schema: str,
    name: str,
    options: Iterable[str],
    arguments: Iterable[str] = (),
    codes: Iterable[int] = (0, 1),
) -> Dict[str, Any]:
    """Run `xmlkit NAME OPTIONS -- ARGUMENTS`; the JSON that it printed.

    schema: that the JSON has to be of, such as xmlkit.apply/1. codes: exit codes that come with it.
    Raises CommandError for any other.
    """
    words = [_executable(module), name, *options, "--format", "json", "--", *arguments]
    if any("\0" in word for word in words):
        raise CommandError("there is a NUL character in an option")
    try:
        code, stdout, stderr = module.run_command(words, handle_exceptions=False)
    except OSError as error:  # a script whose interpreter is not there
        raise CommandError(f"{words[0]} does not run: {error.strerror}") from error
    found = _answer(stdout, schema)
    if code not in codes:
        raise CommandError(f"xmlkit {name}: {_complaint(code, stderr)}", found)
    if found is None:
        said = f" ({_complaint(code, stderr)})" if stderr.strip() else ""
        raise CommandError(
            f"{words[0]} {name} did not print {schema}{said}: it is no xmlkit that this "
            "collection knows, or one that does not run there; xmlkit needs Python 3.11 or newer"
        )
    return found


def _answer(stdout: str, schema: str) -> Optional[Dict[str, Any]]:
    try:
        found: Dict[str, Any] = json.loads(stdout)
        return found if found["schema"] == schema else None
    except (ValueError, TypeError, KeyError):
        return None


def shared_options(params: Dict[str, Any], *names: str) -> List[str]:
    """The options of a command that are the module's by the same name, as far as they are given."""
    options: List[str] = []
    for name in names:
        value = params[name]
        option = "--" + name.replace("_", "-")
        if value is True:
            options.append(option)
        elif isinstance(value, list):
            options += [f"{option}={each}" for each in value]
        elif value is not None and value is not False:
            options.append(f"{option}={value}")
    return options


def changing_options(module: "AnsibleModule") -> List[str]:
    """Those of apply and rollback: --dry-run in check mode, --diff in diff mode."""
    options = shared_options(
        module.params,
        *("connect", "state_dir", "schemas", "accept", "rewrite_metadata", "shutdown_timeout"),
    )
    if module.params["running"] == "restart":
        options.append("--restart")
    if module._diff:
        options.append("--diff")
    options.append("--dry-run" if module.check_mode else "--yes")
    return options


def leave(
    module: "AnsibleModule",
    domains: List[Dict[str, Any]],
    transitions: List[str],
    error: Optional[CommandError] = None,
    rollback: Optional[str] = None,
) -> None:
    """End the module by what became of the domains, each as xmlkit.apply/1 has it.

    It fails by an error, or if any is not where it was wanted. What was changed all the same is
    told as well, and `rollback`, the command that takes it back.
    """
    skip = module.params["running"] == "skip"
    bad = [
        each
        for each in domains
        if each["state"] not in GOOD and not (skip and _is_skipped_because_it_runs(each))
    ]
    result: Dict[str, Any] = {
        "changed": any(each["state"] in ("done", "pending", "planned") for each in domains),
        "domains": [{k: v for k, v in each.items() if k != "unified"} for each in domains],
        "transitions": transitions,
    }
    if rollback:
        result["rollback"] = rollback
    if module._diff:
        result["diff"] = [
            {"prepared": printable(each["unified"])}
            for each in domains
            if each.get("unified") and each["state"] in ("done", "pending", "planned")
        ]
    whys = [str(error)] if error else []
    if bad:
        reasons = "; ".join(f"{each['name']}: {why(each)}" for each in bad)
        whys.append(f"{len(bad)} of {len(domains)} domains are not as wanted: {reasons}")
    if whys and rollback:
        whys.append(f"what was done is taken back with: {rollback}")
    if whys:
        module.fail_json(msg=printable("; ".join(whys)), **result)
    module.exit_json(**result)


def printable(text: str) -> str:
    """The text with what a terminal would obey escaped."""
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


def _is_skipped_because_it_runs(domain: Dict[str, Any]) -> bool:
    return (domain["state"], domain["id"]) == ("skipped", "running")


def why(domain: Dict[str, Any]) -> str:
    """How it ended for a domain, in a line."""
    return ": ".join(domain[key] for key in ("state", "id", "message") if domain[key])


def command_line(module: "AnsibleModule", *words: str) -> str:
    """What an operator types on the host for a command that goes on where this module was."""
    options = shared_options(module.params, "state_dir")
    return " ".join(map(shlex.quote, (_executable(module), *words, *options)))


def _executable(module: "AnsibleModule") -> str:
    given: str = module.params["executable"]
    found: Optional[str] = given if os.sep in given else module.get_bin_path(given)
    if not found or not os.access(found, os.X_OK):
        raise CommandError(
            f"there is no {given} on this host: install xmlkit with its extra [libvirt], "
            "and say with executable where it is"
        )
    return found


def _complaint(code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    if code == 130:
        return "it was interrupted: run xmlkit recover on this host"
    if not lines:
        return f"exit code {code}"
    said = [
        line[len(start) :]
        for line in lines
        for start in ("xmlkit: ", "Error: ")
        if line.startswith(start)
    ]
    return "; ".join(said or lines[-1:])
