# What a person types. Everything real is in scripts/, so that CI and people run the same thing.
.PHONY: help setup test unit stories lint demo bench bench-smoke build release install uninstall

help:
	@echo "make demo         the main job end to end on a small disk of its own: no server, no root (about 2 minutes + build)"
	@echo "make install      binary, man pages, completions, systemd unit (PREFIX=/usr/local, DESTDIR=); make uninstall"
	@echo "make test         install what the tests need (root or sudo), then lint, unit tests, stories, bench-smoke"
	@echo "make lint         format, clippy -D warnings, layers, licences of dependencies"
	@echo "make unit         unit and integration tests only"
	@echo "make stories      real programs end to end (PostgreSQL, QEMU, kill -9, ...); ONLY=name runs one"
	@echo "make bench        measure against the peers, write docs/benchmarks.md (an hour; ONLY=name runs one, BRIEF=1 briefly)"
	@echo "make bench-smoke  tiny versions of every benchmark, judging nothing by time"

setup:
	@scripts/setup

test:
	@scripts/test

lint:
	@scripts/lint

unit:
	@scripts/unit

stories:
	@scripts/stories $(ONLY)

demo:
	@scripts/demo

bench:
	@scripts/bench $(if $(BRIEF),--brief) $(ONLY)

bench-smoke:
	@scripts/bench --smoke $(ONLY)

build:
	cargo build --locked --workspace

release:
	cargo build --locked --release -p rekindle

install:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' scripts/install

uninstall:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' scripts/install --remove
