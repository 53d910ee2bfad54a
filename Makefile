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
LIB_engine   := -lpcre2-8 -lutf8proc -lseccomp -lm
LIB_gateway  := -lsqlite3 -lyaml -lz

src = $(filter-out $(2),$(wildcard $(1)/*.c))
obj = $(patsubst %.c,$(B)/%.o,$(1))

SRC_base     := $(call src,base,)
SRC_kernels  := $(call src,kernels,)
SRC_adapters := $(call src,adapters,)
SRC_engine   := $(call src,engine,engine/main.c)
SRC_gateway  := $(filter-out gateway/main.c gateway/cli/%,$(wildcard gateway/*.c gateway/*/*.c))
SRC_cli      := $(wildcard gateway/cli/*.c)
ROOMS        := base kernels adapters engine gateway

LIBS := $(foreach r,$(ROOMS),$(B)/lib$(r).a)
PROGRAMS := weft-engine weft-gateway weft
BINS := $(addprefix $(B)/,$(PROGRAMS))

UNIT_TESTS   := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/test_*.c))
KERNEL_TESTS := $(patsubst tests/kernels/%.c,$(B)/tests/kernels/%,$(wildcard tests/kernels/test_*.c))
BENCHES      := $(patsubst tests/kernels/%.c,$(B)/tests/kernels/%,$(wildcard tests/kernels/bench_*.c))
TEXT_BENCH   := $(B)/tests/unit/bench_text
LOAD         := $(addprefix $(B)/tests/load/,load steps context fake_engine exchanges ledger archive make_usage watch)
LOGITS       := $(B)/tests/accuracy/weft-logits
C_TESTS       = $(UNIT_TESTS) $(KERNEL_TESTS) $(FUZZ_REPLAYS)

# CUDA (docs/CUDA.md): kernels compile for the device with nvcc, and for the host through the shim of tests/simt. What
# talks to the CUDA runtime itself is named *_cuda.cu and has its counterpart in tests/simt.
, := ,
CUDA_HOME    ?= /usr/local/cuda
NVCC         ?= $(firstword $(shell command -v nvcc) $(wildcard $(CUDA_HOME)/bin/nvcc))
SRC_cuda     := $(wildcard kernels/cuda/*.cu)
SRC_device   := $(filter-out %_cuda.cu,$(SRC_cuda)) $(wildcard tests/simt/*.cu)
SRC_shim     := $(filter-out tests/simt/test_% tests/simt/race% tests/simt/outside.c tests/simt/list.c,$(wildcard tests/simt/*.c))
S            := $(B)/simt
OBJ_simt     := $(patsubst %.cu,$(S)/%.o,$(SRC_device))
OBJ_race     := $(patsubst %.cu,$(S)/race/%.o,$(SRC_device))
OBJ_shim     := $(patsubst %.c,$(S)/%.o,$(SRC_shim) $(wildcard kernels/cuda/*.c))
# The race build supplies what -fsanitize=thread calls itself, so it goes with no other sanitizer: release only.
SIMT_TESTS   := $(patsubst tests/simt/%.c,$(B)/tests/simt/%,$(wildcard tests/simt/test_*.c))
RACE_TESTS   := $(if $(filter release,$(MODE)),$(patsubst $(B)/tests/simt/test_%,$(B)/tests/simt/race_%,$(SIMT_TESTS)))
# Device code: sm_80 (runs on all of 8.x), sm_90a, and PTX of 90 for what comes after Hopper: it must be of 90, for the host
# asks devices from 90 on for dependent launches and clusters, and code made for 80 has no griddepcontrol.wait in it.
# Registers and spills of each kernel are in the .log beside its object.
OBJ_cuda     := $(patsubst %.cu,build/cuda/%.o,$(SRC_cuda))
FOR_90       := -gencode arch=compute_90,code=compute_90 -gencode arch=compute_90a,code=sm_90a
FOR_80       := -gencode arch=compute_80,code=sm_80 $(FOR_90)
CUDA_FOR      = $(if $(filter %_sm90.cu,$<),$(FOR_90),$(FOR_80))
# No contraction behind the sources' back, as on the host: what is to be fused says dev_fma, and a row's bits don't depend
# on the kernel that a function was inlined into.
NVCC_FLAGS   := -std=c++17 -I. -O3 -fmad=false -lineinfo -Xcompiler -fPIC -Werror all-warnings -Xptxas -v
SIMT_CXX     := -x c++ -std=c++17 -DWEFT_SIMT -D_GNU_SOURCE -I. -MMD -MP -g -fPIC -fno-exceptions -fno-rtti \
	-fdebug-prefix-map=$(CURDIR)/= \
	-ffp-contract=off -fno-strict-aliasing -Wall -Wextra -Wno-unused-function -Werror

.PHONY: all help programs libs test c-tests simt-tests simt nvcc-check cuda check-c asan lint format accuracy load bench bench-prune bench-context eval-context plan-check bench-gateway bench-kernels bench-ledger bench-speculation eval-policies eval-routing record-routing bench-text bench-usage compile_commands.json install kills clean bench-export bench-archive trust trust-programs fuzz fuzz-programs simulate simulate-sweep man deb deb-check bench-standby bench-medusa eval-answers
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
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_gateway) $(LIB_base) -lm

# The description of the API as one stream of YAML documents, and the page that shows it, in the program.
$(B)/openapi.yaml: schema/openapi.yaml $(wildcard schema/openapi/*.yaml)
	@mkdir -p $(@D)
	awk 'FNR == 1 { print "---" } 1' $^ > $@
$(B)/gateway/embedded.o: $(B)/openapi.yaml gateway/api/docs.html
	@mkdir -p $(@D)
	printf '.section .rodata\n.global openapi_text, docs_page\nopenapi_text: .incbin "$(B)/openapi.yaml"\n.byte 0\ndocs_page: .incbin "gateway/api/docs.html"\n.byte 0\n.section .note.GNU-stack,"",%%progbits\n' | $(CC) -x assembler -c -o $@ -
# The dashboard: its files and Debian's chart.js (libjs-chart.js), each between two labels, and the table of all of them (gateway/dashboard/dashboard.h).
CHART_JS  := $(firstword $(wildcard /usr/share/javascript/chart.js/chart.min.js /usr/share/nodejs/chart.js/dist/chart.min.js))
DASHBOARD := $(sort $(wildcard $(addprefix gateway/dashboard/*.,html css js svg))) $(if $(CHART_JS),$(B)/gateway/chart.js)
$(B)/gateway/chart.js: $(CHART_JS)
	@mkdir -p $(@D)
	cp $< $@
$(B)/gateway/dashboard_files.o: $(DASHBOARD) Makefile
	@$(if $(CHART_JS),:,echo "chart.js is missing: install libjs-chart.js (ops/setup.sh has the list)" >&2; exit 1)
	@mkdir -p $(@D)
	{ printf '.section .rodata\n'; n=0; for f in $(DASHBOARD); do \
	    printf 'name%d: .asciz "%s"\nfrom%d: .incbin "%s"\nto%d: .byte 0\n' $$n "$${f##*/}" $$n "$$f" $$n; n=$$((n + 1)); done; \
	  printf '.section .data.rel.ro,"aw"\n.balign 16\n.global dashboard_files\ndashboard_files:\n'; \
	  i=0; while [ $$i -lt $$n ]; do printf '.dc.a name%d, from%d, to%d\n' $$i $$i $$i; i=$$((i + 1)); done; \
	  printf '.dc.a 0, 0, 0\n.section .note.GNU-stack,"",%%progbits\n'; } | $(CC) -x assembler -c -o $@ -
$(B)/libgateway.a: $(B)/gateway/embedded.o $(B)/gateway/dashboard_files.o

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

$(S)/race/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) $(SIMT_CXX) -O1 -fsanitize=thread -c -o $@ $<
$(S)/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) $(SIMT_CXX) $(OPT_$(MODE)) -fPIC -c -o $@ $<
$(S)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWEFT_SIMT -fPIC -c -o $@ $<
# The shim's own machinery is called at every barrier and every mma: half the time of a test is in it.
$(addprefix $(S)/tests/simt/,sync.o places.o copy.o math.o): OPT_asan := -O2 -fno-omit-frame-pointer -fsanitize=address
$(S)/simt.a: $(OBJ_simt) $(OBJ_shim)
	rm -f $@ && ar rcs $@ $^
$(S)/race.a: $(OBJ_race) $(OBJ_shim)
	rm -f $@ && ar rcs $@ $^
SIMT_LINK = $(CXX) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -lm
$(B)/tests/simt/test_%: $(B)/tests/simt/test_%.o $(S)/tests/simt/race_off.o $(S)/simt.a $(B)/libkernels.a $(B)/libbase.a
	$(SIMT_LINK) $(LIB_base)
$(B)/tests/simt/test_choose $(B)/tests/simt/race_choose: $(B)/libengine.a
$(B)/tests/simt/race_%: $(B)/tests/simt/test_%.o $(S)/tests/simt/race.o $(S)/race.a $(B)/libkernels.a $(B)/libbase.a
	$(SIMT_LINK) $(LIB_base)

# All kernels there are, by name, for tests/simt/coverage.
$(S)/list: $(S)/tests/simt/list.o $(filter $(S)/kernels/%,$(OBJ_simt)) $(S)/tests/simt/race_off.o $(S)/simt.a $(B)/libkernels.a $(B)/libbase.a
	$(SIMT_LINK) $(LIB_base)

# The backend of devices, opened by the engine (kernels/device.c): $(B)/weft-cuda.so, and the same with its kernels on
# the CPU for tests. Host code of kernels/ that reads packed weights is in it once more.
SO_host      := base/err.c $(addprefix kernels/,weight.c tensor.c pack.c pack_dense.c pack_sparse.c pack_quant.c quantize.c memory.c lora.c kv.c act.c)
SO_shim      := $(addprefix tests/simt/,sched.c sync.c copy.c math.c memory.c kernels.c places.c race_off.c rt_simt.c fault.c outside.c)
SIMT_SO      := $(patsubst %.cu,$(S)/%.o,$(filter kernels/%,$(SRC_device))) \
	$(patsubst %.c,$(S)/%.o,$(SO_host) $(SO_shim) $(wildcard kernels/cuda/*.c))
$(B)/cuda/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fPIC -c -o $@ $<
# cuBLASLt is looked for where this was linked, too: CUDA's folder is seldom among the loader's. NCCL is opened by --tp.
CUDA_LIB     = $(firstword $(wildcard $(abspath $(dir $(NVCC))../lib64) $(CUDA_HOME)/lib64))
CUDA_RPATH   = $(if $(CUDA_LIB),-Xlinker -rpath -Xlinker $(CUDA_LIB))
$(B)/weft-cuda.so: $(OBJ_cuda) $(patsubst %.c,$(B)/cuda/%.o,$(SO_host) $(wildcard kernels/cuda/*.c))
	$(NVCC) -shared -Xlinker -Bsymbolic -Xlinker -z,defs $(CUDA_RPATH) -o $@ $^ -lcublasLt -ldl -lm

cuda: $(if $(NVCC),$(B)/weft-cuda.so) ## the backend for NVIDIA devices, beside the programs; needs nvcc and cuBLASLt
	@$(if $(NVCC),echo "cuda: $(B)/weft-cuda.so is built: weft-engine beside it takes it",echo "cuda: no nvcc here (CUDA_HOME or NVCC would say where)"; exit 1)

$(S)/weft-cuda.so: $(SIMT_SO)
	$(CXX) $(filter-out -pie,$(LDFLAGS)) -shared -Wl,-Bsymbolic$(if $(filter release,$(MODE)),$(,)-z$(,)defs) -o $@ $^ -lm -ldl

test: ## everything that needs no GPU (what ops/test runs)
	ops/test

# Fuzzers: `make fuzz` and what every check replays (tests/README.md).
include tests/fuzz/rules.mk

c-tests: $(C_TESTS)

check-c: c-tests ## C tests of this MODE (unit and kernels); each prints its own count
	@fail=0; for t in $(C_TESTS); do echo "== $$t"; $$t || fail=1; done; exit $$fail

build/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) $(CUDA_FOR) -MD -MP -MF $(@:.o=.d) -c -o $@ $< >$(@:.o=.log) 2>&1 || { grep -v '^ptxas info' $(@:.o=.log); exit 1; }
# Blocks on an SM are what KERNEL() says, for the compiler keeps registers to that: by spilling, where they are too many.
nvcc-check: $(if $(NVCC),$(OBJ_cuda)) ## every kernel for sm_80, sm_90a and PTX, warnings as errors; no kernel may spill registers
	@$(if $(NVCC),awk '/Compiling entry/ { k = $$7 " " $$9 } / bytes stack frame/ && $$1 + $$5 > 0 { bad = 1; print "nvcc-check: " $$1 " bytes of stack$(,) spills " $$5 ": " k } \
		END { exit bad }' $(OBJ_cuda:.o=.log))
	@echo "nvcc-check: $(if $(NVCC),$(words $(OBJ_cuda)) files compiled for sm_80 (but *_sm90.cu)$(,) sm_90a and PTX,skipped: no nvcc here (CUDA_HOME or NVCC would say where))"

simt-tests: $(SIMT_TESTS) $(RACE_TESTS) $(S)/list

simt: simt-tests ## CUDA kernels on the CPU, in random thread orders, and the search for races; SIMT_SEEDS=N
	@rm -rf $(S)/ran && mkdir -p $(S)/ran
	@fail=0; for t in $(SIMT_TESTS) $(RACE_TESTS); do echo "== $$t"; SIMT_RAN=$(S)/ran $$t || fail=1; done; \
	$(if $(filter release,$(MODE)),tests/simt/coverage $(B) $(S)/ran || fail=1;) exit $$fail

asan: ## C tests under ASan and UBSan
	$(MAKE) MODE=asan check-c

lint: ## include direction, banned calls, file sizes
	tests/lint/run

format: ## clang-format over the tree
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cu')

accuracy: $(B)/weft-engine $(LOGITS) ## families x formats x adapters against transformers and PEFT (tests/README.md); minutes, needs the oracle
	$(if $(WEFT_ORACLE_PYTHON),$(WEFT_ORACLE_PYTHON),python3) tests/accuracy/run

bench-kernels: $(BENCHES) ## kernels beside the machine's own read and FMA rates
	@for t in $(BENCHES); do $$t; done

bench-text: $(TEXT_BENCH) ## hostile texts and schemas: milliseconds through tokenizers and structured output
	@$(TEXT_BENCH)

load: $(LOAD) ## the load generator and the bench of passes

bench: programs $(BENCHES) $(LOAD) ## all of it in 20 minutes: ARGS=--quick a few; --only NAME, --peer llama-cpp-python, ... (tests/load/bench --help)
	@bash -c '. ops/setup.sh && fetch_base && exec tests/load/bench $(ARGS)'

bench-context: $(B)/tests/load/context ## time and memory against length, 1k to 32k, bf16 and int8, with and without a window: the table of docs/LONG_CONTEXT.md; ARGS="--longest 131072 --rounds 5"
	@bash -c '. ops/setup.sh && fetch_base && exec $< $(ARGS) "$$WEFT_MODEL"'

eval-context: programs ## is a fact found again in a long text: the retrieval table of docs/LONG_CONTEXT.md: ARGS="--lengths 8192,16384 -- --rope-scaling yarn --rope-factor 4"
	@bash -c '. ops/setup.sh && fetch_base && exec $(E2E_PYTHON) tests/load/needle $(ARGS)'

bench-prune: programs $(LOAD) ## what pruning costs the demo base and what it brings, five minutes: the table of docs/PRUNING.md; ARGS="--rounds 5"
	@bash -c '. ops/setup.sh && fetch_base && exec tests/load/prune_table --build $(B) $(ARGS)'

plan-check: programs $(LOAD) ## what weft plan predicts of this machine beside what it does, in five minutes: ARGS="--rounds 2", --only gateway (docs/PLANNING.md)
	@bash -c '. ops/setup.sh && fetch_base && exec tests/load/plan_check $(ARGS)'

bench-gateway: programs $(LOAD) $(B)/tests/kernels/bench_kernels ## what the gateway adds to a request and carries on one core, by a fake engine: ARGS="--peer litellm", --quick, --only NAME
	@tests/load/bench_gateway $(ARGS)

bench-export: programs $(LOAD) ## usage rows a second out of the gateway, and what requests notice of it; ARGS="--rows N"
	@tests/load/bench_export $(ARGS)

bench-archive: $(B)/tests/load/archive ## what archives and backups cost those who are served meanwhile: ARGS="ROWS [TENANTS]"
	@$< $(ARGS)

bench-standby: programs $(LOAD) ## a gateway under load killed, its standby promoted, so many times: seconds until it serves, what was lost: ARGS="--trials 10 --every 2 --rows 0"
	@$(E2E_PYTHON) tests/load/bench_standby $(ARGS)

bench-ledger: $(B)/tests/load/ledger ## requests admitted and settled a second, on a disk whose fsync takes 1 ms: told at once, and after it (ARGS="--seconds 20")
	$< $(ARGS)
	$< --durable $(ARGS)
	$< --tenants 1 --adapters 1 $(ARGS)
	$< --check $(ARGS)

kills: programs $(B)/tests/unit/test_ledger_kill ## SIGKILL of ledger, gateway and engine under load, and the invariants after it: ARGS="--kills 150 --seed 1"
	WEFT_KILLS=300 $(B)/tests/unit/test_ledger_kill
	cd tests/e2e/gateway && $(E2E_PYTHON) ledger_kills.py $(ARGS)

bench-usage: programs $(B)/tests/load/make_usage ## what dashboards ask, over 10 million rows of 90 days: ARGS="--rows 1000000", --rounds N, --only WORD
	@tests/load/bench_usage $(ARGS)

# The figures of trust (docs/RELIABILITY.md section 4). Rows are Python on what the end-to-end tests need; tests/trust/rules.mk builds their helpers.
E2E_PYTHON = $(if $(WEFT_E2E_PYTHON),$(WEFT_E2E_PYTHON),$${XDG_CACHE_HOME:-$$HOME/.cache}/weft/venv-e2e/bin/python)
include tests/trust/rules.mk
reference: ## docs/reference of the tables of schema/
	$(E2E_PYTHON) tests/docs/reference
docs-check: programs ## every command of README.md and docs/, with those that install packages and train an adapter: ARGS="TRAIN INTEGRATE", --list
	@bash -c '. ops/setup.sh && fetch_base && exec "$$0" tests/docs/run $(ARGS)' $(E2E_PYTHON)
include tests/sanitize/rules.mk
trust-programs: programs load $(TRUST_PROGRAMS)
trust: trust-programs ## R1 to R22, each with its counts, and tests/TRUST.md: ARGS="--only R3", --whole, --timed, --without (tests/trust/run)
	@bash -c '. ops/setup.sh && fetch_base && exec "$$0" tests/trust/run $(if $(ARGS),$(ARGS),--write)' $(E2E_PYTHON)

# Simulations of placement.
include tests/sim/rules.mk

.PHONY: containers-check
containers-check: ## build the images of ops/containers in a bare Debian and start them (docs/CONTAINERS.md): needs root, mmdebstrap; ARGS="cpu", cuda, --podman, --jobs N
	@bash -c '. ops/setup.sh && fetch_base && exec "$$0" tests/containers/run $(ARGS)' $(E2E_PYTHON)

eval-policies: programs ## what prompt policies keep and cost on the demo base (docs/POLICIES.md): ARGS="--seeds 4"
	$(E2E_PYTHON) tests/load/policies $(ARGS)

eval-answers: programs $(B)/tests/load/watch ## what evaluations of answers see on the demo base, and what looking costs (docs/EVALUATION.md): ARGS="--rounds 6"
	$(E2E_PYTHON) tests/load/evaluations $(ARGS)

eval-routing: $(B)/tests/quality/replay ## what adaptive routing makes of the recorded sets, beside always small, always large, chance and the oracle (docs/ROUTING.md): ARGS="skip=240 error_cost=5"
	$(B)/tests/quality/replay $(ARGS) tests/quality/recorded/*.jsonl
record-routing: programs ## asks the demo base anew for these sets (tests/quality/record)
	$(E2E_PYTHON) tests/quality/record $(ARGS)
$(B)/tests/quality/replay: $(B)/tests/quality/replay.o $(B)/libgateway.a $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_base) -lm

bench-speculation: programs ## what guessing ahead brings at one stream; needs the packages of tests/e2e/requirements.txt
	$(E2E_PYTHON) tests/load/speculation

bench-medusa: programs ## what Medusa heads bring on the demo base (docs/MEDUSA.md): ARGS="--nodes 3 --rounds 3 --threads 1"
	@bash -c '. ops/setup.sh && fetch_base && exec $(E2E_PYTHON) tests/load/medusa $(ARGS)'

compile_commands.json: ## for editors and clang-tidy
	@{ echo '['; sep=''; for f in $(foreach r,$(ROOMS),$(wildcard $(r)/*.c $(r)/*/*.c)) $(wildcard tests/unit/*.c tests/kernels/*.c); do \
	  printf '%s{"directory":"%s","file":"%s","command":"$(CC) $(CFLAGS) %s -c %s"}' "$$sep" "$(CURDIR)" "$$f" \
	  "$$(case $$f in *_avx2.c) echo "$(AVX2)";; *_avxvnni.c) echo "$(AVXVNNI)";; *_avx512.c) echo "$(AVX512)";; esac)" "$$f"; sep=','; echo; done; echo ']'; } > $@

# Man pages and the default settings files: templates, filled from the tables of settings and the programs' own --help (ops/man/weave.py).
MAN_PAGES := weft.1 weft-gateway.8 weft-engine.8 weft-gateway.conf.5 weft-engine.conf.5
MAN       := $(addprefix $(B)/man/,$(MAN_PAGES) gateway.conf engine.conf)
$(B)/man/%: ops/man/%.in ops/man/weave.py $(BINS) $(wildcard schema/*_settings.def) base/version.h
	@mkdir -p $(@D)
	python3 ops/man/weave.py $(B) $< >$@.new && mv $@.new $@
man: $(MAN) ## man pages and the default settings files, into build/MODE/man

# Where systemd, bash, zsh and fish look below /usr and /usr/local. The units name programs and settings where they are put; settings that are there stay.
SETTINGS_DIR ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc,$(PREFIX)/etc)/weft
settings = test -e $(DESTDIR)$(SETTINGS_DIR)/$(2) || install -m 0644 $(1) $(DESTDIR)$(SETTINGS_DIR)/$(2)
INTO      = $(DESTDIR)$(PREFIX)
UNIT_DIR := lib/systemd/system
SAY_bash := share/bash-completion/completions/weft
SAY_zsh  := share/zsh/site-functions/_weft
SAY_fish := share/fish/vendor_completions.d/weft.fish
install: programs man ## programs, man pages, settings, systemd units and completion into DESTDIR/PREFIX; ops/systemd/weft-gateway.service says what comes next
	install -d $(INTO)/bin $(addprefix $(INTO)/,$(UNIT_DIR) lib/sysusers.d lib/tmpfiles.d $(dir $(SAY_bash) $(SAY_zsh) $(SAY_fish))) $(DESTDIR)$(SETTINGS_DIR)
	install -m 0755 $(BINS) $(INTO)/bin
	$(if $(wildcard $(B)/weft-cuda.so),install -D -m 0644 -t $(INTO)/lib/weft $(B)/weft-cuda.so)
	install -m 0644 $(wildcard ops/systemd/*.socket ops/systemd/*.service ops/vllm/*.service) $(INTO)/$(UNIT_DIR)
	sed -i -E 's|^(ExecStart=)/usr/bin/weft|\1$(PREFIX)/bin/weft|; s|( --config )/etc/weft/|\1$(SETTINGS_DIR)/|' $(INTO)/$(UNIT_DIR)/weft-gateway.service $(INTO)/$(UNIT_DIR)/weft-engine@.service
	sed -i -E 's|^(ExecStart=)/usr/bin/weft|\1$(PREFIX)/bin/weft|; s#^(EnvironmentFile=|LoadCredential=token:)/etc/weft/#\1$(SETTINGS_DIR)/#' $(INTO)/$(UNIT_DIR)/weft-standby.service
	install -m 0644 ops/systemd/weft.sysusers $(INTO)/lib/sysusers.d/weft.conf
	install -m 0644 ops/systemd/weft.tmpfiles $(INTO)/lib/tmpfiles.d/weft.conf
	$(foreach p,$(MAN_PAGES),install -D -m 0644 -t $(INTO)/share/man/man$(subst .,,$(suffix $(p))) $(B)/man/$(p) &&) true
	$(call settings,$(B)/man/gateway.conf,gateway.conf)
	$(call settings,$(B)/man/engine.conf,engine-default.conf)
	$(call settings,ops/systemd/standby.env,standby.env)
	$(foreach s,bash zsh fish,$(B)/weft completion $(s) >$(INTO)/$(SAY_$(s)) && chmod 0644 $(INTO)/$(SAY_$(s)) &&) true

clean: ## remove build/
	rm -rf build compile_commands.json

include tests/gpu/rules.mk

deb: ## Debian packages into build/deb: weft-gateway, weft-engine, weft, and weft-engine-cuda where nvcc is; DEB_VERSION=1.2.3 says another version
	CC="$(CC)" NVCC="$(NVCC)" CUDA_HOME="$(CUDA_HOME)" ops/debian/build $(DEB_VERSION)

deb-check: ## packages in a bare Debian 12: installed, docs/OPERATOR.md run block by block, upgraded under load, purged; root, minutes (tests/packages/run)
	tests/packages/run $(ARGS)

# The primary that a standby asks is in the test.
$(B)/tests/unit/test_standby_follow: LDFLAGS += -Wl,--wrap=client_fetch

# Tests of the engine on a device open it.
$(addprefix $(B)/tests/unit/,test_device test_device_follow test_device_group test_families test_adapters_golden): | $(S)/weft-cuda.so

-include $(shell find build/$(MODE) build/cuda -name '*.d' 2>/dev/null)
