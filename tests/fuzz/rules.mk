# Fuzzers (tests/README.md, "Fuzzers"). Here: what each is made of; how they are built with clang into build/fuzz; and the same fuzzers without clang,
# fed from files in every check (build/MODE/tests/fuzz/replay_NAME).
#
# own_NAME are the parser's files, whose coverage is told; with_NAME what they need besides base/, which is linked as an archive,
# link_NAME further words for the linker.
FUZZ := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
F    := build/fuzz

include tests/fuzz/parts.mk

FUZZ_CC   ?= $(firstword $(shell command -v clang-14 clang 2>/dev/null))
# Not pointer-overflow: nothing added to NULL, which C2y allows, is what it finds; what leaves an object AddressSanitizer sees.
FUZZ_SAN  := -fsanitize=address,undefined,float-cast-overflow -fno-sanitize=pointer-overflow -fno-sanitize-recover=all
FUZZ_FLAGS = $(STD) -O1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unknown-warning-option -Wno-unused-command-line-argument
FUZZ_PRE  := -include setjmp.h -include stdarg.h -include stddef.h -include stdint.h
# What a parser's file calls beside the parser is not linked: an input that got there would end in a crash and so be told.
FUZZ_LINK := -no-pie -Wl,--unresolved-symbols=ignore-all -Wl,--warn-unresolved-symbols
FUZZ_LIBS := $(LIB_gateway) $(LIB_engine) $(LIB_adapters) $(LIB_base) -lm
FUZZ_PROGRAMS := $(addprefix $(F)/fuzz_,$(FUZZ))
FUZZ_COVERS   := $(addprefix $(F)/cover_,$(FUZZ))

$(F)/o/%.o: %.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) $(if $(filter tests/%,$<),$(FUZZ_PRE)) -fsanitize=fuzzer-no-link $(FUZZ_SAN) -c -o $@ $<
$(F)/c/%.o: %.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) $(if $(filter tests/%,$<),$(FUZZ_PRE)) -fprofile-instr-generate -fcoverage-mapping -c -o $@ $<
# What these compare are numbers of states and places, which says nothing of an input's bytes to who changes them: libFuzzer hears of a branch, not of each comparison.
$(patsubst %,$(F)/o/engine/%.o,grammar_machine grammar_net grammar_merge grammar_apart grammar_regex_net constrain_lexicon): FUZZ_FLAGS += -fno-sanitize-coverage=trace-cmp

define fuzz_base
$(F)/$(1)/libbase.a: $(patsubst %.c,$(F)/$(1)/%.o,$(SRC_base))
	@mkdir -p $$(@D) && rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach k,o c,$(eval $(call fuzz_base,$(k))))

define fuzz_program
$(F)/fuzz_$(1): $(patsubst %.c,$(F)/o/%.o,tests/fuzz/fuzz_$(1).c $(own_$(1)) $(with_$(1))) $(F)/o/libbase.a tests/fuzz/parts.mk
	$$(FUZZ_CC) -pthread $$(FUZZ_LINK) -fsanitize=fuzzer $$(FUZZ_SAN) $(link_$(1)) -o $$@ $$(filter %.o %.a,$$^) $$(FUZZ_LIBS)
$(F)/cover_$(1): $(patsubst %.c,$(F)/c/%.o,tests/fuzz/fuzz_$(1).c tests/fuzz/replay.c $(own_$(1)) $(with_$(1))) $(F)/c/libbase.a tests/fuzz/parts.mk
	$$(FUZZ_CC) -pthread $$(FUZZ_LINK) -fprofile-instr-generate -fcoverage-mapping $(link_$(1)) -o $$@ $$(filter %.o %.a,$$^) $$(FUZZ_LIBS)
$(F)/own_$(1): tests/fuzz/parts.mk
	@mkdir -p $$(@D) && echo $(own_$(1)) $(in_$(1)) >$$@
endef
$(foreach f,$(FUZZ),$(eval $(call fuzz_program,$(f))))

fuzz-programs: $(FUZZ_PROGRAMS) $(FUZZ_COVERS) $(addprefix $(F)/own_,$(FUZZ))

FUZZ_S ?= 30
# --only builds what it names alone.
FUZZ_ONLY = $(shell echo '$(ARGS)' | sed -n 's/.*--only[ =]\([a-z0-9_,]*\).*/\1/p' | tr ',' ' ')
fuzz: $(if $(FUZZ_CC),$(foreach f,$(if $(FUZZ_ONLY),$(FUZZ_ONLY),$(FUZZ)),$(F)/fuzz_$(f) $(F)/cover_$(f) $(F)/own_$(f))) ## every parser under libFuzzer for FUZZ_S seconds each, with the coverage reached; needs clang and llvm: ARGS="--only NAME --inputs 1000000", --min
	@$(if $(FUZZ_CC),,echo "fuzz: no clang here; ops/setup.sh has the packages (fuzz_packages)" >&2; exit 1)
	@tests/fuzz/run --seconds $(FUZZ_S) $(ARGS)

# Without clang: files in, TAP out.
FUZZ_REPLAYS := $(addprefix $(B)/tests/fuzz/replay_,$(FUZZ))
$(B)/tests/fuzz/replay_chat_stream: $(B)/gateway/cli/cli_chat_stream.o
$(B)/tests/fuzz/replay_cli $(B)/tests/fuzz/replay_cli_run: $(filter-out $(B)/gateway/cli/cli.o,$(call obj,$(SRC_cli)))
$(B)/tests/fuzz/replay_%: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/replay.o $(LIBS)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $(link_$*) -o $@ $(filter %.o,$^) -Wl,--start-group $(LIBS) -Wl,--end-group $(LIB_gateway) $(LIB_engine) $(LIB_adapters) $(LIB_base) -lm

-include $(shell find $(F)/o $(F)/c -name '*.d' 2>/dev/null)
