# check-gpu and bench-gpu (kernels/README.md): tests of tests/simt linked with the kernels as nvcc made them, and programs
# of tests/gpu. All of it is built without a GPU. Programs that only talk to rt.h are linked with the shim too
# (build/MODE/simt/gpu/), so that their host code is tried on any machine.

G          := $(B)/gpu
CUDA_INC    = $(firstword $(wildcard $(dir $(NVCC))../include $(CUDA_HOME)/include))
# The other tests of tests/simt are about the shim, or about host code alone.
CHECKED    := fill rmsnorm glu point rope embed gemm product weight moe choose whole attention lora lora_fold lora_augment
GPU_TESTS  := $(addprefix $(G)/test_,$(CHECKED))
GPU_TOOLS  := $(G)/golden $(G)/bench $(G)/models
WRAPPED    := cudaLaunchKernelExC cudaMemsetAsync cudaMemcpyAsync rt_dense_run
HOST_gpu   := $(patsubst %.c,$(B)/cuda/%.o,$(wildcard kernels/cuda/*.c) $(addprefix tests/simt/,lora_world.c attention_problem.c target.c))
DEVICE_gpu := $(OBJ_cuda) build/cuda/tests/simt/rows_out.o
LIB_weft   := $(foreach r,engine adapters kernels base,$(B)/lib$(r).a)

.PHONY: check-gpu bench-gpu gpu-programs

$(B)/cuda/tests/gpu/%.o: tests/gpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fPIC -isystem $(CUDA_INC) -c -o $@ $<
# All kernels and what tests share, once: fourteen programs of 28 MB would not travel. Its launches are the wrapped ones; a
# test's own cuda_target takes the place of the one in here.
$(G)/libcheck.so: $(DEVICE_gpu) $(HOST_gpu) $(addprefix $(B)/cuda/tests/gpu/,case.o clock_cuda.o) $(addprefix build/cuda/tests/gpu/,probe.o probe_sm90.o) $(patsubst %.c,$(B)/cuda/%.o,$(SO_host))
	@mkdir -p $(@D)
	$(NVCC) -shared $(addprefix -Xlinker --wrap=,$(WRAPPED)) $(CUDA_RPATH) -o $@ $^ -lcublasLt -ldl -lm
BESIDE     := -Wl,-rpath,'$$ORIGIN' -Wl,--allow-shlib-undefined
$(G)/test_%: $(B)/tests/simt/test_%.o $(G)/libcheck.so $(LIB_weft)
	$(CC) $(LDFLAGS) -o $@ $(filter %.o %.so,$^) $(BESIDE) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIB_engine) $(LIB_adapters) $(LIB_base) -lm

gpu-programs: $(if $(NVCC),$(B)/weft-cuda.so $(GPU_TESTS) $(GPU_TOOLS)) ## what check-gpu and bench-gpu run; needs nvcc, no GPU

# A machine without a GPU hears so before anything is built.
GPU_THERE  := $(if $(filter check-gpu bench-gpu,$(MAKECMDGOALS)),$(shell nvidia-smi -L >/dev/null 2>&1 && echo yes))

check-gpu: $(if $(GPU_THERE),$(if $(NVCC),gpu-programs)) ## the kernels' tests, sanitizers, graphs and golden answers on a GPU; ARGS=--quick leaves the sanitizers out
	@tests/gpu/check $(B) $(ARGS)

bench-gpu: $(if $(GPU_THERE),$(if $(NVCC),gpu-programs)) ## measurements on a GPU, appended to kernels/RESULTS.md; PART=boundary|lora|base|models|... (tests/gpu/measure)
	@tests/gpu/measure $(B) $(PART)

# Programs of the engine's numeric path: the device is opened as the engine does it, so they know nothing of CUDA.
$(G)/models $(G)/golden: $(G)/%: $(B)/tests/gpu/%.o $(B)/tests/gpu/made.o $(LIB_weft)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIB_engine) $(LIB_adapters) $(LIB_base) -lm

# The bench of kernels, for the device and, to try it, on the shim.
BENCH_src  := $(addprefix tests/gpu/,bench.c bench_launch.c bench_lora.c bench_base.c lanes.c)
$(G)/bench: $(patsubst %.c,$(B)/cuda/%.o,$(BENCH_src)) $(G)/libcheck.so
	$(CC) $(LDFLAGS) -o $@ $(filter %.o %.so,$^) $(BESIDE) -lm
$(S)/gpu/bench: $(patsubst %.c,$(S)/%.o,$(BENCH_src) tests/gpu/clock_host.c tests/simt/race_off.c tests/simt/outside.c) $(S)/tests/gpu/probe.o $(S)/tests/gpu/probe_sm90.o $(S)/simt.a $(B)/libkernels.a $(B)/libbase.a
	@mkdir -p $(@D)
	$(SIMT_LINK) $(LIB_base)
