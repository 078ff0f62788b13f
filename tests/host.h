// Enough of CUDA for kernels.cu to compile as C++20: a block runs as real threads with a barrier, so its arithmetic can be tested anywhere.
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>
#define __device__
#define __global__ static
#define __forceinline__ inline
#define __shared__ static
struct Three { unsigned x = 0, y = 0, z = 0; };
static thread_local Three threadIdx;
static Three blockIdx, blockDim, gridDim;
static std::unique_ptr<std::barrier<>> barrier;
static void __syncthreads() { if (barrier) barrier->arrive_and_wait(); }
static unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
#define __expf(x) std::exp((float)(x))  // the C library has functions of these names
#define __logf(x) std::log((float)(x))
#define __log2f(x) std::log2((float)(x))
#define __sincosf(x, s, c) (*(s) = std::sin((float)(x)), *(c) = std::cos((float)(x)))
static float __fdividef(float a, float b) { return a / b; }
static float rsqrtf(float x) { return 1 / std::sqrt(x); }
static void sincospi(double x, double *s, double *c) { *s = std::sin(M_PI * x), *c = std::cos(M_PI * x); }
static void sincospif(float x, float *s, float *c) { *s = (float)std::sin(M_PI * x), *c = (float)std::cos(M_PI * x); }
static double normcdfinv(double p) {  // Newton on erfc from the logarithm of the tail; p in (0, ½]
    double x = -std::sqrt(-2 * std::log(p));
    for (int i = 0; i < 60; ++i) {
        const double density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI), step = (0.5 * std::erfc(-x / std::sqrt(2.0)) - p) / density;
        x -= step / (1 + x * step / 2);
    }
    return x;
}
static float normcdfinvf(float p) { return (float)normcdfinv(p); }

// Run `kernel` over a grid; threads of a block side by side only where it has more than one.
template <class Kernel> static void launch(Three grid, Three block, Kernel kernel) {
    gridDim = grid, blockDim = block;
    const unsigned size = block.x * block.y;
    for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, 0};
            if (size == 1) {
                threadIdx = {}, kernel();
                continue;
            }
            barrier = std::make_unique<std::barrier<>>(size);
            std::vector<std::thread> threads;
            for (unsigned t = 0; t < size; ++t)
                threads.emplace_back([&, t] { threadIdx = {t % block.x, t / block.x, 0}, kernel(), barrier->arrive_and_drop(); });
            for (auto &thread : threads) thread.join();
            barrier.reset();
        }
}
