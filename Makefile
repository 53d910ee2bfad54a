# Weft. `make help` says what there is. No configure step: sources are found by wildcard, and every mode has its own
# build tree, build/MODE: MODE=release (default), debug, asan (ASan+UBSan), tsan.

MODE    ?= release
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= gcc
B       := build/$(MODE)

WARN   := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla -Werror
STD    := -std=gnu17 -D_GNU_SOURCE -I. -MMD -MP -g -pthread -ffp-contract=off -fno-strict-aliasing
OPT_release := -O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE
OPT_debug   := -O0
OPT_asan    := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
OPT_tsan    := -O1 -fno-omit-frame-pointer -fsanitize=thread
LD_release  := -pie -Wl,-z,relro,-z,now
LD_asan     := -fsanitize=address,undefined
LD_tsan     := -fsanitize=thread
CFLAGS  += $(STD) $(WARN) $(OPT_$(MODE))
LDFLAGS += -pthread $(LD_$(MODE))
AVX2    := -O3 -mavx2 -mfma -mf16c
AVXVNNI := $(AVX2) -mavxvnni
AVX512  := -O3 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16

# Libraries of each room; a program links what it may include, and no more.
LIB_base     := -lmicrohttpd -lcurl -ljansson -lnettle
LIB_adapters := -lpcre2-8
LIB_engine   := -lpcre2-8 -lutf8proc -lm
LIB_gateway  := -lsqlite3

src = $(filter-out $(2),$(wildcard $(1)/*.c))
obj = $(patsubst %.c,$(B)/%.o,$(1))

SRC_base     := $(call src,base,)
SRC_kernels  := $(call src,kernels,)
SRC_adapters := $(call src,adapters,)
SRC_engine   := $(call src,engine,engine/main.c)
SRC_gateway  := $(call src,gateway,gateway/main.c $(wildcard gateway/cli*.c))
SRC_cli      := $(wildcard gateway/cli*.c)
ROOMS        := base kernels adapters engine gateway

LIBS := $(foreach r,$(ROOMS),$(B)/lib$(r).a)
PROGRAMS := weft-engine weft-gateway weft
BINS := $(addprefix $(B)/,$(PROGRAMS))

UNIT_TESTS   := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/test_*.c))
KERNEL_TESTS := $(patsubst tests/kernels/%.c,$(B)/tests/kernels/%,$(wildcard tests/kernels/test_*.c))
BENCHES      := $(patsubst tests/kernels/%.c,$(B)/tests/kernels/%,$(wildcard tests/kernels/bench_*.c))
TEXT_BENCH   := $(B)/tests/unit/bench_text
LOAD         := $(B)/tests/load/load $(B)/tests/load/steps
LOGITS       := $(B)/tests/accuracy/weft-logits
C_TESTS      := $(UNIT_TESTS) $(KERNEL_TESTS)

.PHONY: all help programs libs test c-tests check-c asan lint format accuracy load bench bench-kernels bench-speculation bench-text compile_commands.json install clean
.SECONDARY:

all: programs ## build the three programs into build/MODE

help: ## this list
	@grep -hE '^[a-z][a-zA-Z_.-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

programs: $(BINS)
libs: $(LIBS)

define room
$(B)/lib$(1).a: $$(call obj,$$(SRC_$(1)))
	@mkdir -p $$(@D) && rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach r,$(ROOMS),$(eval $(call room,$(r))))

$(B)/weft-engine: $(B)/engine/main.o $(B)/libengine.a $(B)/libadapters.a $(B)/libkernels.a $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_engine) $(LIB_adapters) $(LIB_base) -lm
$(B)/weft-gateway: $(B)/gateway/main.o $(B)/libgateway.a $(B)/libadapters.a $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_gateway) $(LIB_adapters) $(LIB_base) -lm
$(B)/weft: $(call obj,$(SRC_cli)) $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_base)

$(B)/kernels/%_avx2.o: kernels/%_avx2.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(AVX2) -c -o $@ $<
$(B)/kernels/%_avxvnni.o: kernels/%_avxvnni.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(AVXVNNI) -c -o $@ $<
$(B)/kernels/%_avx512.o: kernels/%_avx512.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(AVX512) -c -o $@ $<
$(B)/kernels/%.o: kernels/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(if $(filter release,$(MODE)),-O3) -c -o $@ $<
# cmocka.h wants these four before it, whatever order the includes are sorted in.
$(B)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -include setjmp.h -include stdarg.h -include stddef.h -include stdint.h -c -o $@ $<
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<

$(LOGITS): $(B)/tests/accuracy/logits.o $(B)/libengine.a $(B)/libadapters.a $(B)/libkernels.a $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_engine) $(LIB_adapters) $(LIB_base) -lm
# The bench compares with oneDNN where its header is (Debian: libdnnl-dev); nothing else knows that library.
PEER     := $(if $(wildcard /usr/include/oneapi/dnnl/dnnl.h),onednn,none)
LIB_peer := $(if $(filter onednn,$(PEER)),-ldnnl)
$(B)/tests/kernels/bench_kernels: $(B)/tests/kernels/bench_kernels.o $(B)/tests/kernels/peer_$(PEER).o $(B)/libkernels.a $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_peer) -lcmocka -lm
$(B)/tests/%: $(B)/tests/%.o $(LIBS)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(LIBS) -Wl,--end-group $(LIB_gateway) $(LIB_engine) $(LIB_adapters) $(LIB_base) -lcmocka -lm

test: ## everything that needs no GPU (what ops/test runs)
	ops/test

c-tests: $(C_TESTS)

check-c: c-tests ## C tests of this MODE (unit and kernels); each prints its own count
	@fail=0; for t in $(C_TESTS); do echo "== $$t"; $$t || fail=1; done; exit $$fail

asan: ## C tests under ASan and UBSan
	$(MAKE) MODE=asan check-c

lint: ## include direction, banned calls, file sizes
	tests/lint/run

format: ## clang-format over the tree
	clang-format -i $$(git ls-files '*.c' '*.h')

accuracy: $(B)/weft-engine $(LOGITS) ## families x formats x adapters against transformers and PEFT (tests/README.md); minutes, needs the oracle
	$(if $(WEFT_ORACLE_PYTHON),$(WEFT_ORACLE_PYTHON),python3) tests/accuracy/run

bench-kernels: $(BENCHES) ## kernels beside the machine's own read and FMA rates
	@for t in $(BENCHES); do $$t; done

bench-text: $(TEXT_BENCH) ## hostile texts and schemas: milliseconds through tokenizers and structured output
	@$(TEXT_BENCH)

load: $(LOAD) ## the load generator and the bench of passes

bench: programs $(BENCHES) $(LOAD) ## all of it in 20 minutes: ARGS=--quick a few; --only NAME, --peer llama-cpp-python, ... (tests/load/bench --help)
	@bash -c '. ops/setup.sh && fetch_base && exec tests/load/bench $(ARGS)'

bench-speculation: programs ## what guessing ahead brings at one stream; needs the packages of tests/e2e/requirements.txt
	$(if $(WEFT_E2E_PYTHON),$(WEFT_E2E_PYTHON),$${XDG_CACHE_HOME:-$$HOME/.cache}/weft/venv-e2e/bin/python) tests/load/speculation

compile_commands.json: ## for editors and clang-tidy
	@{ echo '['; sep=''; for f in $(foreach r,$(ROOMS),$(wildcard $(r)/*.c)) $(wildcard tests/unit/*.c tests/kernels/*.c); do \
	  printf '%s{"directory":"%s","file":"%s","command":"$(CC) $(CFLAGS) %s -c %s"}' "$$sep" "$(CURDIR)" "$$f" \
	  "$$(case $$f in *_avx2.c) echo "$(AVX2)";; *_avxvnni.c) echo "$(AVXVNNI)";; *_avx512.c) echo "$(AVX512)";; esac)" "$$f"; sep=','; echo; done; echo ']'; } > $@

install: programs ## into DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(BINS) $(DESTDIR)$(PREFIX)/bin

clean: ## remove build/
	rm -rf build compile_commands.json

-include $(shell find build/$(MODE) -name '*.d' 2>/dev/null)
