"""`xmlkit-nova-compute`: nova-compute with xmlkit in it, run in its place with the same arguments.

Laws
- Before the configuration is read, `[libvirt] images_type` may be libvirt-storage, and is by
  default: what an operator has set stays.
- Whether instances come over by themselves is the operator's word: `[libvirt] storage_transition`,
  and whether they do so with a live migration: `storage_transition_live`.
- What Nova does at its start, Nova does; if it is not one that xmlkit knows, it does not start.
"""

from __future__ import annotations

import sys
from typing import Any

from xmlkit.errors import XmlkitError

__all__ = ["main", "prepare"]


def main() -> int:
    """Run nova-compute; the console script. Returns 2 if this Nova cannot be used."""
    try:
        # first of all: it chooses Nova's threads when it is imported
        from nova.cmd import compute
    except ImportError as error:
        print(f"xmlkit-nova-compute: no Nova in this Python: {error}", file=sys.stderr)
        return 2
    try:
        prepare(compute)
    except XmlkitError as error:
        print(f"xmlkit-nova-compute: {error}", file=sys.stderr)
        return 2
    compute.main()
    return 0


def prepare(compute: Any) -> None:
    """Make the module nova.cmd.compute one that runs with xmlkit.

    Raises SeamError.
    """
    import nova.conf
    from nova.virt.libvirt import driver
    from oslo_config import cfg

    from xmlkit import nova as ours
    from xmlkit.nova import store

    assert driver  # it registers options of its own
    store.register_options()
    nova.conf.CONF.register_opts(
        (
            cfg.BoolOpt(
                "storage_transition",
                default=True,
                help="Whether instances come onto storage pools by themselves, where Nova defines "
                "a guest anew: at a hard reboot, a resize, a cold migration and their reverts.",
            ),
            cfg.BoolOpt(
                "storage_transition_live",
                default=False,
                help="Whether instances come onto storage pools with a live migration, too: on the "
                "host that they leave and on the one that they come to.",
            ),
            cfg.StrOpt(
                "storage_state_dir",
                default="$state_path/xmlkit",
                help="Where xmlkit keeps its journals; nova-compute makes it if it can.",
            ),
        ),
        group="libvirt",
    )
    nova.conf.CONF.set_default("images_type", store.IMAGES_TYPE, group="libvirt")
    parse = compute.config.parse_args

    def parse_args(*args: Any, **kwargs: Any) -> Any:
        found = parse(*args, **kwargs)
        settings = nova.conf.CONF.libvirt
        ours.enable(
            pools=None if settings.storage_transition else {},
            state_dir=settings.storage_state_dir,
            live=settings.storage_transition_live,
        )
        return found

    compute.config = _Config(compute.config, parse_args)


class _Config:
    """nova.config, but for what follows when the arguments have been read."""

    def __init__(self, module: Any, parse_args: Any) -> None:
        self._module = module
        self.parse_args = parse_args

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
