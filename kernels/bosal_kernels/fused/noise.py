"""The noise specification of `bosal_kernels.noise` on a device, word for word.

Logarithms of a token's noise are taken in float64 as there: few tokens of a row ever need one, and
so a draw is the same bits on every machine.
"""

import triton
import triton.language as tl

# Ten times what `nearly_negative_log` may be off.
_SLACK = tl.constexpr(0.001)


@triton.jit
def philox_words(key, position, counter, purpose: tl.constexpr):
    """Return the four words of philox4x32-7 of (counter, position, purpose), uint32 each.

    `key` and `position` are int64 scalars, `counter` is int32.
    """
    c0 = counter.to(tl.uint32)
    c1 = position.to(tl.uint32)
    c2 = (position >> 32).to(tl.uint32)
    c3 = tl.full((), purpose, tl.uint32)
    k0 = key.to(tl.uint32)
    k1 = (key >> 32).to(tl.uint32)
    FIRST: tl.constexpr = 0xD2511F53
    SECOND: tl.constexpr = 0xCD9E8D57
    for number in tl.static_range(7):
        if number > 0:
            k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
            k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
        # One wide multiplication gives both halves.
        left = c2.to(tl.uint64) * SECOND
        right = c0.to(tl.uint64) * FIRST
        c0 = (left >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (right >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = left.to(tl.uint32)
        c3 = right.to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def exponential(word):
    """Return X(h) = -log1p(-min((f32(h) + .5) 2^-32, 1 - 2^-24)), float32."""
    uniform = (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    u = tl.minimum(uniform, 0.999999940395355224609375).to(tl.float64)
    # 1 - u is exact where u is not small; elsewhere five terms leave less than 2^-52.
    series = u + u * u * (0.5 + u * (1.0 / 3.0 + u * (0.25 + u * 0.2)))
    return tl.where(u < 0.0009765625, series, -tl.log(1.0 - u)).to(tl.float32)


@triton.jit
def negative_log(value):
    """Return -ln of float32 values, through float64."""
    return (-tl.log(value.to(tl.float64))).to(tl.float32)


@triton.jit
def nearly_negative_log(word):
    """Return -ln(X(h) / 64) to 1e-4, by float32 logarithms alone."""
    u = tl.minimum((word.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.999999940395355224609375)
    # 1 - u would lose what a small u is.
    series = u + u * u * (0.5 + u * (0.3333333333333333 + u * 0.25))
    drawn = tl.where(u < 0.015625, series, -tl.log(1.0 - u))
    return -tl.log(drawn * 0.015625)


@triton.jit
def group_noise(key, position, GROUPS: tl.constexpr):
    """Return bounds of N_j, and the lane whose noise it is, of groups 0 .. GROUPS - 1.

    Bounds serve to say which groups are read, and many devices have few units for float64.
    """
    w0, w1, w2, w3 = philox_words(key, position, tl.arange(0, GROUPS // 2), 1)
    # Two groups share a block.
    near = nearly_negative_log(tl.join(w0, w2).reshape([GROUPS]))
    lane = (tl.join(w1, w3).reshape([GROUPS]) >> 26).to(tl.int32)
    return near - _SLACK, near + _SLACK, lane


@triton.jit
def token_noise(key, position, group, LANES: tl.constexpr):
    """Return g_t, float32 [LANES], of the 64 tokens of each of LANES / 64 groups.

    `group` is int32 [LANES], the same number for 64 lanes each.
    """
    place = tl.arange(0, LANES) % 64
    w0, w1, w2, w3 = philox_words(key, position, group >> 1, 1)
    is_odd = (group & 1) != 0
    smallest = exponential(tl.where(is_odd, w2, w0)) * 0.015625
    lane = (tl.where(is_odd, w3, w1) >> 26).to(tl.int32)
    # One block serves four tokens.
    first = tl.max(tl.reshape(group, [LANES // 4, 4]), 1) * 16 + tl.arange(0, LANES // 4) % 16
    w0, w1, w2, w3 = philox_words(key, position, first, 0)
    word = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape([LANES])
    return negative_log(smallest + tl.where(place == lane, 0.0, exponential(word)))


@triton.jit
def noise_of(key, position, token):
    """Return g_t, float32, of any tokens, int32."""
    w0, w1, w2, w3 = philox_words(key, position, token >> 7, 1)
    is_odd = (token & 64) != 0
    smallest = exponential(tl.where(is_odd, w2, w0)) * 0.015625
    lane = (tl.where(is_odd, w3, w1) >> 26).to(tl.int32)
    w0, w1, w2, w3 = philox_words(key, position, token >> 2, 0)
    even = tl.where((token & 2) == 0, w0, w2)
    odd = tl.where((token & 2) == 0, w1, w3)
    word = tl.where((token & 1) == 0, even, odd)
    return negative_log(smallest + tl.where((token & 63) == lane, 0.0, exponential(word)))


@triton.jit
def coin(key, position):
    """Return the uniform in (0, 1), float64, of chance that is not the draw."""
    w0, _w1, _w2, _w3 = philox_words(key, position, tl.arange(0, 1), 2)
    return tl.max((w0.to(tl.float64) + 0.5) * 2.3283064365386963e-10, 0)
