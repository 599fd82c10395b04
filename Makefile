# Everything a checkout needs. Each target installs what it lacks, and only that:
# Debian packages through apt (with sudo unless root), Python packages into .venv and .tox.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

# The interpreter: the first of these that is 3.11 or newer. `make PYTHON=...` names another.
ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
endif

# The guest of `make demo`, and what it moves: the disks onto a pool of their own.
DEMO := diff --pool nova-disks-pool=/var/lib/nova/instances/disks \
	--relocate nova-disks-pool fixtures/nova/qcow2-ephemeral-swap.xml

# Debian packages. Version 13 took the schemas and the storage driver out of their packages.
ifeq (12, $(shell . /etc/os-release && echo $$VERSION_ID))
SCHEMAS := libvirt0
LIBVIRTD := libvirt-daemon libvirt-daemon-driver-qemu
else
SCHEMAS := libvirt-common
LIBVIRTD := libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-driver-storage
endif
# Trees of other releases (tests/chroots.py), block devices, and a ceph of one node.
TREES := mmdebstrap debian-archive-keyring parted e2fsprogs
CEPH := ceph-mon ceph-osd ceph-common qemu-block-extra libvirt-daemon-driver-storage-rbd
QEMU := iproute2 qemu-system-x86 qemu-utils
TOOLS := libvirt-clients dpkg-dev acl e2fsprogs xfsprogs \
	systemd shellcheck strace git zsh fish chromium chromium-driver fonts-dejavu-core
COMPILER := gcc libc6-dev libvirt-dev pkg-config
# Two parts of Python that Debian ships apart; empty where the interpreter has them.
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
INCLUDE = $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')
VENV = $(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || echo python$(VERSION)-venv)
HEADERS = $(if $(wildcard $(INCLUDE)/Python.h),,python$(VERSION)-dev)

AS_ROOT := $(if $(filter 0, $(shell id -u)),,sudo)
APT := $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive \
	apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300

# $(call install,PACKAGES) asks apt for those that are missing; nothing when none is.
define install
@missing=; for package in $(1); do \
	dpkg-query -W -f '$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed \
	|| missing+=" $$package"; \
done; \
if [ "$$missing" ]; then \
	$(APT) update && $(APT) install -y --no-install-recommends $$missing \
	|| { echo "These packages are needed:$$missing" >&2; exit 1; }; \
fi
endef

# $(call part,NAME,COMMAND) runs a command and notes its seconds; a failure ends with the notes.
define part
@start=$$(date +%s); if $(2); then state=; else state=FAILED; fi; \
printf '%-16s %5d s %s\n' '$(1)' $$(($$(date +%s) - start)) "$$state" >> .times; \
[ -z "$$state" ] || { cat .times; exit 1; }
endef

.PHONY: help demo test nova lint docs compatibility bench clean system-demo system-test system-bench environment

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: system-demo .venv/bin/xmlkit  ## preview how a shipped guest moves onto a pool, then move one
	@echo '$$ xmlkit $(DEMO)'
	@.venv/bin/xmlkit $(DEMO) || [ $$? -eq 1 ]  # 1: something would change
	@$(AS_ROOT) .venv/bin/python tests/demo.py

test:  ## lint and tests against the built wheel; ARGS=... goes to pytest
	@rm -f .times
	$(call part,system packages,$(MAKE) system-test)
	$(call part,environment,$(MAKE) environment)
	$(call part,trees,$(PYTHON) tests/chroots.py)
	$(call part,lint,.venv/bin/tox run -e lint)
	$(call part,tests,.venv/bin/tox run -e py --skip-pkg-install -- $(ARGS))
	@cat .times

nova: system-test .venv/bin/tox  ## the tests inside Nova, with two of its releases
	@rm -f .times
	$(call part,nova 34,.venv/bin/tox run -e nova -- $(ARGS))
	$(call part,nova 33,.venv/bin/tox run -e nova-33 -- $(ARGS))
	@cat .times

lint: .venv/bin/tox  ## style, format and types alone
	@.venv/bin/tox run -e lint

docs: .venv/bin/sphinx-build .venv/bin/xmlkit  ## the site in build/html, the man pages in build/man
	@.venv/bin/sphinx-build -q -n -W --keep-going -c docs -b html . build/html
	@.venv/bin/sphinx-build -q -n -W --keep-going -c docs -b man . build/man
	@echo 'build/html/docs/index.html, build/man/xmlkit.1 ...'

compatibility: system-test environment  ## docs/compatibility.md, from the tests with other versions of libvirt
	@.venv/bin/tox run -q -e py --skip-pkg-install -- -m versions --no-cov \
		--junitxml=$(CURDIR)/build/versions.xml $(ARGS)
	@.tox/py/bin/python tests/compatibility.py build/versions.xml > build/compatibility.md
	@mv build/compatibility.md docs/compatibility.md

bench: system-bench .venv/bin/xmlkit .venv/bin/xmldiff .venv/bin/lockutils-wrapper .venv/bin/tox  ## measure against the tools of libvirt and virt-manager, xmldiff, jing and Nova
	@.venv/bin/python tests/bench.py $(ARGS); code=$$?; \
	.venv/bin/python tests/bench_many.py $(ARGS) || code=1; \
	.venv/bin/python tests/bench_apply.py $(ARGS) || code=1; \
	.venv/bin/python tests/bench_cache.py $(ARGS) || code=1; \
	.venv/bin/tox run -q -e nova,py --notest && \
	{ .tox/py/bin/python tests/bench_review.py $(ARGS) || code=1; } && \
	{ .tox/py/bin/python tests/bench_ansible.py $(ARGS) || code=1; } && \
	{ $(AS_ROOT) .tox/py/bin/python tests/bench_newcomer.py || code=1; } && \
	.tox/nova/bin/python -W ignore tests/bench_nova.py $(ARGS) && exit $$code

clean:  ## remove the environments and what tools left behind
	rm -rf .venv .tox .times .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find xmlkit tests -name __pycache__ -prune -exec rm -rf {} +

system-demo:
	$(if $(PYTHON),,$(error Python 3.11 or newer is needed; PYTHON=... names one))
	$(call install,$(SCHEMAS) $(VENV) $(LIBVIRTD) $(QEMU) $(COMPILER) $(HEADERS))

system-test: system-demo
	$(call install,$(TOOLS) $(TREES) $(CEPH))

system-bench: system-test
	$(call install,virtinst jing)

environment: .venv/bin/tox
	@.venv/bin/tox run -e lint,py --notest

.venv/bin/pip: | system-demo
	$(PYTHON) -m venv .venv

.venv/bin/tox: | .venv/bin/pip
	.venv/bin/pip install --quiet 'tox>=4.20'

.venv/bin/xmlkit: pyproject.toml | .venv/bin/pip
	.venv/bin/pip install --quiet --editable '.[libvirt]'
	@touch $@

# oslo.concurrency, which starts qemu-img for Nova
.venv/bin/lockutils-wrapper: | .venv/bin/pip
	.venv/bin/pip install --quiet oslo.concurrency

.venv/bin/sphinx-build: pyproject.toml | .venv/bin/xmlkit
	.venv/bin/pip install --quiet --editable '.[docs,libvirt,testing]'
	@touch $@

.venv/bin/xmldiff: | .venv/bin/pip
	.venv/bin/pip install --quiet 'xmldiff>=3'
