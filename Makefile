# What one does with imgtool's source. `make demo` and `make test` need nothing set up but Go.

export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
SHELL := /bin/bash
GO ?= go

# Packages (patterns of go list) whose whole suite is too slow under the race detector. They are tested without it
# in full, and with it for the tests named by RACE_RUN, which are those about concurrency.
HEAVY ?= ./engine ./engine/e2e ./engine/check/... ./engine/commitview ./engine/copytree ./engine/crashsim ./engine/inspect ./engine/inode ./engine/modeltest ./engine/receive ./engine/treecheck ./engine/send ./engine/sendtest ./cmd/... ./bench/...
RACE_RUN ?= Race|Parallel|Concurrent|View|Epoch|Blocked|Counted|Many|ChangedRoot|ROSnapshot|FailingDevice|RandomStreams

# Further flags for go test, such as TESTFLAGS=-short.
TESTFLAGS ?=

# How long each fuzz target runs in `make test` and `make fuzz-short`; as many at a time as there are CPUs.
FUZZTIME ?= 10s

.PHONY: all build demo test soak lint fuzz-short bench peers clean test-deps bin/imgtool bin/testsum

all: build

build: bin/imgtool

# The revision is stamped into the binary where git lets us read it, which it does not in a clone of another user.
bin/imgtool:
	@mkdir -p bin
	$(GO) build -o $@ ./cmd/imgtool || $(GO) build -buildvcs=false -o $@ ./cmd/imgtool

bin/testsum:
	@mkdir -p bin
	@$(GO) build -buildvcs=false -o $@ ./engine/internal/testsum

# Formats an image, fills it from a real tree, snapshots it and replays the race on it. Needs no root.
demo: build
	./bench/demo.sh

# Everything: the oracles' tools, lint, all tests, a short fuzz run; ends with a line of counts.
test: test-deps lint bin/testsum
	@GO='$(GO)' HEAVY='$(HEAVY)' RACE_RUN='$(RACE_RUN)' TESTFLAGS='$(TESTFLAGS)' FUZZTIME='$(FUZZTIME)' .ci/test.sh

test-deps:
	@.ci/deps.sh

lint:
	@unformatted=$$(gofmt -l .) && [ -z "$$unformatted" ] || { echo "gofmt -w is needed for:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fuzz-short: bin/testsum
	@mkdir -p out/test && rm -f out/test/*.json
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' .ci/fuzz.sh && bin/testsum out/test/*.json

# The long variants of the randomised tests, and ten minutes for each fuzz target; hours.
soak: SOAK_FUZZTIME ?= 10m
soak: bin/testsum
	IMGTOOL_SOAK=1 $(GO) test -count=1 -timeout 0 ./...
	@mkdir -p out/test && rm -f out/test/*.json
	@GO='$(GO)' FUZZTIME='$(SOAK_FUZZTIME)' .ci/fuzz.sh && bin/testsum out/test/*.json

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# Side by side with btrfs-progs and the kernel; needs root.
peers: build
	./bench/peers.sh

clean:
	rm -rf bin out
