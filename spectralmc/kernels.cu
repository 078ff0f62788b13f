// The kernels of the GPU path; `spectralmc/cuda.py` compiles and launches them.  The same source compiles as C++ (tests/host.h), which is
// how its arithmetic is tested where there is no GPU.  No headers, nothing newer than compute capability 5.2.
//
// A thread is one path: it draws its normals by address (seed, stream, set, path, block), steps its process and keeps its functionals in
// registers, so nothing but the outcome is written.  Names, addresses and formulas are those of draws.py, processes/ and functionals.py.

typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef M_PI
#define M_PI 3.14159265358979323846
#endif

// ---- arithmetic --------------------------------------------------------------------------------------------------------------------

template <class T> __device__ __forceinline__ T least(T a, T b) { return a < b ? a : b; }
template <class T> __device__ __forceinline__ T most(T a, T b) { return a > b ? a : b; }

// Special functions of the hardware in float32: |Z| errs by less than 5e-6 (stated in cuda.py, tested).
__device__ __forceinline__ float exponential(float x) { return __expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return __logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float root(float x) { return x * rsqrtf(most(x, 1e-37f)); }  // 0 at 0
__device__ __forceinline__ double root(double x) { return sqrt(x); }
__device__ __forceinline__ float quotient(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double quotient(double a, double b) { return a / b; }
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }
__device__ __forceinline__ double normal_cdf(double x) { return 0.5 * erfc(-0.70710678118654752 * x); }
// cos and sin of 2πt; float32 first takes t into [-½, ½], where the hardware is accurate
__device__ __forceinline__ void turn(float t, float *c, float *s) { t -= rintf(t); __sincosf(6.2831853f * t, s, c); }
__device__ __forceinline__ void turn(double t, double *c, double *s) { sincospi(2 * t, s, c); }

template <class T> struct alignas(2 * sizeof(T)) Complex { T re, im; };  // read and written as one word

// ---- draws -------------------------------------------------------------------------------------------------------------------------

struct Words { u32 a, b, c, d; };

// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011)
__device__ __forceinline__ Words philox(u32 a, u32 b, u32 c, u32 d, u32 key0, u32 key1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u32 left_high = __umulhi(0xD2511F53u, a), left = 0xD2511F53u * a;
        const u32 right_high = __umulhi(0xCD9E8D57u, c), right = 0xCD9E8D57u * c;
        a = right_high ^ b ^ key0, b = right, c = left_high ^ d ^ key1, d = left;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return {a, b, c, d};
}

__device__ __forceinline__ float as_float(u32 bits) {
    union { u32 word; float number; } same = {bits};
    return same.number;
}

// Box–Muller on uniforms (2m + 1)/2²⁴ of the upper 23 bits m.
__device__ __forceinline__ void box_muller(u32 first, u32 second, float *z0, float *z1) {
    const float f = as_float(first >> 9 | 0x3F800000u), u = f - 0.99999994f, v = (2.0f - f) - 5.9604645e-8f;  // u and 1 − u, exact
    // near 1 the hardware's logarithm has too few digits: the series of −2 ln(1 − v) there
    const float series = v * (2.0f + v * (1.0f + v * (0.66666667f + v * 0.5f)));
    const float square = v < 0.015625f ? series : -1.3862944f * __log2f(u);
    const float radius = square * rsqrtf(square);
    float cosine, sine;
    const float g = as_float(second >> 9 | 0x3F800000u);
    __sincosf(6.2831853f * (g - 1.5f) + 3.7450704e-7f, &sine, &cosine);
    *z0 = radius * cosine, *z1 = radius * sine;
}

__device__ __forceinline__ double uniform(u32 word) { return ((word >> 9) * 2 + 1) * 5.9604644775390625e-8; }

__device__ __forceinline__ void box_muller(u32 first, u32 second, double *z0, double *z1) {
    const double radius = sqrt(-2 * log(uniform(first)));
    double sine, cosine;
    sincospi(2 * (uniform(second) - 0.5), &sine, &cosine);
    *z0 = radius * cosine, *z1 = radius * sine;
}

struct Address { u32 path, set, stream, key0, key1; };

template <class T> __device__ __forceinline__ void four_normals(const Address &at, u32 block, T *z) {
    const Words w = philox(at.path, block, at.set, at.stream, at.key0, at.key1);
    box_muller(w.a, w.b, z, z + 1);
    box_muller(w.c, w.d, z + 2, z + 3);
}

// Steps are drawn in groups that use up whole blocks of four normals: FACTORS a step.
template <int FACTORS> struct Group {
    static const int STEPS = FACTORS % 4 == 0 ? 1 : FACTORS % 2 == 0 ? 2 : 4;
    static const int BLOCKS = FACTORS * STEPS / 4;
};

// ---- processes: X = ln(S_t/F_t) moves by mean + √variance Z given the other noise ---------------------------------------------------

// The constants of a parameter set, computed on the host in double precision, stand in a row of SIZE numbers.  NOISE normals drive all but
// X itself; `diffusion` is the quadratic variation of the continuous part.

template <class T> struct BlackScholes {
    enum { SIZE = 2, NOISE = 0 };
    T deviation_, drift;  // σ√Δt, −σ²Δt/2
    __device__ __forceinline__ explicit BlackScholes(const T *c) : deviation_(c[0]), drift(c[1]) {}
    __device__ __forceinline__ void increment(const T *, T *mean, T *variance, T *diffusion) {
        *mean = drift, *diffusion = *variance = deviation_ * deviation_;
    }
    __device__ __forceinline__ T deviation(T) const { return deviation_; }
};

template <class T> struct Merton {
    enum { SIZE = 7, NOISE = 1 };
    T variance_, drift, rate, none, jump_mean, jump_variance, most_jumps;  // σ²Δt, drift, λΔt, e^{−λΔt}, mean and variance of a log-jump
    __device__ __forceinline__ explicit Merton(const T *c)
        : variance_(c[0]), drift(c[1]), rate(c[2]), none(c[3]), jump_mean(c[4]), jump_variance(c[5]), most_jumps(c[6]) {}
    __device__ __forceinline__ void increment(const T *z, T *mean, T *variance, T *diffusion) {
        const T u = normal_cdf(z[0]);
        T jumps = 0, probability = none, below = none;  // the Poisson distribution function, summed until it passes u
        while (u > below && jumps < most_jumps) {
            jumps += 1, probability *= rate / jumps, below += probability;
        }
        *mean = drift + jumps * jump_mean, *variance = variance_ + jumps * jump_variance, *diffusion = variance_;
    }
    __device__ __forceinline__ T deviation(T variance) const { return root(variance); }
};

// Heston, quadratic-exponential with the first two moments of (X, v') exact: processes/heston.py.
template <class T> struct Heston {
    enum { SIZE = 15, NOISE = 1 };
    // given: a + bv of E v', ½ Var v', E∫v, ½ Cov(∫v, v'), Var ∫v; then ρ/ξ, ρκ/ξ − ½, 1 − ρ², (ρκ/ξ − ½)².  Kept: of the fifth and with
    // the third, a + bv of the part of the variance of X that v' leaves
    T c[14], v, left0, left1;
    __device__ __forceinline__ explicit Heston(const T *constants) : v(constants[14]) {
#pragma unroll
        for (int i = 0; i < 14; ++i) c[i] = constants[i];
        left0 = c[12] * c[4] + c[13] * c[8], left1 = c[12] * c[5] + c[13] * c[9];
    }
    __device__ __forceinline__ void increment(const T *z, T *mean, T *variance, T *diffusion) {
        const T m = c[0] + c[1] * v, half_variance = c[2] + c[3] * v, expected = c[4] + c[5] * v, half_covariance = c[6] + c[7] * v;
        const T square = m * m;
        T moved, over;  // v' − m, 1/half_variance
        if (square >= T(4.0 / 3) * half_variance) {  // ψ ≤ 1.5: quadratic, v' = (√r + √a z)² with r = √(m² − s²/2) and a = m − r
            const T r = root(square - half_variance), sum = m + r, both = quotient(T(1), half_variance * sum);
            const T a = half_variance * half_variance * both;  // without the loss of a difference
            over = sum * both;
            moved = z[0] * (a * z[0] + 2 * root(a * r)) - a;
        } else {
            over = quotient(T(1), half_variance);
            const T h = square * over, w = quotient(h, h / 2 + 1);  // h = 2/ψ
            moved = m * (quotient(most(logarithm(quotient(w, normal_cdf(-z[0]))), T(0)), w) - 1);
        }
        const T slope = half_covariance * over, explained = slope * moved;
        *diffusion = expected + explained;
        *mean = c[10] * moved - expected / 2 + c[11] * explained;
        *variance = left0 + left1 * v + c[12] * explained - 2 * c[13] * (slope * half_covariance);
        v = most(m + moved, T(0));
    }
    __device__ __forceinline__ T deviation(T variance) const { return root(variance); }
};

// ---- functionals: one number a path from Y_t = ln(S_t/S₀), kept in registers ---------------------------------------------------------

enum { TERMINAL = 1, ARITHMETIC = 2, GEOMETRIC = 4, MAXIMUM = 8, MINIMUM = 16, REALIZED = 32, KNOCK_OUT = 64 };

template <class T, int WANTED> struct Outcomes {
    T last, prices, logs, high, low, squares, alive, barrier, side;
    __device__ __forceinline__ Outcomes(T barrier_, T side_)
        : last(0), prices(0), logs(0), high(0), low(0), squares(0), alive(1), barrier(barrier_), side(side_) {}
    __device__ __forceinline__ void update(T y, T diffusion) {
        if (WANTED & ARITHMETIC) prices += exponential(y);
        if (WANTED & GEOMETRIC) logs += y;
        if (WANTED & MAXIMUM) high = most(high, y);
        if (WANTED & MINIMUM) low = least(low, y);
        if (WANTED & REALIZED) squares += (y - last) * (y - last);
        if (WANTED & KNOCK_OUT) {  // both ends inside: the bridge between them crosses with probability e^{−2(b−y₀)(b−y₁)/σ²Δt}
            const T before = side * (barrier - last), after = side * (barrier - y);
            alive *= before > 0 && after > 0 ? 1 - exponential(-2 * quotient(before * after, diffusion)) : T(0);
        }
        last = y;
    }
    // rows in the order of the bits; a knock-out writes the terminal value and the probability to have survived
    __device__ __forceinline__ void finish(T *out, u64 row, T steps) const {
        if (WANTED & TERMINAL) *out = last, out += row;
        if (WANTED & ARITHMETIC) *out = logarithm(prices / steps), out += row;
        if (WANTED & GEOMETRIC) *out = logs / steps, out += row;
        if (WANTED & MAXIMUM) *out = high, out += row;
        if (WANTED & MINIMUM) *out = low, out += row;
        if (WANTED & REALIZED) *out = logarithm(squares), out += row;
        if (WANTED & KNOCK_OUT) out[0] = last, out[row] = alive;
    }
};

// ---- simulation ----------------------------------------------------------------------------------------------------------------------

struct Run {
    u32 paths, first_path, sets, first_set;  // of this launch, and where it begins in the address of the draws
    u32 fixings, substeps;                   // steps = fixings × substeps
    u32 stream, key0, key1;
};

// One outcome a path: out is (functionals, sets, paths).  growth (sets) is b times the time between two fixings; levels (sets, 2) holds
// ln(barrier/S₀) and its side, +1 above the spot and −1 below.
template <class T, class Process, int WANTED>
__global__ void simulate(const T *constants, const T *growth, const T *levels, T *out, Run run) {
    const int FACTORS = Process::NOISE + 1, STEPS = Group<FACTORS>::STEPS, BLOCKS = Group<FACTORS>::BLOCKS;
    const u64 all = (u64)run.sets * run.paths;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < all; at += (u64)gridDim.x * blockDim.x) {
        const u32 set = at / run.paths, path = at - (u64)set * run.paths;
        const Address address = {run.first_path + path, run.first_set + set, run.stream, run.key0, run.key1};
        Process process(constants + (u64)set * Process::SIZE);
        Outcomes<T, WANTED> outcomes(levels[2 * set], levels[2 * set + 1]);
        const u32 steps = run.fixings * run.substeps;
        T x = 0, drift = 0, since = 0;
        u32 block = 0, left = run.substeps;
        for (u32 step = 0; step < steps; step += STEPS) {
            T z[4 * BLOCKS];
#pragma unroll
            for (int i = 0; i < BLOCKS; ++i) four_normals(address, block++, z + 4 * i);
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                if (step + i < steps) {
                    T mean, variance, diffusion;
                    process.increment(z + i * FACTORS, &mean, &variance, &diffusion);
                    x += mean + process.deviation(variance) * z[i * FACTORS + FACTORS - 1];
                    if (WANTED & KNOCK_OUT) since += diffusion;
                    if (WANTED != TERMINAL && --left == 0) {
                        drift += growth[set], left = run.substeps;
                        outcomes.update(x + drift, since);
                        since = 0;
                    }
                }
            }
        }
        if (WANTED == TERMINAL) outcomes.last = x + growth[set] * run.fixings;
        outcomes.finish(out + at, all, (T)run.fixings);
    }
}

// The asset's own noise integrated out: given the other noise X is Gaussian.  out is (2, sets, paths): its mean and its variance.
template <class T, class Process>
__global__ void simulate_conditional(const T *constants, T *out, Run run) {
    const int FACTORS = Process::NOISE, STEPS = Group<FACTORS>::STEPS, BLOCKS = Group<FACTORS>::BLOCKS;
    const u64 all = (u64)run.sets * run.paths;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < all; at += (u64)gridDim.x * blockDim.x) {
        const u32 set = at / run.paths, path = at - (u64)set * run.paths;
        const Address address = {run.first_path + path, run.first_set + set, run.stream, run.key0, run.key1};
        Process process(constants + (u64)set * Process::SIZE);
        const u32 steps = run.fixings * run.substeps;
        T means = 0, variances = 0;
        u32 block = 0;
        for (u32 step = 0; step < steps; step += STEPS) {
            T z[4 * BLOCKS];
#pragma unroll
            for (int i = 0; i < BLOCKS; ++i) four_normals(address, block++, z + 4 * i);
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
                if (step + i < steps) {
                    T mean, variance, diffusion;
                    process.increment(z + i * FACTORS, &mean, &variance, &diffusion);
                    means += mean, variances += variance;
                }
            }
        }
        out[at] = means, out[all + at] = variances;
    }
}

// ---- scrambled Sobol points on a Brownian bridge ---------------------------------------------------------------------------------------

enum { SOBOL_BITS = 30, SOBOL_THREADS = 128 };

__device__ __forceinline__ float tail_quantile(float p) { return normcdfinvf(p); }
__device__ __forceinline__ double tail_quantile(double p) { return normcdfinv(p); }

// The tail nearer to 0 keeps its digits: the quantile there, then the sign.
template <class T> __device__ __forceinline__ T sobol_normal(u32 point) {
    const u32 half = 1u << (SOBOL_BITS - 1);
    const bool below = point < half;
    const T z = tail_quantile(((T)(below ? point : 2 * half - 1 - point) + T(0.5)) * T(1.0 / (1u << SOBOL_BITS)));
    return below ? z : -z;
}

// A middle of the bridge in the order in which a walk along the path meets it: its number in the order of importance, the weight of its
// right neighbour, its deviation; `step` is the step before which it is laid.
template <class T> struct Middle { u32 number, step; T weight, deviation; };

// The digital shifts of the points: out (sets, copies, dimensions); word d mod 4 of Philox block d / 4 at (copy, set, stream).
__global__ void sobol_shifts(u32 *out, Run run, u32 copies, u32 first_copy, u32 dimensions) {
    const u32 blocks = (dimensions + 3) / 4, at = blockIdx.x * blockDim.x + threadIdx.x, d = 4 * (at % blocks), copy = at / blocks % copies;
    const u32 set = at / blocks / copies;
    if (set >= run.sets) return;
    const Words w = philox(first_copy + copy, d / 4, run.first_set + set, run.stream, run.key0, run.key1);
    u32 *row = out + ((u64)set * copies + copy) * dimensions;
    row[d] = w.a >> (32 - SOBOL_BITS);
    if (d + 1 < dimensions) row[d + 1] = w.b >> (32 - SOBOL_BITS);
    if (d + 2 < dimensions) row[d + 2] = w.c >> (32 - SOBOL_BITS);
    if (d + 3 < dimensions) row[d + 3] = w.d >> (32 - SOBOL_BITS);
}

// As simulate_conditional on Sobol points.  points (steps × NOISE, size) are scrambled; every set and run of `size` paths has its own
// shift, shifts (sets, copies, steps × NOISE) from the copy of the first path on.  control_slopes (sets, steps), or null, holds what a unit
// of the first normal adds to the control; out is (2 or 3, sets, paths): mean, variance, and the control's mean less its constant part.
template <class T, class Process>
__global__ void simulate_sobol(const T *constants, const u32 *points, const u32 *shifts, const Middle<T> *middles, const T *control_slopes,
                               T *out, Run run, u32 size, u32 copies, T first_deviation) {
    const int NOISE = Process::NOISE, DEPTH = 32;
    const u32 steps = run.fixings * run.substeps, dimensions = steps * NOISE;
    const u64 all = (u64)run.sets * run.paths;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < all; at += (u64)gridDim.x * blockDim.x) {
        const u32 set = at / run.paths, path = at - (u64)set * run.paths, index = (run.first_path + path) % size;
        const u32 *shift = shifts + ((u64)set * copies + (run.first_path + path) / size - run.first_path / size) * dimensions;
        Process process(constants + (u64)set * Process::SIZE);
        T left[NOISE], stack[NOISE][DEPTH], means = 0, variances = 0, control = 0;
        int top = 0;
#pragma unroll
        for (int f = 0; f < NOISE; ++f) left[f] = 0, stack[f][0] = first_deviation * sobol_normal<T>(points[(u64)f * size + index] ^ shift[f]);
        u32 next = 0;
        for (u32 step = 0; step < steps; ++step) {
            for (; middles[next].step == step; ++next) {
                const Middle<T> middle = middles[next];
#pragma unroll
                for (int f = 0; f < NOISE; ++f) {
                    const u32 d = middle.number * NOISE + f;
                    const T z = sobol_normal<T>(points[(u64)d * size + index] ^ shift[d]);
                    stack[f][top + 1] = left[f] + middle.weight * (stack[f][top] - left[f]) + middle.deviation * z;
                }
                ++top;
            }
            T z[NOISE], mean, variance, diffusion;
#pragma unroll
            for (int f = 0; f < NOISE; ++f) z[f] = stack[f][top] - left[f], left[f] = stack[f][top];
            --top;
            process.increment(z, &mean, &variance, &diffusion);
            means += mean, variances += variance;
            if (control_slopes) control += control_slopes[(u64)set * steps + step] * z[0];
        }
        out[at] = means, out[all + at] = variances;
        if (control_slopes) out[2 * all + at] = control;
    }
}

// Philox words alone, out (4, paths): what ties the draws of the GPU to those of the CPU.
__global__ void words(u32 *out, Run run, u32 block) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= run.paths) return;
    const Words w = philox(run.first_path + at, block, run.first_set, run.stream, run.key0, run.key1);
    out[at] = w.a, out[run.paths + at] = w.b, out[2 * run.paths + at] = w.c, out[3 * run.paths + at] = w.d;
}

// ---- the empirical characteristic function -----------------------------------------------------------------------------------------

// Sums over blocks of consecutive paths for frequencies w_k = kw₁, k = 1…K, and outcomes x = scale·(given − location), each (sets, paths);
// out is (sets, parts, K, blocks).  A thread takes RUN neighbouring frequencies and every `lanes`-th path of a block.
enum { SPECTRUM_PATHS = 1024, SPECTRUM_TILE = 256, SPECTRUM_RUN = 16, SPECTRUM_THREADS = 256 };

// Lanes in fixed order: sums[i][thread] of the threads whose frequencies hold k, i of RUN.
template <class T, int RUN>
__device__ __forceinline__ void add_lanes(T (*sums)[SPECTRUM_THREADS + 1], u32 lanes, u32 groups, u32 size, u32 blocks, T *out) {
    __syncthreads();
    for (u32 k = threadIdx.x; k < size; k += blockDim.x) {
        T total = 0;
        const T *at = &sums[k % RUN][k / RUN];
        for (u32 l = 0; l < lanes; ++l, at += groups) total += *at;
        out[(u64)k * blocks] = total;
    }
}

// Σ e^{iw_k x}: real and imaginary part.  About a middle c of frequencies e^{i(c ± d)x} = e^{icx} e^{±idx}, whose four real products do for
// both signs; the e^{idx}, d = ½, 1½ …, are the same for all middles.  A thread has two, so that what it reads serves eight products.
template <class T>
__global__ void phases(const T *x, const T *location, const T *scale, T *out, u32 paths, u32 blocks, u32 size, T turns) {
    const int RUN = SPECTRUM_RUN, HALF = RUN / 2, BESIDE = RUN / 4;
    __shared__ T angle[SPECTRUM_TILE];
    __shared__ Complex<T> across[SPECTRUM_TILE];  // from one middle to the next
    alignas(16) __shared__ T sums[RUN][SPECTRUM_THREADS + 1];  // the odd length keeps both ways to walk it off the same memory bank
    Complex<T>(*beside)[BESIDE] = (Complex<T>(*)[BESIDE])sums;   // in the same place, which is free until the end
    const u32 groups = (size + RUN - 1) / RUN, lanes = blockDim.x / groups, group = threadIdx.x % groups, lane = threadIdx.x / groups;
    const u32 set = blockIdx.x / blocks, block = blockIdx.x % blocks, first = block * SPECTRUM_PATHS, last = least(first + SPECTRUM_PATHS, paths);
    const T middle = group * RUN + T(0.5) * (HALF + 1), centre = location[set], unit = scale[set];
    T cc[HALF], ss[HALF], sc[HALF], cs[HALF];
#pragma unroll
    for (int i = 0; i < HALF; ++i) cc[i] = ss[i] = sc[i] = cs[i] = 0;
    for (u32 from = first; from < last; from += SPECTRUM_TILE) {
        const u32 count = least((u32)SPECTRUM_TILE, last - from);
        __syncthreads();
        for (u32 j = threadIdx.x; j < count; j += blockDim.x) {
            Complex<T> d, step;
            angle[j] = turns * unit * (x[(u64)set * paths + from + j] - centre);
            turn(HALF * angle[j], &across[j].re, &across[j].im);
            turn(T(0.5) * angle[j], &d.re, &d.im);
            turn(angle[j], &step.re, &step.im);
#pragma unroll
            for (int i = 0; i < BESIDE; ++i) {
                beside[j][i] = d;
                d = {d.re * step.re - d.im * step.im, d.im * step.re + d.re * step.im};
            }
        }
        __syncthreads();
        if (lane < lanes) {
            for (u32 j = lane; j < count; j += lanes) {
                const Complex<T> next = across[j];
                T c, s;
                turn(middle * angle[j], &c, &s);
                const T c1 = c * next.re - s * next.im, s1 = s * next.re + c * next.im;
#pragma unroll
                for (int i = 0; i < BESIDE; ++i) {
                    const Complex<T> d = beside[j][i];
                    cc[i] += c * d.re, ss[i] += s * d.im, sc[i] += s * d.re, cs[i] += c * d.im;
                    cc[BESIDE + i] += c1 * d.re, ss[BESIDE + i] += s1 * d.im, sc[BESIDE + i] += s1 * d.re, cs[BESIDE + i] += c1 * d.im;
                }
            }
        }
    }
    T *own = out + (u64)set * 2 * size * blocks + block;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            const int above = i < BESIDE ? BESIDE + i : HALF + i, below = i < BESIDE ? BESIDE - 1 - i : 2 * HALF - 1 - i;
            sums[above][threadIdx.x] = part == 0 ? cc[i] - ss[i] : sc[i] + cs[i];
            sums[below][threadIdx.x] = part == 0 ? cc[i] + ss[i] : sc[i] - cs[i];
        }
        add_lanes<T, RUN>(sums, lanes, groups, size, blocks, own + (u64)part * size * blocks);
    }
}

// Σ weight · e^{iw_k x − w_k² v/2}, with conditional variances v and weights or null: real and imaginary part, and squared moduli.  A thread
// turns from one of its frequencies to the next.
template <class T>
__global__ void spectrum(const T *x, const T *variance, const T *weight, const T *location, const T *scale, T *out, u32 paths, u32 blocks, u32 size, T turns) {
    const int RUN = SPECTRUM_RUN / 2;  // as many as registers allow
    __shared__ T angle[SPECTRUM_TILE], cosine[SPECTRUM_TILE], sine[SPECTRUM_TILE], spread[SPECTRUM_TILE], share[SPECTRUM_TILE];
    __shared__ T sums[RUN][SPECTRUM_THREADS + 1];
    const u32 groups = (size + RUN - 1) / RUN, lanes = blockDim.x / groups, group = threadIdx.x % groups, lane = threadIdx.x / groups;
    const u32 set = blockIdx.x / blocks, block = blockIdx.x % blocks, first = block * SPECTRUM_PATHS, last = least(first + SPECTRUM_PATHS, paths);
    const T k0 = group * RUN + 1, centre = location[set], unit = scale[set];
    T re[RUN], im[RUN], square[RUN];
#pragma unroll
    for (int i = 0; i < RUN; ++i) re[i] = im[i] = square[i] = 0;
    for (u32 from = first; from < last; from += SPECTRUM_TILE) {
        const u32 count = least((u32)SPECTRUM_TILE, last - from);
        __syncthreads();
        for (u32 j = threadIdx.x; j < count; j += blockDim.x) {
            const u64 at = (u64)set * paths + from + j;
            angle[j] = turns * unit * (x[at] - centre);
            turn(angle[j], &cosine[j], &sine[j]);
            // w₁²v/2 in units of log₂e would be cheaper still; natural units keep one formula for both precisions
            spread[j] = variance ? T(2 * M_PI * M_PI) * turns * turns * unit * unit * variance[at] : T(0);
            share[j] = weight ? weight[at] : T(1);
        }
        __syncthreads();
        if (lane < lanes) {
            for (u32 j = lane; j < count; j += lanes) {
                T c, s;
                turn(k0 * angle[j], &c, &s);
                const T dc = cosine[j], ds = sine[j];
                // e^{−k²a} from k to k + 1: times e^{−(2k+1)a}, which itself shrinks by e^{−2a}
                T modulus = share[j] * exponential(-k0 * k0 * spread[j]), ratio = exponential(-(2 * k0 + 1) * spread[j]);
                const T step = exponential(-2 * spread[j]);
#pragma unroll
                for (int i = 0; i < RUN; ++i) {
                    re[i] += modulus * c, im[i] += modulus * s, square[i] += modulus * modulus;
                    modulus *= ratio, ratio *= step;
                    const T next = c * dc - s * ds;
                    s = s * dc + c * ds, c = next;
                }
            }
        }
    }
    T *own = out + (u64)set * 3 * size * blocks + block;
#pragma unroll
    for (int part = 0; part < 3; ++part) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < RUN; ++i) sums[i][threadIdx.x] = part == 0 ? re[i] : part == 1 ? im[i] : square[i];
        add_lanes<T, RUN>(sums, lanes, groups, size, blocks, own + (u64)part * size * blocks);
    }
}

// ---- prices ----------------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void half_turn(float t, float *c, float *s) { sincospif(t, s, c); }
__device__ __forceinline__ void half_turn(double t, double *c, double *s) { sincospi(t, s, c); }

// A put a thread, (sets, strikes), on the continuous part: the series of pricing.py from ψ (sets, K, 2) with mass, location and scale (sets)
// at k (sets, strikes).  Sums are in T, the rest in double precision; angles are exact at every PUTS_RUN-th frequency and turn in between.
enum { PUTS_RUN = 16 };

template <class T>
__global__ void puts(const T *values, const double *mass, const double *location, const double *scale, const double *strikes, double *out,
                     u32 sets, u32 each, u32 size, double half) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)sets * each) return;
    const u32 set = at / each;
    const T *psi = values + 2 * (u64)set * size;
    const double m = location[set], s = scale[set], k = strikes[at], z = most(least((k - m) / s, half), -half), turns = z / half;
    const T w1 = M_PI / half, sigma = s, square = sigma * sigma;
    T here = 0, start = 0, tail = 0, dc, ds, c = 0, d = 0;
    half_turn((T)turns, &dc, &ds);
    for (u32 j = 0; j < size; ++j) {
        if (j % PUTS_RUN == 0) {
            const double turn = turns * (j + 1);
            half_turn((T)(turn - 2 * rint(turn / 2)), &c, &d);
        }
        const T w = w1 * (j + 1), inverse = quotient(T(1), w), unit = quotient(sigma, square + w * w), ratio = sigma * inverse;
        const T re = psi[2 * j], im = psi[2 * j + 1], a = -unit * (re + ratio * im), b = unit * (ratio * re - im);
        here += a * c + b * d;  // of (a + ib) e^{−iθ} the real part
        start += j % 2 ? a : -a, tail += j % 2 ? im * inverse : -im * inverse;
        const T next = c * dc - d * ds;
        d = d * dc + c * ds, c = next;
    }
    const double up = exp(s * z), down = exp(-s * half), series = up * here - down * start + tail * (up - down);
    const double smooth = mass[set] / 2 * (up * (z + half) - (up - down) / s), beyond = most(exp(k) - exp(m + s * half), 0.0);
    out[at] = exp(m) / half * (series + smooth) + mass[set] * beyond;
}

// ---- covariance batch norm of complex (rows, channels), row by row in memory -----------------------------------------------------------

// As nn/norm.py: x ↦ p x + q x̄ with p, q of Γ V^{-1/2}.  Sums are in double precision about the first row, so neither a large mean nor a
// large or small scale is lost; blocks of rows are summed in fixed order.
// A block of threads takes NORM_BLOCK rows of NORM_CHANNELS channels; of their sums one takes NORM_LANES by NORM_TILE channels.
enum { NORM_CHANNELS = 32, NORM_ROWS = 8, NORM_BLOCK = 128, NORM_TILE = 2, NORM_LANES = 128 };

template <int COUNT> __device__ __forceinline__ void store_sums(const double *sums, double *out, u32 channel, u32 channels) {
    __shared__ double shared[NORM_ROWS][NORM_CHANNELS][COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) shared[threadIdx.y][threadIdx.x][i] = sums[i];
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
        for (int i = 0; i < COUNT; ++i) {
            double total = 0;
            for (int row = 0; row < NORM_ROWS; ++row) total += shared[row][threadIdx.x][i];
            out[((u64)blockIdx.y * channels + channel) * COUNT + i] = total;
        }
    }
}

// partial sums of x, y, x², y², xy, less the first row: out (blocks of rows, channels, 5)
template <class T> __global__ void norm_moments(const Complex<T> *z, double *out, u32 rows, u32 channels) {
    const u32 channel = blockIdx.x * NORM_CHANNELS + threadIdx.x, last = least((blockIdx.y + 1) * (u32)NORM_BLOCK, rows);
    double sums[5] = {0, 0, 0, 0, 0};
    if (channel < channels) {
        const Complex<T> origin = z[channel];
#pragma unroll 4
        for (u32 row = blockIdx.y * NORM_BLOCK + threadIdx.y; row < last; row += NORM_ROWS) {
            const Complex<T> value = z[(u64)row * channels + channel];
            const double x = (double)value.re - origin.re, y = (double)value.im - origin.im;
            sums[0] += x, sums[1] += y, sums[2] += x * x, sums[3] += y * y, sums[4] += x * y;
        }
    }
    store_sums<5>(sums, out, channel, channels);
}

// What a channel needs later: a row of NORM_STATE numbers.
struct NormState { double mean[2], p0, q0[2], trace, kappa[2], delta, t, free, p[2], q[2]; };
enum { NORM_STATE = 15 };

// Sums over the blocks of rows in fixed order; of the threads of a channel the first gets them.
template <int COUNT> __device__ __forceinline__ void gather_sums(const double *partial, u32 blocks, u32 channel, u32 channels, double *sums) {
    __shared__ double shared[NORM_LANES][NORM_TILE][COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = 0;
    if (channel < channels) {
#pragma unroll 2
        for (u32 block = threadIdx.y; block < blocks; block += NORM_LANES) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) sums[i] += partial[((u64)block * channels + channel) * COUNT + i];
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) shared[threadIdx.y][threadIdx.x][i] = sums[i];
    __syncthreads();
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        sums[i] = 0;
        for (int lane = 0; lane < NORM_LANES; ++lane) sums[i] += shared[lane][threadIdx.x][i];
    }
}

// For each channel: mean, covariance, V^{-1/2} and Γ V^{-1/2}; state (channels, NORM_STATE), and the map (channels, 8)
// of the forward pass: mean, the 2 × 2 matrix row by row, β.  `rounding` is that of the data, which bounds det V.  Running
// mean (channels, 2) and covariance (channels, 3), or null, move by `momentum`; where that is negative, by one over the batches so far.
template <class T>
__global__ void norm_forward(const Complex<T> *z, const double *partial, const T *weight, const T *bias, double *state, T *map,
                             T *running_mean, T *running_covariance, const long long *batches, u32 rows, u32 channels, u32 blocks, double eps,
                             double rounding, double momentum) {
    const u32 channel = blockIdx.x * NORM_TILE + threadIdx.x;
    double moments[5];
    gather_sums<5>(partial, blocks, channel, channels, moments);
    if (threadIdx.y > 0 || channel >= channels) return;
    for (int i = 0; i < 5; ++i) moments[i] /= rows;
    const double mx = moments[0], my = moments[1];
    const double vrr = moments[2] - mx * mx, vii = moments[3] - my * my, vri = moments[4] - mx * my;
    NormState &s = ((NormState *)state)[channel];
    s.mean[0] = mx + z[channel].re, s.mean[1] = my + z[channel].im;
    double trace = vrr + vii + 2 * eps;
    if (trace <= 0) trace = 1;  // nothing varies and eps is 0: any scale will do
    const double rr = (vrr + eps) / trace, ii = (vii + eps) / trace, ri = vri / trace;
    const double determinant = rr * ii - ri * ri, bound = rounding / 2;
    s.free = determinant > bound, s.trace = trace;
    s.delta = trace * sqrt(determinant > bound ? determinant : bound);
    s.kappa[0] = trace * (rr - ii), s.kappa[1] = 2 * trace * ri;
    s.t = sqrt(trace + 2 * s.delta);
    s.p0 = s.t / (2 * s.delta);
    s.q0[0] = -s.kappa[0] / s.delta / (2 * s.t), s.q0[1] = -s.kappa[1] / s.delta / (2 * s.t);
    double scale = 1, skew[2] = {0, 0};
    if (weight) {
        scale = ((double)weight[3 * channel] + weight[3 * channel + 1]) / 2;
        skew[0] = ((double)weight[3 * channel] - weight[3 * channel + 1]) / 2, skew[1] = weight[3 * channel + 2];
    }
    // p = scale p₀ + skew q̄₀ and q = scale q₀ + skew p₀
    s.p[0] = scale * s.p0 + skew[0] * s.q0[0] + skew[1] * s.q0[1], s.p[1] = skew[1] * s.q0[0] - skew[0] * s.q0[1];
    s.q[0] = scale * s.q0[0] + skew[0] * s.p0, s.q[1] = scale * s.q0[1] + skew[1] * s.p0;
    T *m = map + 8 * (u64)channel;
    m[0] = s.mean[0], m[1] = s.mean[1];
    m[2] = s.p[0] + s.q[0], m[3] = s.q[1] - s.p[1], m[4] = s.p[1] + s.q[1], m[5] = s.p[0] - s.q[0];
    m[6] = bias ? bias[2 * channel] : T(0), m[7] = bias ? bias[2 * channel + 1] : T(0);
    const double largest = sizeof(T) == 4 ? 3.4e38 : 1.7e308;
    if (running_mean && vrr + vii <= largest) {  // false where it is not a number, as it is where the mean is not finite
        const double share = momentum < 0 ? 1.0 / (*batches + 1) : momentum, unbiased = rows / (rows - 1.0), spread[3] = {vrr, vii, vri};
        for (int i = 0; i < 2; ++i) running_mean[2 * channel + i] += share * (s.mean[i] - running_mean[2 * channel + i]);
        for (int i = 0; i < 3; ++i) running_covariance[3 * channel + i] += share * (unbiased * spread[i] - running_covariance[3 * channel + i]);
    }
}

// What passes over the data a second time begins with its last rows, which are still in the cache.  `batches`, or null, counts this one.
template <class T>
__global__ void norm_apply(const Complex<T> *z, const T *map, Complex<T> *y, long long *batches, u32 rows, u32 channels) {
    if (batches && blockIdx.x + blockIdx.y + threadIdx.x + threadIdx.y == 0) ++*batches;
    const u32 channel = blockIdx.x * NORM_CHANNELS + threadIdx.x, first = (gridDim.y - 1 - blockIdx.y) * NORM_BLOCK;
    const u32 last = least(first + NORM_BLOCK, rows);
    if (channel >= channels) return;
    T m[8];
    for (int i = 0; i < 8; ++i) m[i] = map[8 * (u64)channel + i];
#pragma unroll 4
    for (u32 row = first + threadIdx.y; row < last; row += NORM_ROWS) {
        const u64 at = (u64)row * channels + channel;
        const Complex<T> value = z[at];
        const T x = value.re - m[0], v = value.im - m[1];
        const Complex<T> out = {m[2] * x + m[3] * v + m[6], m[4] * x + m[5] * v + m[7]};
        y[at] = out;
    }
}

// partial sums of g, x̄g and xg with x the centred input: out (blocks of rows, channels, 6)
template <class T>
__global__ void norm_gradient_sums(const Complex<T> *z, const Complex<T> *gradient, const T *map, double *out, u32 rows, u32 channels) {
    const u32 channel = blockIdx.x * NORM_CHANNELS + threadIdx.x, last = least((blockIdx.y + 1) * (u32)NORM_BLOCK, rows);
    double sums[6] = {0, 0, 0, 0, 0, 0};
    if (channel < channels) {
        const T mx = map[8 * (u64)channel], my = map[8 * (u64)channel + 1];
#pragma unroll 4
        for (u32 row = blockIdx.y * NORM_BLOCK + threadIdx.y; row < last; row += NORM_ROWS) {
            const u64 at = (u64)row * channels + channel;
            const Complex<T> value = z[at], g = gradient[at];
            const double x = value.re - mx, y = value.im - my, a = (double)g.re * x, b = (double)g.im * y, c = (double)g.im * x, d = (double)g.re * y;
            sums[0] += g.re, sums[1] += g.im, sums[2] += a + b, sums[3] += c - d, sums[4] += a - b, sums[5] += c + d;
        }
    }
    store_sums<6>(sums, out, channel, channels);
}

// For each channel: gradients of weight (channels, 3) and bias (channels, 2), each null where not wanted, and the map (channels, 11) of
// the gradient of z: mean, the transposed matrix, the symmetric one on the centred input, the shift.  Formulas: nn/norm.py.
template <class T>
__global__ void norm_backward(const double *partial, const double *state, const T *weight, T *weight_gradient, T *bias_gradient, T *map, u32 rows,
                              u32 channels, u32 blocks) {
    const u32 channel = blockIdx.x * NORM_TILE + threadIdx.x;
    double sums[6];
    gather_sums<6>(partial, blocks, channel, channels, sums);
    if (threadIdx.y > 0 || channel >= channels) return;
    const double *total = sums, *gp = sums + 2, *gq = sums + 4;
    const NormState &s = ((const NormState *)state)[channel];
    double scale = 1, skew[2] = {0, 0};
    if (weight) {
        scale = ((double)weight[3 * channel] + weight[3 * channel + 1]) / 2;
        skew[0] = ((double)weight[3 * channel] - weight[3 * channel + 1]) / 2, skew[1] = weight[3 * channel + 2];
    }
    if (weight_gradient) {
        const double g_scale = s.p0 * gp[0] + gq[0] * s.q0[0] + gq[1] * s.q0[1];
        const double g_skew[2] = {gp[0] * s.q0[0] - gp[1] * s.q0[1] + gq[0] * s.p0, gp[0] * s.q0[1] + gp[1] * s.q0[0] + gq[1] * s.p0};
        T *out = weight_gradient + 3 * (u64)channel;
        out[0] = (g_scale + g_skew[0]) / 2, out[1] = (g_scale - g_skew[0]) / 2, out[2] = g_skew[1];
    }
    if (bias_gradient) bias_gradient[2 * channel] = total[0], bias_gradient[2 * channel + 1] = total[1];
    const double gp0 = scale * gp[0] + gq[0] * skew[0] + gq[1] * skew[1];
    const double gq0[2] = {gp[0] * skew[0] + gp[1] * skew[1] + scale * gq[0], gp[0] * skew[1] - gp[1] * skew[0] + scale * gq[1]};
    const double along = gq0[0] * s.q0[0] + gq0[1] * s.q0[1];
    const double gt = gp0 / (2 * s.delta) - along / s.t, gdelta = gt / s.t - (gp0 * s.t / (2 * s.delta) + along) / s.delta;
    const double gtrace = gt / (2 * s.t) + gdelta * (s.free != 0 ? s.trace / (4 * s.delta) : s.delta / s.trace);
    const double back = s.free != 0 ? gdelta / (4 * s.delta) : 0, n = rows;
    const double gkappa[2] = {-gq0[0] / (2 * s.delta * s.t) - back * s.kappa[0], -gq0[1] / (2 * s.delta * s.t) - back * s.kappa[1]};
    const double m00 = s.p[0] + s.q[0], m01 = s.q[1] - s.p[1], m10 = s.p[1] + s.q[1], m11 = s.p[0] - s.q[0];
    T *m = map + 11 * (u64)channel;
    m[0] = s.mean[0], m[1] = s.mean[1], m[2] = m00, m[3] = m10, m[4] = m01, m[5] = m11;
    m[6] = 2 / n * (gtrace + gkappa[0]), m[7] = 2 / n * gkappa[1], m[8] = 2 / n * (gtrace - gkappa[0]);
    m[9] = -(m00 * total[0] + m10 * total[1]) / n, m[10] = -(m01 * total[0] + m11 * total[1]) / n;
}

template <class T>
__global__ void norm_gradient(const Complex<T> *z, const Complex<T> *gradient, const T *map, Complex<T> *out, u32 rows, u32 channels) {
    const u32 channel = blockIdx.x * NORM_CHANNELS + threadIdx.x, first = (gridDim.y - 1 - blockIdx.y) * NORM_BLOCK;
    const u32 last = least(first + NORM_BLOCK, rows);
    if (channel >= channels) return;
    T m[11];
    for (int i = 0; i < 11; ++i) m[i] = map[11 * (u64)channel + i];
#pragma unroll 4
    for (u32 row = first + threadIdx.y; row < last; row += NORM_ROWS) {
        const u64 at = (u64)row * channels + channel;
        const Complex<T> value = z[at], g = gradient[at];
        const T x = value.re - m[0], y = value.im - m[1];
        const Complex<T> dz = {m[2] * g.re + m[3] * g.im + m[6] * x + m[7] * y + m[9], m[4] * g.re + m[5] * g.im + m[7] * x + m[8] * y + m[10]};
        out[at] = dz;
    }
}
