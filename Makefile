# make               set up, build everything into build/release
# make run           a whole Quipu on 127.0.0.1:8080, ready to chat
# make test          set up, build and run every test
# make unit|sim|scenario|fuzz-smoke      one kind of them
#     make unit ONLY=journal         only the programs with that in the name
#     make sim SEEDS=300, make sim SEED=17, make scenario ONLY='leader'
# make fuzz          every fuzz target FUZZ_SECONDS=120 (ONLY=frame for one)
# make sanitize      unit, sim and scenario with ASan and UBSan, then with TSan
# make torture       real nodes lose processes, power and net, MINUTES=30 (SEED=n;
#                    as root; ARGS=--list: the kinds of faults, ARGS=--prove)
# make planted       plants bugs, and the simulator must catch each
# make interop       clients of other people: curl, ws, websockets, Chromium
# make cluster       three nodes on loopback, mutual TLS; make cluster-stop
# make bench         figures;  make corpus: the real messages, end to end
# make tidy          format, arrows, banned calls, clang-tidy, cppcheck
# make fmt docs fresh install clean
#
# MODE=release|debug|asan|tsan picks the tree build/MODE (assertions are on in
# all of them).  V=1 shows commands, WERROR=1 makes warnings fatal.
#
# Sources are found by wildcard: MODULE/*.c becomes libMODULE.a, tools/NAME.c a
# program (with what is in tools/NAME/), tests/unit/*.c a cmocka program each.

MODE ?= release
B := build/$(MODE)
Q := $(if $(V),,@)
ifeq ($(origin CC),default)
CC := gcc
endif
CLANG ?= clang
PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local

SEEDS ?= 60
FUZZ_SECONDS ?= 120
CORPUS ?= ../shared/data/sms-en.tsv.gz

# A make of a make has its processes from there.
ifeq ($(MAKELEVEL)$(filter -j% --jobserver%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

# ---- what there is, in dependency order (tools/dev/arrows: who may use whom)

MODULES := base log consensus gateway client
MAINS   := gateway/quipud.c
TOOLS   := $(patsubst tools/%.c,%,$(wildcard tools/*.c))
UNITS   := $(patsubst %.c,%,$(wildcard tests/unit/*.c tests/unit/*/*.c))
SIM     := $(wildcard tests/sim/*.c)
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
PROGRAMS := $(if $(wildcard $(MAINS)),quipud) $(TOOLS)

sources = $(filter-out $(MAINS),$(wildcard $(1)/*.c $(1)/*/*.c))
objects = $(patsubst %.c,$(2)/obj/%.o,$(1))

# ---- flags

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wvla -Wformat=2 -Wconversion -Wno-sign-conversion \
	$(if $(WERROR),-Werror)
HARD := -fstack-protector-strong -fstack-clash-protection \
	-ftrivial-auto-var-init=zero -fzero-call-used-regs=used-gpr \
	-fno-strict-overflow -fno-delete-null-pointer-checks \
	$(if $(filter x86_64,$(shell uname -m)),-fcf-protection=full)
SANE := -fno-sanitize-recover=all -fno-omit-frame-pointer

CFLAGS_release := -O2 -D_FORTIFY_SOURCE=3 $(HARD)
CFLAGS_debug   := -O0 $(HARD)
CFLAGS_asan    := -O1 -fsanitize=address,undefined $(SANE)
CFLAGS_tsan    := -O1 -fsanitize=thread $(SANE)
ifeq ($(CFLAGS_$(MODE)),)
$(error MODE is one of release, debug, asan, tsan)
endif
LANGUAGE := -std=gnu11 -D_GNU_SOURCE -I. -isystem build/deps/include -MMD -MP
ALL_CFLAGS = $(LANGUAGE) $(WARN) -g -fPIE $(CFLAGS_$(MODE)) $(CFLAGS)
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code \
	-Wl,--as-needed $(filter -fsanitize=%,$(CFLAGS_$(MODE))) $(LDFLAGS)
FUZZ_SAN    := address,undefined
FUZZ_CFLAGS := $(LANGUAGE) -g -O1 -fsanitize=fuzzer-no-link,$(FUZZ_SAN) $(SANE)

DEPS_LIBS := $(patsubst %,build/deps/lib/lib%.a,raft microhttpd sodium)
LIBS := $(DEPS_LIBS) -luv -llmdb -llz4 -lxxhash -lssl -lcrypto -ljansson \
	-linih -lz -lpthread -lm

# ---- modules, programs, tests

# Users before the used.
MODULE_LIBS := $(foreach m,client gateway consensus log base,$(B)/lib$(m).a)

.PHONY: all programs tests setup deps
all: setup deps $(MODULE_LIBS) programs
programs: $(PROGRAMS:%=$(B)/%)
tests: $(UNITS:%=$(B)/%) $(if $(SIM),$(B)/quipu-sim)

define library # name, folder of sources, tree
$(3)/lib$(1).a: $(call objects,$(call sources,$(2)),$(3))
	$$(Q)rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call library,$(m),$(m),$(B))))
$(eval $(call library,tools,tools/lib,$(B)))
$(eval $(call library,test,tests/lib,$(B)))

LINK = $(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ \
	$(filter %.o,$^) $(filter-out build/deps/%,$(filter %.a,$^)) $(LIBS)

$(B)/quipud: $(B)/obj/gateway/quipud.o $(MODULE_LIBS) $(DEPS_LIBS)
	@echo "  LINK    $@"
	$(LINK)

define tool # name
$(B)/$(1): $(call objects,tools/$(1).c $(wildcard tools/$(1)/*.c) \
	$(if $(filter quipu-%,$(1)),$(wildcard tools/$(1:quipu-%=%)/*.c)),$(B)) \
	$(B)/libtools.a $(MODULE_LIBS) $(DEPS_LIBS)
	@echo "  LINK    $$@"
	$$(LINK)
endef
$(foreach t,$(TOOLS),$(eval $(call tool,$(t))))

$(B)/tests/unit/%: $(B)/obj/tests/unit/%.o $(B)/libtest.a $(B)/libtools.a $(MODULE_LIBS) $(DEPS_LIBS)
	@echo "  LINK    $@"
	$(LINK) -lcmocka

$(B)/quipu-sim: $(call objects,$(SIM),$(B)) $(B)/libtest.a $(MODULE_LIBS) $(DEPS_LIBS)
	@echo "  LINK    $@"
	$(LINK) -lcmocka

# A fuzz target twice: with libFuzzer to search, with gcc to replay the corpus.
$(B)/replay/%: $(B)/obj/tests/fuzz/fuzz_%.o $(B)/obj/tests/fuzz/replay.o \
		$(B)/libtest.a $(B)/libtools.a $(MODULE_LIBS) $(DEPS_LIBS)
	@echo "  LINK    $@"
	$(LINK)

FUZZ_OBJS := $(call objects,$(foreach m,$(MODULES) tools/lib tests/lib,$(call sources,$(m))),build/fuzz)
build/fuzz/libproduct.a: $(FUZZ_OBJS)
	$(Q)rm -f $@ && ar rcs $@ $^
build/fuzz/fuzz_%: build/fuzz/obj/tests/fuzz/fuzz_%.o build/fuzz/libproduct.a $(DEPS_LIBS)
	@echo "  FUZZ    $@"
	$(Q)$(CLANG) -fsanitize=fuzzer,$(FUZZ_SAN) -Wl,--as-needed -o $@ \
		$(filter %.o,$^) build/fuzz/libproduct.a $(LIBS) -lcmocka

# Preloaded into quipud by tests/torture: it makes disks fail and clocks jump.
$(B)/torture-shim.so: tests/torture/shim.c
	@echo "  LINK    $@"
	$(Q)mkdir -p $(@D) && $(CC) $(LANGUAGE) $(WARN) -g -O2 -fPIC -shared -MF $@.d \
		-MT $@ -o $@ $<

# Objects are kept although pattern rules chain through them.
.PRECIOUS: $(B)/obj/%.o build/asan/obj/%.o build/fuzz/obj/%.o

# ---- compiling; a change of flags compiles anew

$(shell mkdir -p $(B)/obj)
FLAGS_NOW := $(CC) $(filter-out -Werror,$(ALL_CFLAGS))
ifneq ($(FLAGS_NOW),$(shell cat $(B)/obj/flags 2>/dev/null))
$(shell printf '%s\n' '$(FLAGS_NOW)' > $(B)/obj/flags)
endif

$(B)/obj/%.o: %.c $(B)/obj/flags | build/.setup build/deps/.done
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC      $<")
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

build/fuzz/obj/%.o: %.c | build/.setup build/deps/.done setup-fuzz
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CLANG   $<")
	$(Q)$(CLANG) $(FUZZ_CFLAGS) -c -o $@ $<

-include $(shell find $(B)/obj $(if $(filter fuzz,$(MAKECMDGOALS)),build/fuzz/obj) -name '*.d' 2>/dev/null)

# ---- setting up

setup: build/.setup
deps: build/deps/.done
build/.setup: tools/dev/setup tools/dev/packages
	@mkdir -p build
	$(Q)tools/dev/setup build test
	@touch $@
build/deps/.done: tools/dev/deps | build/.setup
	$(Q)CC=$(CC) tools/dev/deps
	@touch $@
$(DEPS_LIBS): build/deps/.done ;

# A static pattern: make looks for no pattern rule of a phony target.
SETUPS = setup-fuzz setup-tidy setup-fresh setup-interop setup-torture
.PHONY: $(SETUPS)
$(SETUPS): setup-%:
	$(Q)tools/dev/setup $*

# ---- tests (tools/dev/tests counts and reports)

.PHONY: test unit sim scenario sanitize fuzz fuzz-smoke planted interop replays torture
RUN_TESTS = $(Q)B=$(B) ONLY='$(ONLY)' SEEDS='$(SEEDS)' SEED='$(SEED)' \
	PYTHON=$(PYTHON) tools/dev/tests

# The corpora are replayed under ASan and UBSan whatever the mode is.
ifeq ($(MODE),asan)
replays: $(FUZZERS:%=$(B)/replay/%)
else
replays: | build/.setup build/deps/.done
	$(Q)$(MAKE) --no-print-directory MODE=asan replays
endif

test: programs $(B)/torture-shim.so $(UNITS:%=$(B)/%) $(if $(SIM),$(B)/quipu-sim) replays
	$(RUN_TESTS) unit fuzz-smoke sim scenario
unit: $(UNITS:%=$(B)/%)
	$(RUN_TESTS) unit
sim: $(B)/quipu-sim
	$(RUN_TESTS) sim
scenario: programs $(B)/torture-shim.so
	$(RUN_TESTS) scenario
# Both modes run, also when the first one finds something.
sanitize:
	$(Q)rc=0; for mode in asan tsan; do \
		echo "=== MODE=$$mode"; \
		$(MAKE) --no-print-directory -k MODE=$$mode tested || rc=1; \
	done; exit $$rc
.PHONY: tested
tested: programs $(UNITS:%=$(B)/%) $(B)/quipu-sim
	$(RUN_TESTS) unit sim scenario
fuzz-smoke: replays
	$(RUN_TESTS) fuzz-smoke
fuzz: $(FUZZERS:%=build/fuzz/fuzz_%)
	$(Q)ONLY='$(ONLY)' FUZZ_SECONDS=$(FUZZ_SECONDS) tools/dev/fuzz
planted: $(B)/quipu-sim
	$(Q)B=$(B) tools/dev/planted
interop: programs setup-interop
	$(RUN_TESTS) interop
MINUTES ?= 30
torture: programs $(B)/torture-shim.so setup-torture
	$(Q)B=$(B) PYTHON=$(PYTHON) tools/dev/torture --minutes $(MINUTES) \
		$(if $(SEED),--seed $(SEED)) $(ARGS)

# ---- running

.PHONY: run cluster cluster-stop bench corpus fresh
run: programs
	$(Q)B=$(B) tools/dev/run
cluster: programs
	$(Q)B=$(B) tools/dev/cluster start
cluster-stop:
	$(Q)B=$(B) tools/dev/cluster stop
bench: programs
	$(Q)B=$(B) tools/dev/bench $(ARGS)
corpus: programs
	$(Q)B=$(B) CORPUS='$(CORPUS)' tools/dev/corpus $(ARGS)
fresh: setup-fresh
	$(Q)tools/dev/fresh

# ---- care

.PHONY: tidy fmt docs install clean help
tidy: setup-tidy | build/.setup build/deps/.done
	$(Q)tools/dev/tidy
# Lines that changed since HEAD: the rest is wrapped by hand (.clang-format).
fmt: setup-tidy
	$(Q)git clang-format --style=file --extensions c,h HEAD || true
docs: programs
	$(Q)B=$(B) tools/dev/gen-docs
install: programs
	$(Q)install -d $(DESTDIR)$(PREFIX)/bin
	$(Q)install $(PROGRAMS:%=$(B)/%) $(DESTDIR)$(PREFIX)/bin
clean:
	$(Q)rm -rf build/release build/debug build/asan build/tsan build/fuzz build/planted build/tidy
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile
